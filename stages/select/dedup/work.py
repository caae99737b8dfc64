"""Asks every kind of dedup in turn."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import InputError
from schemas.vocabulary import Reason
from stages.select.dedup.earlier import Earlier
from stages.select.dedup.exact import exact_duplicates
from stages.select.dedup.fingerprints import FINGERPRINT_COLUMNS, fingerprints
from stages.select.dedup.perceptual import perceptual_duplicates
from stages.select.dedup.semantic import semantic_duplicates
from stages.select.dedup.settings import DedupSettings
from stages.select.vectors import matrix


@dataclass
class Verdicts:
    """What is decided so far, by place in the table of samples.

    Attributes:
        reason: object [n], None where not dropped.
        keeper: int64 [n], place of the row that was kept instead; -1 where the row is no duplicate. Places from n on
            are those of rows that earlier runs kept (see `drop_duplicates`).
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
        own = len(final)
        while (moved := (final >= 0) & (final < own) & (self.keeper[np.minimum(final, own - 1)] >= 0)).any():
            final[moved] = self.keeper[final[moved]]
        return final


def drop_duplicates(
    verdicts: Verdicts,
    places: np.ndarray,
    samples: pa.Table,
    vectors: pa.Table,
    row_of: pa.Array,
    settings: DedupSettings,
    earlier: Earlier | None = None,
) -> None:
    """Marks in `verdicts` what is dropped for being like another sample.

    Args:
        places: int64, rows of `samples` that are not dropped yet, in order of preference.
        vectors: `schemas.tables.vectors(dim)`; its column `vector` is needed for semantic dedup only.
        row_of: for every row of `samples` its row in `vectors`; null where it has none.
        earlier: what earlier runs kept: it comes before all of `samples`, and stays. In `verdicts` its places follow
            those of `samples`.

    Raises:
        InputError: an earlier run's vectors have another length.
    """
    if earlier is not None:
        own, added = samples.num_rows, earlier.samples.num_rows
        row_of = pa.concat_arrays([row_of, pa.array(vectors.num_rows + np.arange(added), row_of.type)])
        samples, vectors = _with_earlier(samples, vectors, earlier)
        both = Verdicts(np.concatenate([verdicts.reason, np.full(added, None)]))
        places = np.concatenate([own + np.arange(added), places])
        _ask_each_kind(both, places, samples, vectors, row_of, settings, own)
        verdicts.reason, verdicts.keeper = both.reason[:own], both.keeper[:own]
    else:
        _ask_each_kind(verdicts, places, samples, vectors, row_of, settings, samples.num_rows)


def _ask_each_kind(
    verdicts: Verdicts,
    places: np.ndarray,
    samples: pa.Table,
    vectors: pa.Table,
    row_of: pa.Array,
    settings: DedupSettings,
    own: int,
) -> None:
    """`own`: from this place on, samples are earlier runs'; they stand first in `places` and are never dropped."""
    settled = int((places >= own).sum())
    if settings.exact:
        keeper = exact_duplicates(*(_codes(samples[name])[places] for name in ("sha256", "pixels_sha256")))
        keeper[:settled] = -1
        verdicts.drop_duplicates(places, keeper, Reason.DUPLICATE_EXACT)
        places = verdicts.alive(places)
    if settings.perceptual is not None:
        hashed = places[pc.is_valid(samples["phash"]).to_numpy()[places]]
        prints = fingerprints(samples.select(FINGERPRINT_COLUMNS).take(pa.array(hashed)))
        keeper = perceptual_duplicates(prints, settings.perceptual, settings.link, int((hashed >= own).sum()))
        verdicts.drop_duplicates(hashed, keeper, Reason.DUPLICATE_PERCEPTUAL)
        places = verdicts.alive(places)
    if settings.semantic is not None:
        stored = matrix(vectors["vector"])[row_of.take(pa.array(places)).to_numpy()]
        keeper = semantic_duplicates(stored, settings.semantic.min_cosine, settings.link, settled)
        verdicts.drop_duplicates(places, keeper, Reason.DUPLICATE_SEMANTIC)


def _with_earlier(samples: pa.Table, vectors: pa.Table, earlier: Earlier) -> tuple[pa.Table, pa.Table]:
    """Samples, and vectors where they are asked for, followed by those of earlier runs."""
    columns = [name for name in earlier.samples.column_names if name in samples.column_names]
    samples = pa.concat_tables([samples.select(columns), earlier.samples.select(columns)])
    if earlier.vectors is None:
        return samples, vectors
    there, added = vectors.schema.field("vector").type, earlier.vectors.schema.field("vector").type
    if there != added:
        raise InputError(
            f"select.dedup.against: vectors there have {added.list_size} numbers, here {there.list_size}; "
            "compare runs that were embedded by one CLIP model"
        )
    return samples, pa.concat_tables([vectors.select(["vector"]), earlier.vectors])


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """A number for each distinct value; a null is like no other."""
    codes = column.combine_chunks().dictionary_encode().indices
    own = pa.array(-1 - np.arange(len(codes), dtype=np.int32))
    return pc.coalesce(codes, own).to_numpy()
