"""Small matters of English that captions and questions share."""

from __future__ import annotations

import re
from functools import lru_cache

# Chinese characters and kana stand without spaces between words: each counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+(?:'\w+)?")
_IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose",
    "feet": "foot", "teeth": "tooth", "oxen": "ox",
}  # fmt: skip


def with_article(name: str) -> str:
    """`name` with its indefinite article, by its first letter (a u mostly sounds like "you").

    A name that begins with no Latin letter or digit has none.
    """
    if not (name and name[0].isascii() and name[0].isalnum()):
        return name
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


@lru_cache(maxsize=100_000)
def words_of(text: str) -> frozenset[str]:
    """The words of `text` in any script, in lower case, English plurals as singulars. Punctuation is left out."""
    return frozenset(_singular(word) for word in _WORD.findall(text.casefold()))


def overlap(first: str, second: str) -> bool:
    """Whether all the words of one name are among the other's, as with "dog" and "guide dogs"."""
    one, other = words_of(first), words_of(second)
    return one <= other or other <= one


def _singular(word: str) -> str:
    """`word` without the ending of an English plural; what it does to other words does not matter in comparisons."""
    word = word.removesuffix("'s")
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for plural, single in (("ies", "y"), ("ves", "f"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if word.endswith(plural) and len(word) > len(plural) + 1:
            return word.removesuffix(plural) + single
    if word.endswith("fe"):
        return word.removesuffix("e")
    if word.endswith("oes") and len(word) > 4:
        return word.removesuffix("es")
    return word.removesuffix("s") if len(word) > 3 and not word.endswith(("ss", "us", "is")) else word
