"""Drops samples that are near the pictures, or share runs of words with the questions, of evaluation sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import InputError
from schemas.tables import CONTAMINATION
from schemas.vocabulary import Reason
from stages.select.candidates import Candidates
from stages.select.dedup.fingerprints import FINGERPRINT_COLUMNS, Fingerprints, fingerprints
from stages.select.dedup.hamming import hamming_pairs
from stages.select.dedup.likeness import alike
from stages.select.dedup.semantic import near_first
from stages.select.dedup.settings import PerceptualSettings
from stages.select.evaluation_sets import Held
from stages.select.ngrams import shared_ngrams
from stages.select.vectors import matrix


def ask_contamination(rows: Candidates, sets: Sequence[Held]) -> pa.Table:
    """Drops what is near an evaluation set; of what is near by picture and by caption the ledger says by picture.

    Args:
        rows: with `captions` where a set has questions, `FINGERPRINT_COLUMNS` and vectors where it has pictures.

    Returns:
        `schemas.tables.CONTAMINATION`, by row and set. Of the pictures of a set to which a sample is near, the nearest
        is named, and of the questions each that is the first to hold a run of words.

    Raises:
        InputError: the vectors of a set have another length.
    """
    places = np.flatnonzero(rows.alive())
    found = [_hits(rows, one, *hits) for one in sets for hits in _compare(rows, places, one)]
    table = pa.concat_tables([CONTAMINATION.empty_table(), *found])
    place = pc.index_in(table["sample_id"].combine_chunks(), rows.samples["sample_id"].combine_chunks()).to_numpy()
    for by, reason in (("perceptual", Reason.CONTAMINATED_PICTURE), ("semantic", Reason.CONTAMINATED_PICTURE),
                       ("text", Reason.CONTAMINATED_TEXT)):  # fmt: skip
        rows.drop(place[pc.equal(table["by"], by).to_numpy()], reason)
    return table.take(np.argsort(place, kind="stable"))


#: By what, places in the samples, places in the set's pictures or questions, and values.
_Hits = tuple[str, np.ndarray, np.ndarray, np.ndarray]


def _compare(rows: Candidates, places: np.ndarray, one: Held) -> list[_Hits]:
    found: list[_Hits] = []
    if one.pictures is not None and len(places):
        if one.settings.max_hamming is not None:
            found.append(_by_hash(rows, places, one.pictures, one.settings.max_hamming))
        if one.settings.min_cosine is not None:
            found.append(_by_vector(rows, places, one, one.settings.min_cosine))
    if one.questions is not None and len(places):
        captions = rows.samples["captions"].take(pa.array(places)).combine_chunks()
        owner = places[pc.list_parent_indices(captions).to_numpy()]
        text, question, number = shared_ngrams(pc.list_flatten(captions), one.questions, one.settings.ngram)
        pairs, group = np.unique(np.stack([owner[text], question]), axis=1, return_inverse=True)
        found.append(("text", *pairs, np.bincount(group.ravel(), number, pairs.shape[1])))
    return found


def _by_hash(rows: Candidates, places: np.ndarray, pictures: pa.Table, max_hamming: int) -> _Hits:
    own, theirs = (
        fingerprints(table.select(FINGERPRINT_COLUMNS).combine_chunks())
        for table in (rows.samples.take(pa.array(places)), pictures)
    )
    settings = PerceptualSettings(max_hamming=max_hamming)
    one, other, distance = _near_prints(theirs, own, settings)
    row_again, item_again, distance_again = _near_prints(own, theirs, settings)
    item, row = np.concatenate([one, item_again]), np.concatenate([other, row_again])
    distance = np.concatenate([distance, distance_again])
    nearest = _first_of_each(row, distance, item)
    return "perceptual", places[row[nearest]], item[nearest], distance[nearest]


def _near_prints(
    plain: Fingerprints, seen: Fingerprints, settings: PerceptualSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a picture of `plain` and one of `seen`, be it mirrored or cut to its centre, and their distance."""
    first, count = len(plain.hashes), len(seen.hashes)
    stacked = np.concatenate([plain.hashes[:, 0], seen.hashes.T.ravel()])
    one, other = hamming_pairs(stacked, settings.max_hamming, targets=first)
    across = other >= first
    one, other = one[across], other[across]
    distance = np.bitwise_count(stacked[one] ^ stacked[other]).astype(np.int64)
    view, other = np.divmod(other - first, count)
    known = plain.known[one] & seen.known[other]
    thumbnails = np.concatenate([plain.thumbnails, seen.thumbnails])
    right = ~known | alike(thumbnails, one, first + other, view, settings)
    return one[right], other[right], distance[right]


def _by_vector(rows: Candidates, places: np.ndarray, one: Held, min_cosine: float) -> _Hits:
    stored, theirs = rows.vectors[""]["vector"], one.pictures["vector"]  # type: ignore[index]
    if stored.type != theirs.type:
        raise InputError(
            f"select.decontaminate.{one.settings.name}: its vectors have {theirs.type.list_size} numbers, this run's "
            f"{stored.type.list_size}; both must be embedded by one CLIP model"
        )
    vectors = np.concatenate([matrix(theirs), matrix(stored)[rows.places_in()[places]]])
    item, row, cosine = near_first(vectors, min_cosine, len(theirs))
    return "semantic", places[row - len(theirs)], item, cosine


def _hits(rows: Candidates, one: Held, by: str, places: np.ndarray, items: np.ndarray, values: np.ndarray) -> pa.Table:
    names = one.questions if by == "text" else one.pictures["item"]  # type: ignore[index]
    columns = {
        "sample_id": rows.samples["sample_id"].take(pa.array(places)),
        "set": pa.array([one.settings.name] * len(places), pa.string()),
        "item": names.take(pa.array(items)),  # type: ignore[union-attr]
        "by": pa.array([by] * len(places), pa.string()),
        "value": pa.array(values, pa.float32()),
    }
    return pa.table(columns, CONTAMINATION)


def _first_of_each(row: np.ndarray, distance: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Of each row's pairs the nearest; of equally near, the first item."""
    order = np.lexsort((item, distance, row))
    _, first = np.unique(row[order], return_index=True)
    return order[first]
