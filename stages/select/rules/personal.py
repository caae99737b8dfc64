"""Personal data in captions: e-mail addresses and telephone numbers, found, and masked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from phonenumbers import Leniency, PhoneNumberMatcher
from pydantic import Field

from schemas.tables import MASKED
from schemas.vocabulary import Reason
from stages.select.rules.base import Rule

#: Raised when captions would be masked otherwise.
MASK_VERSION = 1
#: What could hold either; most captions do not, and are not looked at again.
_DIGITS = re.compile(r"\d(?:[\s()./\-]{0,3}\d){6}")
_WORTH_A_LOOK = rf"\S@\S|{_DIGITS.pattern}"
# A picture's name may hold the sign too: icon@2x.png.
_EMAIL = re.compile(
    r"\b[\w.+%-]+@(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+(?!(?:jpe?g|png|gif|webp|svg|avif)\b)[a-z]{2,24}\b",
    re.IGNORECASE,
)
#: Whose way of writing makes a telephone's of a number without a country's code.
_REGIONS = ("US", "GB", "DE", "FR")
# A row of digits alone is an article's number as often as a telephone's; this before it says which.
_CUE = re.compile(
    r"(?<![\w\[])(tel|tél|tele(ph|f)one?|phone|call|ring|dial|mobile?|cell|fax|whatsapp|sms|hotline|kontakt|contact)\b"
    r"\W{0,3}(\w+\W{1,3}){0,2}$|[☎✆📞📱]\W{0,3}$",
    re.IGNORECASE,
)


class PersonalData(Rule):
    name = "personal_data"
    reason = Reason.PERSONAL_DATA
    limit = (
        Literal["drop", "mask"] | None,
        Field(None, description="e-mail addresses and telephone numbers in captions: drop the sample, or mask them"),
    )
    measure = "personal_data"
    keeps = "at_most"

    @classmethod
    def asked(cls, limit: Any) -> bool:
        return limit == "drop"

    @staticmethod
    def measured(samples: pa.Table, limit: str) -> pa.Array:
        """E-mail addresses and telephone numbers in all of the row's captions."""
        if "captions" in samples.column_names:
            captions = samples["captions"].combine_chunks()
            row, texts = pc.list_parent_indices(captions).to_numpy(), pc.list_flatten(captions)
        else:
            row, texts = np.arange(samples.num_rows), samples["caption"].combine_chunks()
        worth = np.flatnonzero(_worth_a_look(texts))
        count = [len(list(_found(text))) for text in texts.take(pa.array(worth)).to_pylist()]
        return pa.array(np.bincount(row[worth], count, minlength=samples.num_rows))

    @classmethod
    def bound(cls, limit: Any) -> float:
        return 0.0


def mask_captions(samples: pa.Table) -> pa.Table:
    """Those rows whose captions hold personal data, with `[email]` and `[telephone]` in its place.

    Args:
        samples: columns `sample_id`, `caption` and `captions`.

    Returns:
        `schemas.tables.MASKED`.
    """
    rows = samples.select(MASKED.names).combine_chunks()
    captions = rows["captions"].combine_chunks()
    worth = pc.list_parent_indices(captions).filter(pa.array(_worth_a_look(pc.list_flatten(captions))))
    either = np.union1d(worth.to_numpy(), np.flatnonzero(_worth_a_look(rows["caption"].combine_chunks())))
    masked = []
    for row in rows.take(pa.array(either, pa.int64())).to_pylist():
        captions = row["captions"] and [_masked(text) for text in row["captions"]]
        clean = row | {"caption": _masked(row["caption"]), "captions": captions}
        if clean != row:
            masked.append(clean)
    return pa.Table.from_pylist(masked, MASKED)


def _worth_a_look(texts: pa.Array) -> np.ndarray:
    return pc.match_substring_regex(texts, _WORTH_A_LOOK).fill_null(False).to_numpy(zero_copy_only=False)


@lru_cache(10_000)  # the row's caption is one of its captions
def _masked(text: str | None) -> str | None:
    for begin, end, name in sorted(_found(text or ""), reverse=True):
        text = f"{text[:begin]}[{name}]{text[end:]}"  # type: ignore[index]
    return text


def _found(text: str) -> Iterator[tuple[int, int, str]]:
    """(begin, end, what it is) of each find; they do not overlap."""
    end = 0
    for found in sorted([*_emails(text), *_telephones(text)]):
        if found[0] >= end:
            yield found
            end = found[1]


def _emails(text: str) -> Iterator[tuple[int, int, str]]:
    for match in _EMAIL.finditer(text):
        yield match.start(), match.end(), "email"


def _telephones(text: str) -> Iterator[tuple[int, int, str]]:
    """Numbers with a country's code; others where they stand in a telephone's groups, or a word says what they are."""
    if "+" in text:
        for match in PhoneNumberMatcher(text, None, leniency=Leniency.VALID):
            yield match.start, match.end, "telephone"
            text = text[: match.start] + " " * (match.end - match.start) + text[match.end :]
    for region in _REGIONS if _DIGITS.search(text) else ():
        for match in PhoneNumberMatcher(text, region, leniency=Leniency.EXACT_GROUPING):
            if not match.raw_string.isdigit() or _CUE.search(text[: match.start]):
                yield match.start, match.end, "telephone"
