"""What each section of the report says, as plain values for the template. None where its data is not there yet."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.recipe import Recipe, load_recipe
from pipelines.report.charts import Chart, histogram_chart, line_chart
from pipelines.report.model_view import ModelView
from pipelines.report.rows import Rows, Shown, data_url, open_rgb, thumbnail
from schemas.conversation import Conversation
from schemas.vocabulary import Reason, Stage, State
from stages.graph import count_over_parts
from stages.ledger import funnel
from stages.run_folder import WHOLE, RunFolder
from stages.store import read_parquet
from stages.train.logs import log_path, read_log

# How many of each the report shows: about sixty pictures in all, which keeps the page well under 3 MB.
_KEPT_PICTURES = 10
_DROPPED_PICTURES = 5
_FAILED_ROWS = 2
_GROUPS_A_KIND = 2
_DUPLICATES_A_GROUP = 2
_CONVERSATIONS = 6
_QUESTIONS = 9

#: Vectors are stored in half precision, so a cosine is this uncertain.
_ROUNDING = 2e-3

_DUPLICATES = {
    Reason.DUPLICATE_EXACT: "exact",
    Reason.DUPLICATE_PERCEPTUAL: "perceptual",
    Reason.DUPLICATE_SEMANTIC: "semantic",
}
_ANSWERERS = {
    "model": "the trained model, with the picture",
    "majority": "always the most frequent answer of the kind in the training data",
    "blank": "the trained model, with one plain colour for a picture",
    "shuffled": "the trained model, with the picture of another sample",
}


@dataclass(frozen=True)
class Dropped:
    """Some of the `number` rows that were dropped for one reason."""

    reason: Reason
    number: int
    shown: list[Shown]

    @property
    def pictured(self) -> bool:
        return any(row.jpeg for row in self.shown)


@dataclass(frozen=True)
class Duplicate:
    """A row that was dropped for another.

    Attributes:
        bits: of 64 in which the two perceptual hashes differ.
        cosine: of the two pictures' CLIP vectors.
        direct: False where the two are tied by a third row only, which was dropped in turn.
    """

    row: Shown
    kind: str
    bits: int | None
    cosine: float | None
    direct: bool


class Sections:
    """The sections of one run's report.

    Raises:
        InputError: the folder holds no recipe, or one that this version does not read.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.recipe: Recipe = load_recipe(run.path("recipe.yaml"))
        self.rows = Rows(run)

    def headline(self) -> dict[str, Any]:
        """The figures at the top. Those that are not there yet are None."""
        source = self.run.manifest(Stage.SOURCE, WHOLE)
        counts = count_over_parts(self.run, "ledger", self.run.parts())
        evaluation = self.evaluated
        return {
            "rows": source["counts"]["rows"] if source else None,
            "kept": counts.get("kept", 0) if self._has_ledger() else None,
            "conversations": self.said["number"] if self.said else None,
            "turns": self.said["turns"] if self.said else None,
            "tokens": self._training_tokens(),
            "accuracy": evaluation,
            "language": self.recipe.model is not None,
        }

    def funnel(self) -> dict[str, Any] | None:
        """What was dropped, by stage and reason, with what is left after each."""
        if not self._has_ledger():
            return None
        lines = funnel(self.run)
        total = lines[0]["left"]
        stages: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in lines[1:]:
            info = Reason(line["reason"]).info
            stages[line["stage"]].append({**line, "text": info.text, "transient": info.transient})
        splits = Counter(self.rows.kept()["split"].to_pylist())
        return {
            "total": total,
            "kept": lines[-1]["left"],
            "stages": [
                {"name": name, "rows": sum(line["rows"] for line in found), "left": found[-1]["left"], "lines": found}
                for name, found in stages.items()
            ],
            "transient": sum(line["rows"] for found in stages.values() for line in found if line["transient"]),
            "splits": {name: splits[name] for name in ("train", "val") if splits[name]},
        }

    def scores(self) -> dict[str, Any] | None:
        """The histogram of CLIP scores by what became of the rows."""
        if not self._has_ledger():
            return None
        ledger = self.rows.ledger.filter(pc.is_valid(self.rows.ledger["clip_score"]))
        if not len(ledger):
            return None
        low = pc.fill_null(pc.equal(ledger["reason"], Reason.CLIP_SCORE.value), False)
        kept = pc.is_null(ledger["reason"])
        other = pc.invert(pc.or_(low, kept))
        decided = self._select_facts()
        groups = [
            (name, style, ledger["clip_score"].filter(mask).to_numpy())
            for name, style, mask in (
                ("kept", "kept", kept),
                ("dropped for another reason", "other", other),
                ("dropped for the score", "dropped", low),
            )
        ]
        clip = self.recipe.select.clip
        return {
            "chart": histogram_chart(groups, decided.get("threshold"), "CLIP score"),
            "threshold": decided.get("threshold"),
            "keep": clip.keep,
            "model": f"{clip.model} ({clip.pretrained})",
            "median": float(np.median(np.concatenate([values for _, _, values in groups]))),
        }

    def gallery(self) -> dict[str, Any] | None:
        """Kept rows, and dropped ones by reason: with their pictures, or with what was answered instead.

        Duplicates are left to `duplicates`, where they stand beside the kept ones.
        """
        if not self._has_ledger():
            return None
        kept = self.rows.kept()
        chosen: list[tuple[Reason, int, list[str]]] = []
        for line in funnel(self.run)[1:]:
            reason = Reason(line["reason"])
            if reason in _DUPLICATES:
                continue
            number = _DROPPED_PICTURES if reason.info.stage not in (Stage.SOURCE, Stage.ACQUIRE) else _FAILED_ROWS
            chosen.append((reason, line["rows"], self.rows.spread(self.rows.dropped_for(reason.value), number)))
        shown = self.rows.show(
            [*self.rows.spread(kept, _KEPT_PICTURES), *(each for _, _, ids in chosen for each in ids)]
        )
        groups = [Dropped(reason, number, [shown[identity] for identity in ids]) for reason, number, ids in chosen]
        return {
            "kept": [row for row in shown.values() if row.state == State.KEPT],
            "kept_rows": len(kept),
            "pictured": [group for group in groups if group.pictured],
            "failed": [group for group in groups if not group.pictured],
        }

    def duplicates(self) -> dict[str, Any] | None:
        """Groups of duplicates: the one that was kept, then those that were dropped for it."""
        if not self._has_ledger():
            return None
        reasons = pa.array([reason.value for reason in _DUPLICATES])
        table = self.rows.ledger.filter(pc.is_in(self.rows.ledger["reason"], reasons))
        table = table.filter(pc.is_valid(table["duplicate_of"])).select(["sample_id", "reason", "duplicate_of"])
        groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for row in table.to_pylist():
            groups[row["duplicate_of"]].append((row["sample_id"], row["reason"]))
        keepers = self._telling_groups(groups)
        members = {keeper: sorted(groups[keeper])[:_DUPLICATES_A_GROUP] for keeper in keepers}
        shown = self.rows.show([*keepers, *(identity for found in members.values() for identity, _ in found)])
        cosines = self.rows.cosines([(keeper, identity) for keeper in keepers for identity, _ in members[keeper]])
        return {
            "groups": [
                {
                    "kept": shown[keeper],
                    "dropped": [
                        self._duplicate(shown[keeper], shown[identity], Reason(reason), cosines.get((keeper, identity)))
                        for identity, reason in members[keeper]
                    ],
                    "more": len(groups[keeper]) - len(members[keeper]),
                }
                for keeper in keepers
            ],
            "number": len(groups),
            "rows": len(table),
        }  # fmt: skip

    def conversations(self) -> dict[str, Any] | None:
        """Some conversations as the model gets them, and how many there are of which origin."""
        if self.said is None or self.recipe.model is None:
            return None
        model = ModelView(self.recipe.model)
        chosen = [Conversation.from_row(row) for row in self._telling_conversations()]
        shown = self.rows.show(conversation.sample_id for conversation in chosen)
        cards = []
        for conversation in chosen:
            row = shown[conversation.sample_id]
            picture = None if row.jpeg is None else open_rgb(row.jpeg)
            cards.append({
                "said": conversation,
                "row": row,
                "original": picture and thumbnail(picture),
                "size": picture.size if picture else None,
                "seen": picture and data_url(model.picture(picture), "PNG", optimize=True),
                "view": model.view(conversation),
            })  # fmt: skip
        rejected = {
            name.removeprefix("rejected_"): number
            for name, number in count_over_parts(self.run, "instruct", self.run.parts()).items()
            if name.startswith("rejected_")
        }
        return {"cards": cards, "origins": self.said["origins"], "side": model.side, "exact": model.exact,
                "rejected": rejected}  # fmt: skip

    def training(self) -> list[dict[str, Any]] | None:
        """For every step that has begun its losses and rates."""
        steps = []
        for step in self.recipe.train:
            lines = read_log(log_path(self.run, step.name))
            if not lines:
                continue
            number = [line["step"] for line in lines]
            loss = [line["loss"] for line in lines]
            steps.append({
                "name": step.name,
                "learn": step.learned(),
                "done": self.run.manifest(Stage.TRAIN, step.name) is not None,
                "steps": number[-1],
                "of": lines[-1].get("steps", number[-1]),
                "first": loss[0],
                "last": loss[-1],
                "tokens_per_s": float(np.mean([line.get("tokens_per_s", 0.0) for line in lines])),
                "filled": float(np.mean([line.get("filled", 0.0) for line in lines])),
                "plan": (self.run.manifest("plan", step.name) or {"counts": {}})["counts"],
                "loss": line_chart([("loss", number, loss)], "optimizer step", "loss"),
                "rates": _rate_chart(number, [line["lr"] for line in lines]),
            })  # fmt: skip
        return steps or None

    def evaluation(self) -> dict[str, Any] | None:
        """Accuracy by kind beside the blind baselines, and some questions with what was answered."""
        result = self.evaluated
        if result is None:
            return None
        known = [name for name in _ANSWERERS if name in result["accuracy"]]
        names = known + sorted(name for name in result["accuracy"] if name not in known)
        lines = [{"kind": "all", "questions": result["questions"], "accuracy": result["accuracy"]}]
        lines += [{"kind": kind, **found} for kind, found in sorted(result["kinds"].items())]
        asked = _telling_questions(result["examples"])
        shown = self.rows.show(example["sample_id"] for example in asked) if self._has_ledger() else {}
        return {
            **result,
            "names": names,
            "meanings": {name: _ANSWERERS.get(name, "") for name in names},
            "lines": lines,
            "asked": [{**example, "row": shown.get(example["sample_id"])} for example in asked],
        }

    def provenance(self) -> dict[str, Any]:
        """The resolved recipe, and the versions of what ran it."""
        path = self.run.path("recipe.yaml")
        text = path.read_text()
        comments = re.findall(r"^# (\S+) (\d\S*)$", text, re.MULTILINE)
        body = re.sub(r"\A(#[^\n]*\n)+", "", text)
        table = self.recipe.source.table
        return {
            "name": self.recipe.name,
            "table": table if isinstance(table, str) else ", ".join(table),
            "recipe": re.sub(r"(://)[^/@\s]+@", r"\1…@", body),  # a password in an address is not for readers
            "versions": comments,
            "started": datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }

    @cached_property
    def said(self) -> dict[str, Any] | None:
        """Number of conversations and turns, and conversations by kind and origin; None before there are any."""
        number = turns = 0
        origins: Counter[tuple[str, str, str | None, str | None]] = Counter()
        for part in self.run.parts():
            path = self.run.table_path("conversations", part)
            if path.exists():
                table = read_parquet(path, columns=["kind", "origin", "model", "prompt_version", "turns"])
                number += len(table)
                turns += pc.sum(pc.list_value_length(table["turns"])).as_py() or 0
                columns = (table[name].to_pylist() for name in ("kind", "origin", "model", "prompt_version"))
                origins.update(zip(*columns, strict=True))
        ordered = sorted(origins.items(), key=lambda item: -item[1])
        return {"number": number, "turns": turns, "origins": ordered} if number else None

    @cached_property
    def evaluated(self) -> dict[str, Any] | None:
        """What stands in RUN/eval.json."""
        path = self.run.path("eval.json")
        return json.loads(path.read_text()) if path.exists() else None

    def _has_ledger(self) -> bool:
        return any(self.run.path("ledger").glob("[0-9]*.parquet"))

    def _select_facts(self) -> dict[str, Any]:
        path = self.run.path("select.json")
        return json.loads(path.read_text()) if path.exists() else {}

    def _training_tokens(self) -> dict[str, int] | None:
        """Tokens of the training conversations, those that carry loss, and tokens over all steps and epochs."""
        if self.recipe.model is None or not any(self.run.path("lengths").glob("[0-9]*.parquet")):
            return None
        lengths = self.run.read_table("lengths", columns=["split", "length", "supervised"])
        lengths = lengths.filter(pc.equal(lengths["split"], "train"))
        plans = [self.run.manifest("plan", step.name) for step in self.recipe.train]
        return {
            "once": pc.sum(lengths["length"]).as_py() or 0,
            "supervised": pc.sum(lengths["supervised"]).as_py() or 0,
            "planned": sum(plan["counts"]["tokens"] for plan in plans if plan),
        }

    def _duplicate(self, kept: Shown, dropped: Shown, reason: Reason, cosine: float | None) -> Duplicate:
        bits = None
        if kept.phash and dropped.phash:
            bits = (int(kept.phash, 16) ^ int(dropped.phash, 16)).bit_count()
        dedup = self.recipe.select.dedup
        # The row it was found to be near may itself have been dropped for another one, which is not so near.
        direct = (
            reason is Reason.DUPLICATE_EXACT
            or (reason is Reason.DUPLICATE_PERCEPTUAL
                and (bits is None or dedup.perceptual is None or bits <= dedup.perceptual.max_hamming))
            or (reason is Reason.DUPLICATE_SEMANTIC
                and (cosine is None or dedup.semantic is None or cosine >= dedup.semantic.min_cosine - _ROUNDING))
        )  # fmt: skip
        return Duplicate(dropped, _DUPLICATES[reason], bits, cosine, direct)

    def _telling_groups(self, groups: dict[str, list[tuple[str, str]]]) -> list[str]:
        """Keepers with the most duplicates of each kind."""
        chosen: list[str] = []
        for reason in _DUPLICATES:
            of_kind = [keeper for keeper, found in groups.items() if any(kind == reason for _, kind in found)]
            of_kind.sort(key=lambda keeper: (-sum(kind == reason for _, kind in groups[keeper]), keeper))
            chosen += [keeper for keeper in of_kind if keeper not in chosen][:_GROUPS_A_KIND]
        return chosen

    def _telling_conversations(self) -> list[dict[str, Any]]:
        """Conversations of every origin and kind in turn, a language model's first, each about another picture."""
        by_kind: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for part in self.run.parts():
            path = self.run.table_path("conversations", part)
            if not path.exists():
                continue
            table = read_parquet(path).sort_by("conversation_id")
            for kind, origin, *_ in {key for key, _ in (self.said or {"origins": []})["origins"]}:
                of_kind = table.filter(pc.and_(pc.equal(table["kind"], kind), pc.equal(table["origin"], origin)))
                by_kind[origin, kind] += of_kind.slice(0, _CONVERSATIONS).to_pylist()
        chosen: list[dict[str, Any]] = []
        pictures: set[str] = set()
        for place in range(_CONVERSATIONS):
            for key in sorted(by_kind):
                found = [row for row in by_kind[key] if row["sample_id"] not in pictures]
                if place < len(by_kind[key]) and found and len(chosen) < _CONVERSATIONS:
                    chosen.append(found[0])
                    pictures.add(found[0]["sample_id"])
        return chosen


def _rate_chart(steps: list[int], rates: list[dict[str, float]]) -> Chart:
    """Learning rates as shares of each part's highest, so that parts with far different rates show in one chart."""
    series: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for part in rates[0]:
        values = [line[part] for line in rates]
        highest = max(values) or 1.0
        series[tuple(round(value / highest, 4) for value in values)].append(part)
    named = [(", ".join(parts), steps, list(shares)) for shares, parts in series.items()]
    return line_chart(named, "optimizer step", "learning rate as a share of its highest")


def _telling_questions(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Right and wrong answers of every kind in turn, each about another picture where there are enough."""
    by_sort: dict[tuple[str, bool], list[dict[str, Any]]] = defaultdict(list)
    for example in sorted(examples, key=lambda example: (example["sample_id"], example["question"])):
        by_sort[example["kind"], example["right"]].append(example)
    chosen: list[dict[str, Any]] = []
    pictures: set[str] = set()
    while len(chosen) < min(_QUESTIONS, len(examples)):
        before = len(chosen)
        for sort in sorted(by_sort, key=lambda sort: (not sort[1], sort[0])):
            found = [each for each in by_sort[sort] if each["sample_id"] not in pictures]
            if found and len(chosen) < _QUESTIONS:
                chosen.append(found[0])
                pictures.add(found[0]["sample_id"])
        if len(chosen) == before:
            break
    return sorted(chosen, key=lambda example: (example["kind"], not example["right"]))
