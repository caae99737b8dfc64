"""`sluice check`: the resolved recipe, the graph, the parts, the resources, and what a run would cost."""

from __future__ import annotations

from functools import partial

from rich.console import Console

from pipelines.recipe import Recipe, to_yaml
from stages.instruct.kinds import EndpointKind, find_kind
from stages.source import count_rows, read_source

#: Bytes a stored picture takes for each square pixel of its longer side, as seen on photographs at quality 95.
_BYTES_PER_PIXEL = 0.35


def describe(recipe: Recipe, out: Console) -> None:
    """Prints what a run of `recipe` would do, after looking at its source.

    Raises:
        InputError: the source is missing, unreadable, or lacks a column that the recipe names.
    """
    next(read_source(recipe.source))
    rows = count_rows(recipe.source) or 0
    parts = -(-rows // recipe.source.rows_per_part) if rows else 0
    size_gb = rows * recipe.acquire.size**2 * _BYTES_PER_PIXEL / 1e9
    contact = type(recipe.acquire).model_fields["contact"].default
    say = partial(out.print, highlight=False, markup=False, soft_wrap=True)
    say(to_yaml(recipe))
    say(" -> ".join(_graph(recipe)))
    say(
        f"{rows:,} rows in {parts} parts of {recipe.source.rows_per_part:,}; "
        f"at most {2 * size_gb:.2f} GB of pictures (samples and shards)"
    )
    where = recipe.ray.address or f"local, {recipe.ray.num_cpus} logical CPUs"
    say(f"Ray: {where}; {recipe.ray.train_workers} training workers")
    shares = [share for name, share in recipe.instruct.kinds.items() if issubclass(find_kind(name), EndpointKind)]
    if shares and recipe.instruct.endpoint:
        requests = round(rows * sum(shares))
        tokens = requests * recipe.instruct.endpoint.max_tokens
        say(
            f"endpoint {recipe.instruct.endpoint.base_url}: at most {requests:,} requests and {tokens:,} tokens "
            "of answers (were every row kept)"
        )
    if recipe.acquire.contact == contact and not recipe.acquire.allow_networks:
        say("acquire.contact is not set: name an address where a host can complain to you")


def _graph(recipe: Recipe) -> list[str]:
    return [
        "source",
        f"acquire ({recipe.acquire.actors} actors x {recipe.acquire.concurrency} connections)",
        f"embed ({recipe.select.clip.model}, {recipe.select.clip.actors} actors)",
        "select",
        "instruct",
        "feed",
        *(f"train {step.name} ({', '.join(step.learned())})" for step in recipe.train),
        *(["evaluate"] if recipe.evaluate else []),
        "export",
        "report",
    ]
