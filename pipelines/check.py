"""`sluice check`: the resolved recipe, the graph, the parts, the resources, and what a run would cost."""

from __future__ import annotations

from functools import partial

from rich.console import Console

from models.full import picture_layout
from pipelines.cost import cost_lines, endpoint_cost
from pipelines.recipe import Recipe, to_yaml
from pipelines.stream import check_staged, check_streams
from stages.source import count_rows, read_source

#: Bytes a stored picture takes for each square pixel of its longer side, as seen on photographs at quality 95.
_BYTES_PER_PIXEL = 0.35


def describe(recipe: Recipe, out: Console, stream: bool = False) -> None:
    """Prints what a run of `recipe` would do, after looking at its source.

    Args:
        stream: whether the run is to stream.

    Raises:
        InputError: it cannot run that way; the source is missing, unreadable, or lacks a column that the recipe names;
            tiling, towers and connector do not fit together.
    """
    check_streams(recipe) if stream else check_staged(recipe)
    first = next(read_source(recipe.source))
    if recipe.select.clip.train is not None:
        next(read_source(recipe.select.clip.train.source))
    rows = count_rows(recipe.source) or 0
    parts = -(-rows // recipe.source.rows_per_part) if rows else 0
    size_gb = rows * recipe.acquire.size**2 * _BYTES_PER_PIXEL / 1e9
    layout = None if recipe.model is None else picture_layout(recipe.model)
    contact = type(recipe.acquire).model_fields["contact"].default
    say = partial(out.print, highlight=False, markup=False, soft_wrap=True)
    say(to_yaml(recipe))
    say(" -> ".join(_graph(recipe)))
    if stream:
        say(f"as a stream: train {recipe.train[0].name} begins when the first parts have come through feed")
    say(
        f"{rows:,} rows in {parts} parts of {recipe.source.rows_per_part:,}; "
        f"at most {2 * size_gb:.2f} GB of pictures (samples and shards)"
    )
    if layout is not None:
        side = recipe.acquire.size
        say(
            f"a picture of {side} x {side} pixels is {layout.tiles(side, side)} tiles and {layout.tokens(side, side)} "
            f"tokens; a pack has {recipe.feed.tokens_per_pack}"
        )
    where = recipe.ray.address or f"local, {recipe.ray.num_cpus} logical CPUs"
    say(f"Ray: {where}; {recipe.ray.train_workers} training workers")
    cost = endpoint_cost(recipe.instruct, rows or 1000, first)
    if cost and not rows:
        say("how many rows there are is not known before the run; for each 1,000 of them:")
    for line in cost_lines(recipe.instruct, cost) if cost else []:
        say(line)
    if recipe.acquire.contact == contact and not recipe.acquire.allow_networks:
        say("acquire.contact is not set: name an address where a host can complain to you")


def _graph(recipe: Recipe) -> list[str]:
    return [
        "source",
        *([f"filter (train {recipe.select.clip.model})"] if recipe.select.clip.train else []),
        f"acquire ({recipe.acquire.actors} actors x {recipe.acquire.concurrency} connections)",
        *(
            f"embed {name or 'clip'} ({clip.model}, {clip.actors} actors)"
            for name, clip in {"": recipe.select.clip, **recipe.select.models}.items()
        ),
        "select",
        "instruct",
        "feed",
        *(f"train {step.name} ({', '.join(step.learned())})" for step in recipe.train),
        *(["evaluate"] if recipe.evaluate else []),
        "export",
        "report",
    ]
