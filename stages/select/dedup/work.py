"""Asks every kind of dedup in turn."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.vocabulary import Reason
from stages.select.dedup.exact import exact_duplicates
from stages.select.dedup.perceptual import perceptual_duplicates
from stages.select.dedup.semantic import semantic_duplicates
from stages.select.dedup.settings import DedupSettings


@dataclass
class Verdicts:
    """What is decided so far, by place in the table of samples.

    Attributes:
        reason: object [n], None where not dropped.
        keeper: int64 [n], place of the row that was kept instead; -1 where the row is no duplicate.
    """

    reason: np.ndarray
    keeper: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.keeper = np.full(len(self.reason), -1, np.int64)

    def alive(self, places: np.ndarray) -> np.ndarray:
        """Those of `places` that are not dropped, in the same order."""
        return places[pc.is_null(pa.array(self.reason[places], pa.string())).to_numpy(zero_copy_only=False)]

    def drop_duplicates(self, places: np.ndarray, keeper: np.ndarray, reason: Reason) -> None:
        """`keeper`: for each of `places` the kept one's index in `places`, or -1."""
        dropped = keeper >= 0
        self.reason[places[dropped]] = reason.value
        self.keeper[places[dropped]] = places[keeper[dropped]]

    def final_keeper(self) -> np.ndarray:
        """Keepers, followed to one that is kept in the end (a later kind of dedup may have dropped the first)."""
        final = self.keeper.copy()
        while (moved := (final >= 0) & (self.keeper[final] >= 0)).any():
            final[moved] = self.keeper[final[moved]]
        return final


def drop_duplicates(
    verdicts: Verdicts,
    places: np.ndarray,
    samples: pa.Table,
    vectors: pa.Table,
    row_of: pa.Array,
    settings: DedupSettings,
) -> None:
    """Marks in `verdicts` what is dropped for being like another sample.

    Args:
        places: int64, rows of `samples` that are not dropped yet, in order of preference.
        vectors: `schemas.tables.vectors(dim)`; its column `vector` is needed for semantic dedup only.
        row_of: for every row of `samples` its row in `vectors`; null where it has none.
    """
    if settings.exact:
        digests = _codes(samples["sha256"])[places]
        verdicts.drop_duplicates(places, exact_duplicates(digests), Reason.DUPLICATE_EXACT)
        places = verdicts.alive(places)
    if settings.perceptual is not None:
        hashed = places[pc.is_valid(samples["phash"]).to_numpy()[places]]
        hashes = _hashes(samples["phash"].take(pa.array(hashed)))
        keeper = perceptual_duplicates(hashes, settings.perceptual.max_hamming)
        verdicts.drop_duplicates(hashed, keeper, Reason.DUPLICATE_PERCEPTUAL)
        places = verdicts.alive(places)
    if settings.semantic is not None:
        stored = _matrix(vectors["vector"])[row_of.take(pa.array(places)).to_numpy()]
        keeper = semantic_duplicates(stored, settings.semantic.min_cosine)
        verdicts.drop_duplicates(places, keeper, Reason.DUPLICATE_SEMANTIC)


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """A number for each distinct value; a null is like no other."""
    codes = column.combine_chunks().dictionary_encode().indices
    own = pa.array(-1 - np.arange(len(codes), dtype=np.int32))
    return pc.coalesce(codes, own).to_numpy()


def _hashes(column: pa.ChunkedArray) -> np.ndarray:
    """16 hex digits -> uint64."""
    return np.frombuffer(bytes.fromhex("".join(column.to_pylist())), ">u8").astype(np.uint64)


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A column of fixed-size lists -> [n, dim]."""
    dim = column.type.list_size
    return np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim) for chunk in column.chunks])
