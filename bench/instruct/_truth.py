"""Whether an answer about a scene is true, by the scene's own pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from schemas.conversation import Turn
from stages.sample.scenes import Scene

#: Left, top, width, height in pixels.
Box = tuple[float, float, float, float]


class Asked(dict[str, str]):
    """What a question asks about: `label`, `first` and `second`, or `box`; and the form that it is written in."""

    def __init__(self, words: dict[str, str], form: str) -> None:
        super().__init__(words)
        self.form = form


@dataclass(frozen=True)
class Truth:
    """A row as the stage gets it, the scene that it shows, and the texts that are planted in it."""

    row: dict[str, Any]
    scene: Scene
    texts: Sequence[tuple[str, Box]]

    def boxes(self, name: str) -> list[Box]:
        return [placed.box for placed in self.scene.objects if placed.name == name]


def is_true(turn: Turn, asked: Asked, truth: Truth) -> bool:
    """Whether the turn's answer holds of the scene, in the form that its kind promises."""
    return _CHECKS[turn.kind](turn.answer, asked, truth)


def _caption(answer: str, asked: Asked, truth: Truth) -> bool:
    return answer in truth.scene.captions


def _describe(answer: str, asked: Asked, truth: Truth) -> bool:
    for caption in truth.scene.captions:
        answer = answer.replace(caption, "", 1)
    return not answer.strip()


def _presence(answer: str, asked: Asked, truth: Truth) -> bool:
    return answer == ("yes" if truth.boxes(asked["label"]) else "no")


def _count(answer: str, asked: Asked, truth: Truth) -> bool:
    return answer == str(len(truth.boxes(asked["label"]) if "label" in asked else truth.scene.objects))


def _position(answer: str, asked: Asked, truth: Truth) -> bool:
    (x, y, w, h), *more = truth.boxes(asked["label"])
    width, height = truth.scene.picture.size
    vertical, horizontal = answer.split()
    return (
        not more and {"left": 2 * x + w < width, "right": 2 * x + w > width}[horizontal]
        and {"top": 2 * y + h < height, "bottom": 2 * y + h > height}[vertical]
    )  # fmt: skip


def _point(answer: str, asked: Asked, truth: Truth) -> bool:
    element, boxes = ElementTree.fromstring(answer), truth.boxes(asked["label"])
    single = element.tag == "point"
    numbers = [""] if single else [str(number) for number in range(1, len(boxes) + 1)]
    named = {f"{axis}{number}" for axis in "xy" for number in numbers} | {"alt"}
    if (
        (len(boxes) == 1) != single
        or set(element.attrib) != named
        or not element.text == element.get("alt") == asked["label"]
    ):
        return False
    written = [(element.attrib[f"x{number}"], element.attrib[f"y{number}"]) for number in numbers]
    points = [(float(x), float(y)) for x, y in written]
    width, height = truth.scene.picture.size
    left = list(boxes)
    for x, y in points:
        left = [box for box in left if abs(100 * (box[0] + box[2] / 2) / width - x) > 0.051
                or abs(100 * (box[1] + box[3] / 2) / height - y) > 0.051]  # fmt: skip
    return (
        not left and points == sorted(points) and all(re.fullmatch(r"\d{1,3}\.\d", s) for pair in written for s in pair)
    )


def _locate(answer: str, asked: Asked, truth: Truth) -> bool:
    found = re.findall(r"\[(\d\.\d{3}), (\d\.\d{3}), (\d\.\d{3}), (\d\.\d{3})\]", answer)
    rebuilt = "; ".join(f"[{', '.join(corners)}]" for corners in found)
    return rebuilt == answer and _same_boxes([[float(n) for n in corners] for corners in found], 0.000501, asked, truth)


def _locate_tokens(answer: str, asked: Asked, truth: Truth) -> bool:
    boxes = []
    for text in answer.split(" ; "):
        match = re.fullmatch(r"<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})> (.+)", text)
        if match is None or match[5] != asked["label"]:
            return False
        y1, x1, y2, x2 = ((int(number) + 0.5) / 1024 for number in match.groups()[:4])
        boxes.append([x1, y1, x2, y2])
    return _same_boxes(boxes, 0.5 / 1024 + 1e-9, asked, truth)


def _same_boxes(found: list[list[float]], tolerance: float, asked: Asked, truth: Truth) -> bool:
    """Whether `found` (corners as shares) are the label's boxes, each once."""
    width, height = truth.scene.picture.size
    real = sorted(
        [x / width, y / height, (x + w) / width, (y + h) / height] for x, y, w, h in truth.boxes(asked["label"])
    )
    return len(real) == len(found) and all(
        any(all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True)) for other in found) for one in real
    )


def _relation(answer: str, asked: Asked, truth: Truth) -> bool:
    [(x, y, w, h)], [(x_, y_, w_, h_)] = truth.boxes(asked["first"]), truth.boxes(asked["second"])
    beside, stacked = y < y_ + h_ and y_ < y + h, x < x_ + w_ and x_ < x + w
    holds = {
        "left": beside and x + w <= x_, "right": beside and x_ + w_ <= x, "above": stacked and y + h <= y_,
        "below": stacked and y_ + h_ <= y, "inside": x_ <= x and y_ <= y and x + w <= x_ + w_ and y + h <= y_ + h_,
    }  # fmt: skip
    return holds[answer]


def _attribute(answer: str, asked: Asked, truth: Truth) -> bool:
    if "label" in asked:
        return len(truth.boxes(f"{answer} {asked['label']}")) == 1 and not truth.boxes(asked["label"])
    areas = {name: max(w * h for _, _, w, h in truth.boxes(name)) for name in asked.values()}
    return len(areas) == 2 and answer == max(areas, key=lambda name: areas[name])


def _region(answer: str, asked: Asked, truth: Truth) -> bool:
    nearest = min(truth.scene.objects, key=lambda placed: _distance(placed.box, asked, truth))
    return nearest.name == answer and _distance(nearest.box, asked, truth) < 0.002


def _read(answer: str, asked: Asked, truth: Truth) -> bool:
    if "box" not in asked:
        return [text for text, _ in truth.texts] == [answer]
    text, box = min(truth.texts, key=lambda planted: _distance(planted[1], asked, truth))
    return text == answer and _distance(box, asked, truth) < 0.002


def _distance(box: Box, asked: Asked, truth: Truth) -> float:
    """How far the corners of `box` are from those that are asked about, in shares of the sides, at most."""
    width, height = truth.scene.picture.size
    x, y, w, h = box
    corners = (x / width, y / height, (x + w) / width, (y + h) / height)
    return max(abs(a - float(b)) for a, b in zip(corners, re.findall(r"\d\.\d+", asked["box"]), strict=True))


_CHECKS: dict[str, Callable[[str, Asked, Truth], bool]] = {
    "caption": _caption, "describe": _describe, "presence": _presence, "count": _count, "position": _position,
    "point": _point, "locate": _locate, "locate_tokens": _locate_tokens, "relation": _relation,
    "attribute": _attribute, "region": _region, "read": _read,
}  # fmt: skip
