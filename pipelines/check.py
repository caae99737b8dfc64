"""`sluice check`: the resolved recipe, the graph, the parts, the resources, and what a run would cost."""

from __future__ import annotations

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
    out.print(to_yaml(recipe), highlight=False, markup=False)
    graph = ["source", f"acquire ({recipe.acquire.actors} actors x {recipe.acquire.concurrency} connections)",
             f"embed ({recipe.select.clip.model}, {recipe.select.clip.actors} actors)", "select", "instruct", "feed",
             *(f"train {step.name} ({', '.join(step.learned())})" for step in recipe.train)]  # fmt: skip
    graph += ["evaluate"] if recipe.evaluate else []
    graph += ["export", "report"]
    out.print(" -> ".join(graph), highlight=False, soft_wrap=True)
    size = rows * recipe.acquire.size**2 * _BYTES_PER_PIXEL / 1e9
    out.print(f"{rows:,} rows in {parts} parts of {recipe.source.rows_per_part:,}; "
              f"at most {2 * size:.2f} GB of pictures (samples and shards)", highlight=False, soft_wrap=True,
              )  # fmt: skip
    workers = recipe.ray.train_workers
    out.print(f"Ray: {recipe.ray.address or f'local, {recipe.ray.num_cpus} logical CPUs'}; {workers} training workers",
              highlight=False)  # fmt: skip
    shares = {name: share for name, share in recipe.instruct.kinds.items() if issubclass(find_kind(name), EndpointKind)}
    if shares and recipe.instruct.endpoint:
        requests = round(rows * sum(shares.values()))
        tokens = requests * recipe.instruct.endpoint.max_tokens
        out.print(f"endpoint {recipe.instruct.endpoint.base_url}: at most {requests:,} requests and {tokens:,} tokens "
                  "of answers (were every row kept)", highlight=False, soft_wrap=True)  # fmt: skip
