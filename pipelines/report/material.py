"""What all sections of the report stand on: the run, its recipe, its rows, and what was counted over them."""

from __future__ import annotations

import json
from collections import Counter
from functools import cached_property
from typing import Any

import pyarrow.compute as pc

from pipelines.recipe import Recipe, load_recipe
from pipelines.report.rows import Rows
from stages.run_folder import RunFolder
from stages.store import read_parquet


class Material:
    """One run.

    Attributes:
        rows: its rows; only where `has_ledger`.

    Raises:
        InputError: the folder holds no recipe, or one that this version does not read.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.recipe: Recipe = load_recipe(run.path("recipe.yaml"))
        self.rows = Rows(run)

    @property
    def has_ledger(self) -> bool:
        return any(self.run.path("ledger").glob("[0-9]*.parquet"))

    @cached_property
    def select_facts(self) -> dict[str, Any]:
        """What stands in RUN/select.json; empty before it is there."""
        path = self.run.path("select.json")
        return json.loads(path.read_text()) if path.exists() else {}

    @cached_property
    def said(self) -> dict[str, Any] | None:
        """Conversations and turns, conversations by kind and origin, turns by kind; None before there are any."""
        number = turns = 0
        origins: Counter[tuple[str, str, str | None, str | None]] = Counter()
        kinds: Counter[str] = Counter()
        for part in self.run.parts():
            path = self.run.table_path("conversations", part)
            if path.exists():
                table = read_parquet(path, columns=["kind", "origin", "model", "prompt_version", "turns"])
                number += len(table)
                turns += pc.sum(pc.list_value_length(table["turns"])).as_py() or 0
                keys = ["kind", "origin", "model", "prompt_version"]
                for row in table.group_by(keys).aggregate([([], "count_all")]).to_pylist():
                    origins[row["kind"], row["origin"], row["model"], row["prompt_version"]] += row["count_all"]
                counted = pc.value_counts(pc.struct_field(pc.list_flatten(table["turns"]), "kind"))
                kinds.update({row["values"]: row["counts"] for row in counted.to_pylist()})
        ordered = sorted(origins.items(), key=lambda item: -item[1])
        return {"number": number, "turns": turns, "origins": ordered, "kinds": kinds} if number else None

    @cached_property
    def evaluated(self) -> dict[str, Any] | None:
        """What stands in RUN/eval.json."""
        path = self.run.path("eval.json")
        return json.loads(path.read_text()) if path.exists() else None
