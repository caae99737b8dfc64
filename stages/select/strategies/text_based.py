"""DataComp's "text-based filtering": captions that name a concept of a list, for example ImageNet's classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from schemas.errors import InputError
from schemas.identity import digest_bytes
from schemas.vocabulary import Reason
from stages.select.candidates import Candidates
from stages.select.strategies.base import References, Strategy, new_measure
from stages.store import open_path

#: What stands between words.
_GAP = r"[^\p{L}\p{M}\p{N}]+"
_ES = ("s", "x", "z", "ch", "sh")
_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "ox": "oxen", "leaf": "leaves", "wolf": "wolves", "knife": "knives",
    "calf": "calves", "shelf": "shelves", "loaf": "loaves", "scarf": "scarves",
}  # fmt: skip


class TextBased(Strategy):
    """Captions that name a concept, in the singular or plural, in small or capital letters.

    DataComp asks for English beside it: `all: [basic, {text_based: ...}]`. Words are what stands between spaces and
    signs, so concepts in writing without spaces are found only where they stand alone.
    """

    concepts: str = Field(description="a text file of concepts, one on a line, each of one word or several")

    def ask(self, rows: Candidates, key: str, references: References) -> None:
        found = count_concepts(rows.samples["caption"], self._lines())
        rows.measure(measure := new_measure(rows, "concepts_named"), found)
        rows.ask(key, measure, "at_least", 1.0, Reason.TEXT_BASED)

    def content(self) -> Any:
        self._lines()
        return digest_bytes(open_path(self.concepts).read_bytes())

    def _lines(self) -> list[str]:
        try:
            lines = [line.strip() for line in open_path(self.concepts).read_text("utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"select.strategy: text_based: cannot read {self.concepts}: {error}") from error
        if not any(lines):
            raise InputError(f"select.strategy: text_based: {self.concepts} holds no concept; give one on each line")
        return [line for line in lines if line]


def count_concepts(captions: pa.ChunkedArray | pa.Array, concepts: list[str]) -> np.ndarray:
    """How many places in each caption begin with a concept's words, int64 [captions].

    The concepts are a tree of words. It is walked from all words of all captions at once, one word deeper at a time.
    """
    whole = captions.combine_chunks() if isinstance(captions, pa.ChunkedArray) else captions
    word_of, edges, ends = _tree(_words(pa.array(concepts, pa.string())).to_pylist())
    words = _words(whole.fill_null(""))
    caption = pc.list_parent_indices(words).to_numpy()
    coded = pc.list_flatten(words).dictionary_encode()
    known = pa.array(list(word_of), pa.string()), np.append(np.fromiter(word_of.values(), np.int64), -1)
    place = pc.index_in(coded.dictionary, known[0]).fill_null(-1).to_numpy()
    word = np.append(known[1][place], -1)[coded.indices.to_numpy()]

    starts = np.arange(len(word))
    node, named = np.zeros(len(word), np.int64), np.zeros(len(word), bool)
    for depth in range(len(word)):
        at = starts + depth
        inside = at < len(word)
        starts, node, at = starts[inside], node[inside], at[inside]
        inside = (word[at] >= 0) & (caption[at] == caption[starts])
        starts, node, at = starts[inside], node[inside], at[inside]
        wanted = node * len(word_of) + word[at]
        child = np.searchsorted(edges, wanted)
        inside = edges[np.minimum(child, len(edges) - 1)] == wanted
        starts, node = starts[inside], child[inside] + 1
        named[starts[ends[node]]] = True
        if not len(starts):
            break
    return np.bincount(caption[named], minlength=len(whole))


def _words(texts: pa.Array) -> pa.Array:
    lower = pc.utf8_lower(pc.utf8_normalize(texts, "NFKC"))
    return pc.split_pattern_regex(lower, _GAP)


def _tree(concepts: list[list[str]]) -> tuple[dict[str, int], np.ndarray, np.ndarray]:
    """The concepts as a tree whose root is node 0.

    Returns:
        The number of each word, in its singular and plural; the edges, sorted, as node * words + word, where edge i
        leads to node i + 1; and for each node whether a concept ends there.
    """
    concepts = [words for words in ([word for word in each if word] for each in concepts) if words]
    word_of: dict[str, int] = {}
    for word in sorted({word for words in concepts for word in words}):
        number = word_of.setdefault(word, len(word_of))
        for form in _forms(word):
            word_of.setdefault(form, number)
    edges: list[int] = []
    ends = [False]
    paths = [(0, [word_of[word] for word in words]) for words in concepts]
    while paths:
        children = sorted({(node, path[0]) for node, path in paths})
        number_of = {child: len(ends) + place for place, child in enumerate(children)}
        edges += [node * len(word_of) + word for node, word in children]
        ends += [False] * len(children)
        following = []
        for node, path in paths:
            child = number_of[node, path[0]]
            if path[1:]:
                following.append((child, path[1:]))
            else:
                ends[child] = True
        paths = following
    return word_of, np.array(edges, np.int64), np.array(ends)


def _forms(word: str) -> list[str]:
    """The plural of an English word, and its singular where it looks like a plural."""
    if word in _IRREGULAR:
        return [_IRREGULAR[word]]
    forms = [f"{word}es" if word.endswith(_ES) else f"{word}s"]
    if len(word) > 2 and word.endswith("y") and word[-2] not in "aeiou":
        forms.append(f"{word[:-1]}ies")
    if word.endswith("o"):
        forms.append(f"{word}es")
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        forms.append(word[:-1])
        if word.endswith("ies"):
            forms.append(f"{word[:-3]}y")
        elif word[:-2].endswith(_ES):
            forms.append(word[:-2])
    return [*forms, *(one for one, many in _IRREGULAR.items() if many == word)]
