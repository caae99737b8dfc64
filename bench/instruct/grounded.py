"""The kinds that need no language model: whether their answers are true, and whether the picture is needed for them.

Two sources: 2,000 scenes of the sample world with a seed that nothing else uses, in which texts are planted; and a
table of pictures whose objects go together as in life, some very often, for the balance of yes and no. Answers are
checked against the scenes' pixels, not by the code that made them.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter, defaultdict
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from bench.goals import print_goal
from bench.instruct._truth import Asked, Truth, is_true
from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds import TemplateKind, find_kind, kind_names
from stages.sample.world import scene_of

SEED, ROWS, PART_ROWS = 9041, 2000, 500
_OFTEN = 20
_TEXTS = (
    "EXIT", "Open 24 h", "No. 7", "STOP", "Café", "50% off", "Platform 3", "push", "Zürich Hbf", "CAUTION wet floor",
)  # fmt: skip
_GROUPS = (
    "fork knife plate bowl cup bottle oven sink", "car bus bicycle truck road crossing lamp",
    "boat gull buoy pier anchor lighthouse", "desk laptop keyboard mouse monitor printer",
    "horse cow fence barn tractor goose", "racket ball net umpire bench cap",
)  # fmt: skip


@dataclass(frozen=True)
class Said:
    """One turn about one picture."""

    row: int
    turn: Turn
    asked: Asked


def main(quick: bool) -> None:
    rows = 400 if quick else ROWS
    truths = [truth_of(row) for row in range(rows)]
    said = said_of([truth.row for truth in truths])
    wrong = [each for each in said if not is_true(each.turn, each.asked, truths[each.row])]
    for each in wrong[:10]:
        print(f"wrong: row {each.row}, {each.turn}")
    by_kind = dict(sorted(Counter(each.turn.kind for each in said).items()))
    print_goal("instruct", "answers that agree with truth, %", 100 * (1 - len(wrong) / len(said)), 100,
               answers=len(said), kinds=by_kind, scenes=rows)  # fmt: skip
    table = _table(rows)
    for name, rows_, turns in (("scenes", [truth.row for truth in truths], said), ("table", table, said_of(table))):
        _presence(name, rows_, [each for each in turns if each.turn.kind == "presence"])


def _presence(name: str, rows: list[dict[str, Any]], said: list[Said]) -> None:
    shown = Counter(label for row in rows for label in {box["label"] for box in row["boxes"]})
    answers: dict[str, list[bool]] = defaultdict(list)
    for each in said:
        answers[each.asked["label"]].append(each.turn.answer == "yes")
    off = {label: 100 * abs(float(np.mean(given)) - 0.5) for label, given in answers.items()}
    often = [label for label in answers if shown[label] >= _OFTEN]
    worst = max((off[label] for label in often), default=0.0)
    print_goal("instruct", f"{name}: yes off half, worst object of {_OFTEN} pictures or more, points", worst, 2,
               least=False, objects=len(often), worst_of_all=round(max(off.values()), 2), all_objects=len(off),
               questions=len(said))  # fmt: skip
    together = _together(rows)
    absent = [each for each in said if each.turn.answer == "no"]
    hard = [any(together[each.asked["label"], label] for label in _labels(rows[each.row])) for each in absent]
    blind = {by: _blind(said, by) for by in ("object", "form", "question")}
    print_goal("instruct", f"{name}: a blind answerer on presence, points above chance", 100 * max(blind.values()) - 50,
               3, least=False, accuracy={by: round(share, 4) for by, share in blind.items()},
               absent_with_a_partner=round(float(np.mean(hard)), 4))  # fmt: skip


def _blind(said: list[Said], by: str) -> float:
    """Accuracy of the majority answer by the object, the form, or the whole question; mean over 20 halves."""
    keys = [
        {"object": each.asked["label"], "form": each.asked.form, "question": each.turn.question}[by] for each in said
    ]
    right = np.array([each.turn.answer == "yes" for each in said])
    shares = []
    for seed in range(20):
        learns = np.random.default_rng([SEED, seed]).permutation(len(said)) < len(said) // 2
        votes: Counter[str] = Counter()
        for place in np.flatnonzero(learns):
            votes[keys[place]] += 1 if right[place] else -1
        whole = right[learns].mean() >= 0.5
        says = [votes[keys[place]] > 0 if votes[keys[place]] else whole for place in np.flatnonzero(~learns)]
        shares.append(float((np.array(says) == right[~learns]).mean()))
    return float(np.mean(shares))


def said_of(rows: list[dict[str, Any]]) -> list[Said]:
    """Every template kind's turns about `rows`, part by part as the stage makes them."""
    said = []
    for name in kind_names():
        kind = find_kind(name)()
        if not isinstance(kind, TemplateKind):
            continue
        for begin in range(0, len(rows), PART_ROWS):
            part = rows[begin : begin + PART_ROWS]
            contexts = [Context.from_row(row) for row in part]
            chances = [random.Random(f"{SEED}/{context.sample_id}/{name}") for context in contexts]
            for place, turns in enumerate(kind.turns_of(contexts, chances)):
                said += [Said(begin + place, turn, _asked(kind, turn)) for turn in turns]
    return said


def _asked(kind: TemplateKind, turn: Turn) -> Asked:
    """What a question asks about, by the form that it was written in."""
    module = import_module(type(kind).__module__)
    forms = [form for forms in vars(module).values() if isinstance(forms, tuple) for form in forms]
    found = [
        (form, match) for form in forms if isinstance(form, str) and (match := _pattern(form).fullmatch(turn.question))
    ]
    # Of two forms that fit, the one with more words of its own was meant.
    form, match = max(found, key=lambda pair: len(pair[0]))
    words = {
        name: re.sub(r"^an? ", "", word) if kind.name == "presence" else word
        for name, word in match.groupdict().items()
    }
    return Asked(words, form)


def _pattern(form: str) -> re.Pattern[str]:
    parts = [re.escape(text) + (f"(?P<{name}>.+)" if name else "") for text, name, *_ in string.Formatter().parse(form)]
    return re.compile("".join(parts))


def truth_of(row: int) -> Truth:
    """A scene of the world, with one or two texts planted in every third."""
    scene, chance = scene_of(SEED, row), random.Random(f"{SEED}/{row}/text")
    width, height = scene.picture.size
    texts = []
    for number in range(chance.randint(1, 2) if row % 3 == 0 else 0):
        box = (chance.randint(0, width - 60), (height // 2) * number + chance.randint(0, height // 2 - 24), 56, 20)
        texts.append((chance.choice(_TEXTS), box))
    boxes = [dict(zip("xywh", placed.box, strict=True), label=placed.name) for placed in scene.objects]
    boxes += [dict(zip("xywh", box, strict=True), label=f"text: {text}") for text, box in texts]
    written = {"sample_id": f"{row:032x}", "captions": scene.captions, "boxes": boxes, "original_width": width,
               "original_height": height}  # fmt: skip
    return Truth(written, scene, texts)


def _table(rows: int) -> list[dict[str, Any]]:
    """Pictures of six places: what belongs to one goes together, the first most often; persons are anywhere."""
    rng = np.random.default_rng([SEED, 5])
    table = []
    for row in range(rows):
        group = _GROUPS[int(rng.integers(len(_GROUPS)))].split()
        often = 1 / np.arange(1, len(group) + 1)
        labels = list(rng.choice(group, size=int(rng.integers(1, 5)), replace=False, p=often / often.sum()))
        labels += ["person"] if rng.random() < 0.55 else []
        boxes = [{"label": str(label), "x": 10 * place, "y": 10, "w": 9, "h": 9} for place, label in enumerate(labels)]
        table.append({"sample_id": f"{row:032x}", "captions": [f"A picture with {' and '.join(labels)}."],
                      "boxes": boxes, "original_width": 100, "original_height": 100})  # fmt: skip
    return table


def _together(rows: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """How many pictures show both of two objects."""
    return Counter((one, other) for row in rows for one in _labels(row) for other in _labels(row) if one != other)


def _labels(row: dict[str, Any]) -> set[str]:
    return {box["label"] for box in row["boxes"]}
