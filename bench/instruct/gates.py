"""What the gates catch of planted bad turns and lose of good ones, over scenes of a seed that nothing else uses.

Turns are worded by a list that the gates were not developed with (`HELD_OUT`); the figures of the list that they were
developed with stand beside. Each turn goes the whole way: an answer of the language model is read and judged.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import inflect

from bench.goals import print_goal
from bench.instruct._phrasings import DEVELOPMENT, EVERYDAY, FIRST, HELD_OUT, KIN, OTHER_NAMES, Pair
from schemas.conversation import Turn
from stages.instruct import InstructSettings
from stages.instruct.context import Context, LabelledBox
from stages.instruct.gates.base import Scene
from stages.instruct.judge import Judge
from stages.instruct.kinds import EndpointKind, Rejected, find_kind
from stages.instruct.objects import name_of
from stages.sample.objects import object_paths
from stages.sample.world import scene_of
from stages.words import with_article

SEED, EACH = 424_242, 120
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_PLURALS = inflect.engine()
#: Names of the world that are no things one could see by themselves.
_NO_THINGS = {"dizzy", "high voltage", "locked", "unlocked", "vibration mode", "construction", "low battery", "hole"}


@dataclass(frozen=True)
class Planted:
    """One turn of a family in a picture, in the answer of a language model before a harmless one.

    It never stands last, where an unfinished turn is left out without any gate.
    """

    family: str
    scene: Scene
    turn: Pair

    def text(self) -> str:
        question, answer = self.turn
        return (
            f"Question: What kind of picture is it?\nAnswer: It is a drawing.\nQuestion: {question}\nAnswer: {answer}"
        )


def main(quick: bool) -> None:
    each = EACH // 6 if quick else EACH
    for name, phrasings in (("development", DEVELOPMENT), ("first", FIRST), ("held_out", HELD_OUT)):
        planted = list(plant(phrasings, each, SEED + len(name)))
        lost, by_gate = judge(planted)
        families = Counter(one.family for one in planted)
        bad = sum(number for family, number in families.items() if family != "good")
        caught = {family: lost[family] / number for family, number in families.items()}
        more: dict[str, Any] = {"turns": dict(families), "wording": name}
        share = sum(lost[family] for family in families if family != "good") / bad
        by_family = {family: round(part, 4) for family, part in caught.items() if family != "good"}
        gates = {family: dict(found) for family, found in by_gate.items()}
        label = "" if name == "held_out" else f" ({name} wording)"
        print_goal(
            "instruct", f"planted bad turns caught{label}", share, 0.95, by_family=by_family, gates=gates, **more
        )
        print_goal("instruct", f"good turns lost{label}", caught["good"], 0.03, least=False, **more)


def plant(phrasings: dict[str, list[Pair]], each: int, seed: int) -> Iterator[Planted]:
    """`each` turns of every bad family and as many good ones as bad ones, each in a scene of its own."""
    rng = random.Random(seed)
    row = 0
    for family, pairs in phrasings.items():
        for number in range(each * (len(phrasings) - 1) if family == "good" else each):
            context = _context(seed, row)
            row += 1
            question, answer = pairs[number % len(pairs)]
            words = _words(context, rng)
            turn = question.format(**words), answer.format(**words)
            yield Planted(family, Scene(context, frozenset(map(name_of, object_paths()))), turn)


def judge(planted: list[Planted]) -> tuple[Counter[str], dict[str, Counter[str]]]:
    """How many turns of each family do not come through, and which gates refused them."""
    kind = find_kind("conversation")()
    assert isinstance(kind, EndpointKind)
    gates = Judge(InstructSettings())
    lost: Counter[str] = Counter()
    by_gate: dict[str, Counter[str]] = {one.family: Counter() for one in planted}
    for one in planted:
        try:
            turns = kind.read(one.text(), one.scene.context, random.Random(0))
        except Rejected as error:
            lost[one.family] += 1
            by_gate[one.family][error.reason] += 1
            continue
        passed, refused = gates.sift(turns, one.scene, kind)
        if Turn(*one.turn, kind.name) not in passed:
            lost[one.family] += 1
            by_gate[one.family][refused[-1].reason] += 1
            if one.family == "good":
                print(
                    f"lost: {one.turn} by {refused[-1].reason} ({refused[-1].detail}); {one.scene.context.captions[0]}"
                )
        elif one.family != "good":
            print(f"{one.family} not caught: {one.turn}; {one.scene.context.captions[0]}")
    return lost, by_gate


def _context(seed: int, row: int) -> Context:
    scene = scene_of(seed, row)
    width, height = scene.picture.size
    boxes = [
        LabelledBox(placed.name, x / width, y / height, (x + w) / width, (y + h) / height)
        for placed in scene.objects
        for x, y, w, h in [placed.box]
    ]
    return Context(f"{row:032x}", scene.captions, boxes)


def _words(context: Context, rng: random.Random) -> dict[str, str]:
    """What stands in a phrasing's places, for one scene."""
    counts = context.counts()
    names = rng.sample(list(counts), len(counts))
    first, second = names[0], names[-1]
    most = max(counts, key=lambda name: counts[name])
    number = with_article(most) if counts[most] == 1 else f"{_NUMBERS[counts[most]]} {_plural(most)}"
    absent = _absent(context, rng)
    other = next((OTHER_NAMES[name] for name in names if name in OTHER_NAMES), first)
    background = next(caption for caption in context.captions if " on a " in caption).split(" on a ")[-1].rstrip(".")
    return {
        "a": with_article(first), "b": with_article(second), "la": first, "lb": second, "n": number,
        "x": with_article(absent), "xs": _plural(absent), "lx": absent,
        "s": with_article(other), "bg": background,
    }  # fmt: skip


def _plural(name: str) -> str:
    """The plural, by inflect; a name that is a plural already stays."""
    plural = name.split()[-1] != name_of(name)[-1]
    return name if plural else str(_PLURALS.plural_noun(name))  # type: ignore[arg-type]


def _absent(context: Context, rng: random.Random) -> str:
    """An object that is not in the scene, nor anything that could be called so: of the world or of everyday life."""
    shown = {word for name in context.counts() for word in (*name_of(name), *name_of(OTHER_NAMES.get(name, name)))}
    while True:
        pool = list(object_paths()) if rng.random() < 0.5 else EVERYDAY
        name = rng.choice(pool)
        words = {*name_of(name), *name_of(OTHER_NAMES.get(name, name))}
        kin = KIN.get(name, "").split(", ")
        if not words & shown and name not in _NO_THINGS and not any(other in context.counts() for other in kin):
            return name


if __name__ == "__main__":
    main(False)
