"""Select in a stream: part by part in their order, each against what was kept of the parts before it.

A part's decisions depend on it and on the parts before it, never on when they came; so a stream decides the same
however it is timed, and a run that was killed goes on with the same decisions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

from schemas.errors import InputError, SluiceError
from schemas.tables import MASKED
from schemas.vocabulary import DedupRule, Stage
from stages.embed import embed_stage
from stages.graph import PartOutput, PartWork
from stages.run_folder import WHOLE, RunFolder, work_key
from stages.select.candidates import Threshold
from stages.select.decide import (
    VERSION,
    Decided,
    asked_of,
    commit_whole,
    count_reasons,
    decide,
    earlier_runs,
    read_samples,
    read_vectors,
    tell,
)
from stages.select.decisions import read_decisions, stream_file
from stages.select.dedup.earlier import Earlier, join_earlier, read_kept
from stages.select.evaluation_sets import read_sets
from stages.select.inputs import content_of, models_of, read_references
from stages.select.rules import asked_rules
from stages.select.settings import SelectSettings

_TABLES = ("decisions", "scores", "masked", "contamination")


def check_select_streams(settings: SelectSettings) -> None:
    """Sees that every decision can be made before the last row is known.

    Raises:
        InputError: one cannot; the message names its key, and what a stream can ask instead.
    """
    for key, instead in _needs_all_rows(settings):
        raise InputError(f"select.{key} needs all rows at once, which a stream never has: {instead}, or run without "
                         "--stream")  # fmt: skip


class SelectWork(PartWork):
    """RUN/select/<table>/<part>.parquet: what `decide` says of one part, with what was kept before it as `earlier`.

    Parts must come in their order. What was kept of earlier parts stays in memory, with the columns that dedup
    compares: about 2 kB a picture.
    """

    stage = Stage.SELECT
    version = VERSION

    def __init__(self, run: RunFolder, settings: SelectSettings, holdout: float, seed: int) -> None:
        super().__init__(run)
        self.select, self.holdout, self.seed = settings, holdout, seed
        self._before: list[Earlier] = []
        self._next = 0  # the parts below it are in `_before`

    def settings(self) -> Any:
        return self._settings

    def key(self, part: int) -> str:
        embedded = [embed_stage(name) for name in models_of(self.select)]
        inputs = [self.run.output_digest(stage, part) for stage in (Stage.SOURCE, Stage.ACQUIRE, *embedded)]
        if part > 0:
            inputs.append(self.before(part))
        return work_key(self.stage, self.version, self.settings(), inputs)

    def compute(self, part: int) -> PartOutput:
        settings = self.select
        decided = decide(
            read_samples(self.run, [part], settings), read_vectors(self.run, [part], settings), settings,
            self.holdout, self.seed, self._references, None, self._sets, self._kept_before(part),
        )  # fmt: skip
        thresholds = json.dumps([asked.to_row() for asked in decided.thresholds])
        tables = {stream_file(name, part): getattr(decided, name) for name in _TABLES}
        files = {**tables, _thresholds_file(part): thresholds.encode()}
        return PartOutput(files, count_reasons(decided.decisions))

    @cached_property
    def _settings(self) -> Any:
        return [DedupRule.EARLIER.value, asked_of(self.select), content_of(self.select), self.holdout, self.seed]

    @cached_property
    def _references(self) -> Any:
        return read_references(self.run, self.select)

    @cached_property
    def _sets(self) -> Any:
        return read_sets(self.run, self.select.decontaminate, self.select.clip)

    @cached_property
    def _against(self) -> Earlier | None:
        return earlier_runs(self.run, self.select)

    def _kept_before(self, part: int) -> Earlier | None:
        if part < self._next:
            self._before, self._next = [], 0
        for number in range(self._next, part):
            ids = read_decisions(self.run, number, ["sample_id"], kept=True)["sample_id"].combine_chunks()
            dedup = self.select.dedup
            self._before.append(read_kept(self.run, number, ids, dedup.columns(), dedup.semantic is not None))
        self._next = part
        found = [*([] if self._against is None else [self._against]), *self._before]
        return join_earlier(found) if found else None


def write_stream_decisions(run: RunFolder, settings: SelectSettings, holdout: float, seed: int) -> dict[str, int]:
    """Puts the parts' decisions together in the files that `write_decisions` writes; returns the same counts.

    Raises:
        SluiceError: a part is not decided yet.
        InputError: rows reached select, and it keeps none.
    """
    parts = run.parts()
    decided = [run.output_digest(Stage.SELECT, part) for part in parts]
    if None in decided:
        raise SluiceError(f"select: part {decided.index(None)} is not decided yet; run the stream to its end first")
    key = work_key(Stage.SELECT, VERSION, [DedupRule.EARLIER.value, asked_of(settings), holdout, seed], decided)
    if not run.is_done(Stage.SELECT, WHOLE, key):
        tables = {name: run.read_table(f"select/{name}", parts) for name in _TABLES}
        # Parquet calls a list's items otherwise, which would give other bytes.
        tables["masked"] = tables["masked"].cast(MASKED)
        commit_whole(run, key, settings, Decided(**tables, thresholds=_joined_thresholds(run, parts)))
    return tell(run)


def _needs_all_rows(settings: SelectSettings) -> Iterator[tuple[str, str]]:
    """The keys that a stream cannot serve, each with what it can."""
    keep = settings.clip.keep
    if keep is not None and keep.top is not None:
        yield "clip.keep.top", "give select.clip.keep: {min: COSINE}"
    for rule, _ in asked_rules(settings.rules):
        if rule.needs_all_rows is not None:
            yield f"rules.{rule.name}", rule.needs_all_rows
    for name, head in settings.heads.items():
        if head.keep is not None and head.keep.top is not None:
            yield f"heads.{name}.keep.top", f"give select.heads.{name}.keep: {{min: SCORE}} or {{max: SCORE}}"
    for part in settings.strategy.parts():
        if (instead := part.needs_all_rows()) is not None:
            yield f"strategy: {part.name()}", instead


def _thresholds_file(part: int) -> str:
    return f"select/thresholds/{part:05d}.json"


def _joined_thresholds(run: RunFolder, parts: list[int]) -> list[Threshold]:
    """Each threshold with what it met over all parts; they ask for the same ones in the same order."""
    texts = run.map(lambda part: run.path(_thresholds_file(part)).read_text(), parts)
    asked = [[Threshold(**row) for row in json.loads(text)] for text in texts]
    return [
        replace(same[0], reached=sum(one.reached for one in same), dropped=sum(one.dropped for one in same))
        for same in zip(*asked, strict=True)
    ]
