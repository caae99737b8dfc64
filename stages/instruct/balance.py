"""Which objects a part's pictures are asked about: every object as often where it is not as where it is.

The answers are balanced over the pictures of one part, so they are over the whole data set, however many workers make
the parts. Absent objects are asked for where objects are that they often occur with (POPE's adversarial questions, Li
et al. 2023, section 4), so that what usually goes together does not answer the question.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stages.instruct.context import Context
from stages.words import words_of

#: Objects in more than this share of the pictures choose first where they are absent.
_COMMON = 0.1
#: The most frequent partners of an object by which its hard pictures are found.
_PARTNERS = 8


@dataclass(frozen=True)
class Asked:
    """One question: the object, and whether it is in the picture."""

    label: str
    present: bool


def balance_presence(contexts: list[Context], chances: list[random.Random], most: int = 2) -> list[list[Asked]]:
    """Draws what each picture is asked about, in a random order.

    Each object is asked for in as many pictures that lack it as in pictures that show it. A picture lacks what neither
    a box nor the words of a caption may stand for; where a box has no name, nothing is sure to be absent. Half of
    all questions are answered yes, whichever pictures they fall on: one answer says nothing about the next.

    Args:
        contexts: the pictures of one part; those without boxes are asked nothing.
        chances: for each picture, where the chance for it comes from.
        most: questions a picture, as far as it shows as many objects; from 4 on, as far as it shows half as many.
    """
    part = _Part(contexts)
    asked: list[list[Asked]] = [[] for _ in contexts]
    room, wanted = _ask_present(part, chances, asked, most)
    noise = np.array([rng.random() for rng in chances])

    def choice(label: str) -> tuple[bool, int, str]:
        frequency = len(part.pictures[label])
        common = frequency > _COMMON * len(contexts)
        return (not common, -frequency if common else frequency, label)

    for label in sorted(wanted, key=choice):
        free = np.flatnonzero(part.boxed & ~part.possible(label))
        hard, fresh = part.hardness(label), np.array([not each for each in asked])
        value = 100 * np.minimum(room, 1) + 10 * (hard > 0) + 5 * fresh + np.minimum(hard, 4) + noise / 10
        for place in free[np.argsort(-value[free], kind="stable")][: wanted[label]]:
            asked[place].append(Asked(label, False))
            room[place] -= 1
    for each, rng in zip(asked, chances, strict=True):
        rng.shuffle(each)
    return asked


class _Part:
    """The labels of one part's pictures, to be looked up by label.

    Attributes:
        boxed: bool[pictures], those with boxes.
        pictures: label -> places of the pictures that bear it, ascending.
    """

    def __init__(self, contexts: list[Context]) -> None:
        self.contexts = contexts
        self.boxed = np.array([bool(context.boxes) for context in contexts], bool)
        self.labels = [sorted(context.counts()) for context in contexts]
        self.pictures = _inverted(self.labels)
        self._borne = _inverted({*context.counts(), *context.hidden} for context in contexts)
        self._said = _inverted(context.caption_words for context in contexts)
        self._unsure = np.array([context.unnamed > 0 for context in contexts], bool)
        self._labels_with: dict[str, set[str]] = defaultdict(set)
        for label in self._borne:
            for word in words_of(label):
                self._labels_with[word].add(label)

    def possible(self, label: str) -> np.ndarray:
        """bool[pictures]: where `label` may be, by a box of that or a related name or by the words of the captions."""
        words = words_of(label)
        said = np.ones(len(self.contexts), bool)
        for word in words:
            said &= self._mask(self._said.get(word, ()))
        found = said | self._unsure
        for other in set().union(*(self._labels_with[word] for word in words)):
            theirs = words_of(other)
            if words <= theirs or theirs <= words:
                found[self._borne[other]] = True
        return found

    def hardness(self, label: str) -> np.ndarray:
        """float64[pictures]: over the frequent partners that a picture shows, how often `label` is with each, added."""
        partners = Counter(other for place in self.pictures[label] for other in self.labels[place] if other != label)
        hard = np.zeros(len(self.contexts))
        for other, together in sorted(partners.items(), key=lambda item: (-item[1], item[0]))[:_PARTNERS]:
            hard[self.pictures[other]] += together / len(self.pictures[other])
        return hard

    def _mask(self, places: Iterable[int]) -> np.ndarray:
        mask = np.zeros(len(self.contexts), bool)
        mask[np.asarray(places, np.int64)] = True
        return mask


def _ask_present(
    part: _Part, chances: list[random.Random], asked: list[list[Asked]], most: int
) -> tuple[np.ndarray, Counter[str]]:
    """Asks for objects that are there, in half of all questions.

    An object is not asked for more often than there are pictures without it.

    Returns:
        int64[pictures], how many questions are left for absent objects, and label -> how often it was asked for.
    """
    each = 1 if most < 4 else 2
    slots = [place for place, labels in enumerate(part.labels) for _ in range(min(most, each * len(labels)))]
    noise = np.array([chances[place].random() for place in slots])
    order = [slots[index] for index in np.argsort(noise, kind="stable")]
    room = np.bincount(order[len(order) // 2 :], minlength=len(part.labels)).astype(np.int64)
    lacking: dict[str, int] = {}
    wanted: Counter[str] = Counter()
    for place in order[: len(order) // 2]:
        labels = part.labels[place]
        taken = {each.label for each in asked[place]}
        for label in chances[place].sample(labels, len(labels)):
            if label not in lacking:
                lacking[label] = int((part.boxed & ~part.possible(label)).sum())
            if label not in taken and wanted[label] < lacking[label]:
                asked[place].append(Asked(label, True))
                wanted[label] += 1
                break
    return room, wanted


def _inverted(lists: Iterable[Iterable[str]]) -> dict[str, np.ndarray]:
    """Item -> int64 places of the lists that hold it, ascending."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, items in enumerate(lists):
        for item in items:
            places[item].append(place)
    return {item: np.array(found, np.int64) for item, found in places.items()}
