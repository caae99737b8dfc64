"""Which objects an English text names, and which names the captions and boxes of a picture support.

The names stand in `lexicon/objects.yaml`, with their sources; the labels of the data are added to them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

import inflect
import simplemma
import yaml

from stages.instruct.context import Context

#: A name as a tuple of words in their dictionary forms.
Name = tuple[str, ...]

_WORD = r"[^\W_]+(?:'[^\W_]+)?"
_TOKEN = re.compile(rf"{_WORD}|\S")
_LIKE = {"shaped", "like", "style", "styled", "themed", "free", "sized", "coloured", "colored"}


@dataclass(frozen=True)
class Mention:
    """An object that a text names: its words as said, its name, and where it stands (characters)."""

    said: str
    name: Name
    start: int
    end: int


class Support:
    """The names that one picture's captions, boxes and texts support: theirs, what means the same, and their kinds."""

    def __init__(self, context: Context) -> None:
        known = lexicon()
        labels = [box.label for box in (*context.boxes, *context.texts)] + context.hidden
        names = {name_of(label) for label in labels}
        for caption in context.captions:
            names |= {mention.name for mention in known.mentions(caption)}
        words = {word for text in (*context.captions, *labels) for word in name_of(text)}
        # The words of "hot dog" do not support a dog, unless they stand elsewhere too.
        for name in names & known.apart:
            rest = [text for text in map(name_of, (*context.captions, *labels)) if not _holds(text, name)]
            words -= set(name) - {word for text in rest for word in text}
        self.words = words
        self.names = known.implied(names | {(word,) for word in words})

    def __contains__(self, name: Name) -> bool:
        return name in self.names or set(name) <= self.words


class Lexicon:
    """Names of objects with what they imply; see the file for what each of its sections means."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.version: int = data["version"]
        groups = [_names(group) for group in data["synonyms"]]
        kinds = [(_names(names), _names(members)) for names, members in data["kinds"].items()]
        self.plain = set(_names(data["plain"]))
        self.apart = set(_names(data["apart"]))
        self.idioms = set(_names(data["idioms"]))
        self.ambiguous = set(_names(data["ambiguous"]))
        self._before = {word.strip() for word in data["before_nouns"].split(",")}
        self._after = {word.strip() for word in data["after_nouns"].split(",")}
        listed = [*groups, _names(data["objects"]), *(names for names, _ in kinds), *(members for _, members in kinds)]
        self.objects = {name for names in listed for name in names} - self.plain
        self._longest = max(map(len, (*self.objects, *self.idioms)))
        self._same: dict[Name, set[Name]] = defaultdict(set)
        for group in groups:
            for name in group:
                self._same[name] |= set(group)
        self._above: dict[Name, set[Name]] = defaultdict(set)
        for names, members in kinds:
            for name in names:
                self._same[name] |= set(names)
            for member in members:
                self._above[member] |= set(names)

    def implied(self, names: Iterable[Name]) -> set[Name]:
        """`names`, what means the same as one of them, and the kinds that they belong to."""
        found = {other for name in names for other in (name, *self._same.get(name, ()))}
        waiting = list(found)
        while waiting:
            above = self._above.get(waiting.pop(), set()) - found
            found |= above
            waiting += above
        return found

    def mentions(self, text: str, labels: frozenset[Name] = frozenset()) -> list[Mention]:
        """The objects that `text` names, longest names first, from left to right.

        Args:
            labels: further names, of the data; they count only where they stand as nouns.
        """
        text = text.lower().replace("’", "'")
        tokens = list(_TOKEN.finditer(text))
        words = [dictionary_form(token[0]) for token in tokens]
        longest = max(self._longest, max(map(len, labels), default=0))
        found = []
        place = 0
        while place < len(words):
            for length in range(min(longest, len(words) - place), 0, -1):
                # A hyphen within a name is no word of its own.
                name, end = _name_at(words, place, length)
                if name in self.idioms:
                    place = end - 1
                    break
                if self._is_object(name, labels) and self._stands(name, tokens, words, place, end):
                    start, stop = tokens[place].start(), tokens[end - 1].end()
                    found.append(Mention(text[start:stop], name, start, stop))
                    place = end - 1
                    break
            place += 1
        return found

    def _is_object(self, name: Name, labels: frozenset[Name]) -> bool:
        return (name in self.objects or name in labels) and name not in self.plain

    def _stands(self, name: Name, tokens: list[re.Match[str]], words: list[str], start: int, end: int) -> bool:
        """Whether the words there stand as the name of an object."""
        after = words[end] if end < len(words) else ""
        if after == "-" and end + 1 < len(words) and tokens[end + 1][0] in _LIKE:
            return False
        if name in self.objects and name not in self.ambiguous:
            return True
        if name not in self.ambiguous and len(name) > 1:
            return True
        before = [tokens[place][0] for place in range(max(0, start - 2), start)]
        # "Keys lie there": a plural at the beginning of a sentence is no verb.
        opens = (not before or before[-1] in ".!?") and tokens[end - 1][0] != words[end - 1]
        closed = not after[:1].isalnum() or after in self._after or tokens[end][0] in self._after
        return closed and (opens or not self._before.isdisjoint(before))


@cache
def lexicon() -> Lexicon:
    """The packaged lexicon."""
    return Lexicon(yaml.safe_load((files("stages.instruct") / "lexicon" / "objects.yaml").read_text()))


@lru_cache(maxsize=50_000)
def name_of(text: str) -> Name:
    """The words of `text` in their dictionary forms; of a label, its name."""
    return tuple(dictionary_form(word) for word in re.findall(_WORD, text.lower().replace("’", "'")))


@lru_cache(maxsize=100_000)
def dictionary_form(word: str) -> str:
    """The singular of a noun or the base form of another word; what is in no dictionary loses an ending s."""
    word = word.removesuffix("'s")
    if word in _irregular():
        return _irregular()[word]
    if not word.isalpha() or len(word) < 3:
        return word
    if simplemma.is_known(word, lang="en"):
        return simplemma.lemmatize(word, lang="en")
    return word.removesuffix("s") if not word.endswith(("ss", "us", "is")) else word


@cache
def _irregular() -> dict[str, str]:
    """Plurals that also are forms of a verb or that no dictionary has -> singular, for the nouns of objects."""
    engine = inflect.engine()
    nouns = (
        "leaf",
        "knife",
        "wolf",
        "shelf",
        "scarf",
        "loaf",
        "elf",
        "dwarf",
        "hoof",
        "calf",
        "axe",
        "cactus",
        "octopus",
    )
    plurals = {str(engine.plural_noun(noun)): noun for noun in nouns}  # type: ignore[arg-type]
    return {**plurals, "people": "person", "left": "left", "clothes": "clothes", "dice": "dice"}


def _names(text: str) -> list[Name]:
    return [name_of(name) for name in text.split(",")]


def _name_at(words: list[str], start: int, length: int) -> tuple[Name, int]:
    """The name of `length` words from `start` on, hyphens left out, and where it ends."""
    name: list[str] = []
    place = start
    while place < len(words) and len(name) < length:
        if words[place][:1].isalnum():
            name.append(words[place])
        elif words[place] != "-" or not name:
            break
        place += 1
    return tuple(name) if len(name) == length else (), place


def _holds(text: Name, name: Name) -> bool:
    return any(text[place : place + len(name)] == name for place in range(len(text) - len(name) + 1))
