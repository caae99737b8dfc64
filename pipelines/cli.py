"""The command `sluice`. Exit status: 0 done; 1 the run failed and can be started again; 2 recipe or input is wrong."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from schemas.errors import InputError, SluiceError

app = typer.Typer(
    help="From a table of picture URLs to a trained vision-language model, with every row accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
#: Tables keep their shape in a log file, where there is no width to ask for.
out = Console(width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", 140)))

RecipeArgument = Annotated[Path, typer.Argument(help="A recipe: one YAML file. Examples lie in pipelines/recipes/.")]
RunArgument = Annotated[str, typer.Argument(help="A run folder, for example runs/demo or s3://bucket/demo.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over the recipe, e.g. source.table=my.parquet; repeatable.")
]
RunDirOption = Annotated[
    str | None, typer.Option(help="Where the run is written: a folder, or s3://bucket/NAME. [default: runs/NAME]")
]

StreamOption = Annotated[
    bool, typer.Option("--stream", help="Train on the first parts while the others are still being acquired.")
]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Turns Sluice's errors into one line on stderr and the exit status they bear."""

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        logging.getLogger("sluice").setLevel(logging.INFO)
        try:
            function(*args, **kwargs)
        except SluiceError as error:
            _fail(str(error), error.exit_status)
        except PermissionError as error:
            _fail(f"no permission for {error.filename or f'the store: {error}'}; choose another folder or mend its "
                  "permissions", 2)  # fmt: skip
        except KeyboardInterrupt:
            _fail("stopped; start the same command again and it goes on where it was", 1)
        except Exception as error:
            known = _known_cause(error)
            if known is None:
                raise
            _fail(str(known), known.exit_status)

    return app.command()(guarded)


def _fail(message: str, status: int) -> None:
    Console(stderr=True).print(f"sluice: {message}", style="bold red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(status)


def _known_cause(error: BaseException) -> SluiceError | None:
    """The Sluice error, full disk or silent store behind an error of Ray's, Prefect's or the store's."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, SluiceError):
            return current
        if isinstance(current, OSError) and current.errno == 28:
            return SluiceError(f"the disk is full ({current.filename}); free some room and start the run again")
        if type(current).__module__ == "botocore.exceptions":
            return SluiceError(f"the store failed: {current}; see that it runs and that the environment names it")
        current = getattr(current, "cause", None) or current.__cause__ or current.__context__
    return None


@command
def sample(
    folder: Annotated[Path, typer.Argument(help="Where the world is written.")],
    scenes: Annotated[int, typer.Option(help="Rows of the source table.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.", min=0)] = 0,
    rate: Annotated[
        list[str] | None, typer.Option(help="KIND=SHARE of rows with a kind of trouble, e.g. broken=0.1; repeatable.")
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="No trouble at all but what --rate asks for.")] = False,
    base_url: Annotated[str, typer.Option(help="Where the pictures will be served.")] = "http://127.0.0.1:8765",
    drawings: Annotated[
        Path | None, typer.Option(help="A folder of NAME.png and NAME.svg to compose scenes from. [default: OpenMoji]")
    ] = None,
) -> None:
    """Make a known world: scenes with captions and boxes, seeded trouble, and the truth about every row.

    Example: `sluice sample data/world --scenes 1000 --seed 3 --rate missing=0.1`, then `sluice serve data/world`.
    """
    from pydantic import ValidationError

    from pipelines.progress import meter
    from schemas.settings import explain
    from stages.sample import NoiseRates, make_world

    rates = (NoiseRates.clean() if clean else NoiseRates()).kinds()
    for text in rate or []:
        kind, _, share = text.partition("=")
        rates[kind] = share  # type: ignore[assignment]
    try:
        checked = NoiseRates.model_validate(rates)
    except ValidationError as error:
        raise explain(error, NoiseRates, "--rate") from None
    with meter("sample", scenes, "scenes") as progress:
        make_world(folder, scenes, seed, checked, base_url, drawings=drawings,
                   progress=lambda done: progress.advance(done - progress.done))  # fmt: skip
    out.print(f"{folder}: {scenes} rows in urls.parquet, the truth about them in truth.parquet")


@command
def serve(
    folder: Annotated[Path, typer.Argument(help="A world that `sluice sample` made.")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8765,
) -> None:
    """Serve a known world over HTTP on this machine, until it is interrupted.

    Example: `sluice serve data/world --port 8765`
    """
    from stages.sample.server import make_app
    from stages.sample.server import serve as serve_world

    world = make_app(folder)
    out.print(f"serving {folder} on http://127.0.0.1:{port} (Ctrl-C ends it)")
    serve_world(world, port=port)


@command
def render(
    folder: Annotated[Path, typer.Argument(help="Where conversations.json and the folder pictures are written.")],
    clock: Annotated[int, typer.Option(help="Pictures of clocks.", min=0)] = 0,
    chart: Annotated[int, typer.Option(help="Bar, line and pie charts, and tables.", min=0)] = 0,
    document: Annotated[int, typer.Option(help="Receipts, invoices and notices.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.", min=0)] = 0,
) -> None:
    """Draw clocks, charts and documents, with questions whose answers are exact, as a source in LLaVA's form.

    Example: `sluice render data/drawn --clock 500 --chart 500 --document 200 --seed 1`; a recipe takes them in by
    `source: {table: data/drawn/conversations.json, pictures: data/drawn/pictures}` and
    `instruct: {kinds: {source: 1.0}}`
    """
    from pipelines.progress import meter
    from stages.render.write import render as render_pictures

    numbers = {"clock": clock, "chart": chart, "document": document}
    if not sum(numbers.values()):
        raise InputError("say how many pictures are wanted, for example --clock 500 --chart 500 --document 200")
    with meter("render", sum(numbers.values()), "pictures") as progress:
        render_pictures(folder, numbers, seed, progress=lambda done: progress.advance(done - progress.done))
    out.print(f"{folder}: {sum(numbers.values())} pictures, their conversations and truth in conversations.json")


@command
def check(recipe: RecipeArgument, set_: SetOption = None, stream: StreamOption = False) -> None:
    """Validate a recipe, resolve it, and print the graph, the parts, the resources and a cost estimate.

    Example: `sluice check pipelines/recipes/demo.yaml --set select.keep.top=0.3`
    """
    from pipelines.check import describe
    from pipelines.recipe import load_recipe

    describe(load_recipe(recipe, set_), out, stream)


@command
def run(
    recipe: RecipeArgument,
    run_dir: RunDirOption = None,
    set_: SetOption = None,
    until: Annotated[str | None, typer.Option(help="The last stage to run: source, acquire, select, ...")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again for pictures that failed for a passing reason.")
    ] = False,
    stream: StreamOption = False,
) -> None:
    """Run a recipe. Started again after a failure or a kill, it does only what is missing.

    Example: `sluice run pipelines/recipes/demo.yaml --set source.table=my.parquet --run-dir runs/mine`
    """
    from pipelines.recipe import load_recipe
    from pipelines.run import run_recipe

    loaded = load_recipe(recipe, set_)
    run_recipe(
        loaded, run_dir or Path("runs") / loaded.name, until=until, retry_failed=retry_failed, out=out, stream=stream
    )


@command
def train(recipe: RecipeArgument, run_dir: RunDirOption = None, set_: SetOption = None) -> None:
    """Run only the training steps of a recipe, on the shards of a run. Started again, it goes on from its checkpoint.

    Example: `sluice train pipelines/recipes/demo.yaml --run-dir runs/demo --set train.1.packs_per_step=4`
    """
    from pipelines.recipe import load_recipe
    from pipelines.run import train_recipe

    loaded = load_recipe(recipe, set_)
    train_recipe(loaded, run_dir or Path("runs") / loaded.name, out)


@command
def status(run: RunArgument) -> None:
    """Show how far a run is: parts and rows by stage, the funnel so far, rates and time left.

    Example: `sluice status runs/demo`
    """
    from pipelines.status import show_status

    show_status(_folder(run), out)


@command
def report(run: RunArgument) -> None:
    """Write RUN/report.html: one page that shows what happened to the data and what the model learned.

    Example: `sluice report runs/demo`
    """
    from pipelines.report import write_report

    folder = _folder(run)
    write_report(folder)
    out.print(str(folder.path("report.html")), soft_wrap=True)


@command
def trace(
    run: RunArgument,
    key: Annotated[str, typer.Argument(help="A sample_id (or its first letters), a URL, or STEP:NUMBER.")],
) -> None:
    """Show all that happened to a sample, or the packs and samples of one optimizer step.

    Of a sample: stages, shard, conversations, packs and optimizer steps. NUMBER counts optimizer steps from 1.

    Example: `sluice trace runs/demo http://127.0.0.1:8765/pictures/0123.jpg`, `sluice trace runs/demo instruct:120`
    """
    from pipelines.trace import show_trace

    show_trace(_folder(run), key, out)


@command
def evaluate(run: RunArgument) -> None:
    """Ask the trained model held-out questions, beside blind baselines, and write RUN/eval.json.

    Example: `sluice evaluate runs/demo`
    """
    from pipelines.line import Line
    from pipelines.line import evaluate as evaluate_line
    from pipelines.recipe import load_recipe
    from pipelines.tables import evaluation_table

    folder = _folder(run)
    evaluate_line(Line(load_recipe(folder.path("recipe.yaml")), folder))
    out.print(evaluation_table(folder))


@command
def ask(
    model: Annotated[Path, typer.Argument(help="An exported model, for example runs/demo/model.")],
    picture: Annotated[Path, typer.Argument(help="A picture file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, tokens.", min=1)] = 64,
) -> None:
    """Ask a trained model about a picture. Decoding is greedy.

    Example: `sluice ask runs/demo/model data/demo/pictures/0123.jpg "How many objects are in the picture?"`
    """
    from models.export import ask as ask_model

    for path in (model, picture):
        if not path.exists():
            raise InputError(f"there is no {path}")
    sys.stdout.write(ask_model(model, picture, question, max_new_tokens) + "\n")


@command
def export(
    run: RunArgument,
    to: Annotated[str, typer.Option(help="transformers (RUN/model) or llava-json (RUN/llava.json).")] = "transformers",
) -> None:
    """Write what a run made in a form that other tools read.

    Example: `sluice export runs/demo --to llava-json`
    """
    from pipelines.line import Line, export_llava_json
    from pipelines.line import export as export_line
    from pipelines.recipe import load_recipe

    folder = _folder(run)
    if to == "transformers":
        export_line(Line(load_recipe(folder.path("recipe.yaml")), folder))
        out.print(str(folder.path("model")), soft_wrap=True)
    elif to == "llava-json":
        out.print(str(export_llava_json(folder)), soft_wrap=True)
    else:
        raise InputError(f"--to {to}: must be transformers or llava-json")


@command
def tokenizer(
    run: RunArgument,
    to: Annotated[Path, typer.Argument(help="The folder to write it to.")],
    like: Annotated[str, typer.Option(help="A tokenizer whose splitting, special tokens and template it takes over.")],
    size: Annotated[int, typer.Option(help="Tokens of its vocabulary.")] = 4096,
) -> None:
    """Learn a small tokenizer from a run's conversations, for a language model from scratch.

    Example: `sluice tokenizer runs/demo my-tokenizer --like data/models/smollm2`
    """
    from pipelines.tokenizer import train_tokenizer

    tokens = train_tokenizer(_folder(run), like, size, to)
    out.print(f"{to}: {tokens} tokens; set model.language.tokenizer to it", soft_wrap=True)


@command
def doctor(
    endpoint: Annotated[
        str | None, typer.Option(help="Base URL of an OpenAI-compatible server to look at too.")
    ] = None,
) -> None:
    """Say what this machine has and lacks for a run, each with the remedy.

    Example: `sluice doctor --endpoint http://127.0.0.1:8000/v1`
    """
    from pipelines.doctor import examine

    table = Table("", "what", "found", "remedy", box=None, pad_edge=False)
    findings = examine(Path("runs"), endpoint)
    for finding in findings:
        sign = {True: "[green]ok[/]", False: "[red]lacks[/]", None: "[yellow]none[/]"}[finding.ok]
        table.add_row(sign, finding.what, finding.found, finding.remedy)
    out.print(table)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


def _folder(run: str) -> Any:
    from stages.run_folder import RunFolder

    folder = RunFolder(run)
    if not folder.path("recipe.yaml").exists():
        raise InputError(f"{run} is not a run folder (it has no recipe.yaml); runs are made by `sluice run RECIPE`")
    return folder


def main() -> None:
    """The console script."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    app()


if __name__ == "__main__":
    main()
