"""What acquire keeps of pictures to tell them again, as numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import SAMPLES

#: The columns of `schemas.tables.SAMPLES` that it is read from.
FINGERPRINT_COLUMNS = ["phash", "phash_variants", "thumbnail"]


@dataclass(frozen=True)
class Fingerprints:
    """Of n pictures, in order of preference (see `stages.acquire.fingerprint`).

    Attributes:
        hashes: uint64 [n, 4]: of the picture, of it mirrored, of its centre, of its centre mirrored.
        thumbnails: uint8 [n, 640], as in `schemas.tables.SAMPLES`.
        known: bool [n], False where there is no thumbnail and no hash but the first: there the hash alone decides.
    """

    hashes: np.ndarray
    thumbnails: np.ndarray
    known: np.ndarray

    def take(self, places: np.ndarray) -> Fingerprints:
        """Those at `places`."""
        return Fingerprints(self.hashes[places], self.thumbnails[places], self.known[places])


def fingerprints(samples: pa.Table) -> Fingerprints:
    """Reads `FINGERPRINT_COLUMNS`; every row must have a `phash`."""
    phash, variants, thumbnail = (
        pa.chunked_array(samples[name].chunks, SAMPLES.field(name).type).combine_chunks()
        for name in FINGERPRINT_COLUMNS
    )
    own = np.frombuffer(bytes.fromhex("".join(phash.to_pylist())), ">u8").astype(np.uint64)
    known = pc.and_(variants.is_valid(), thumbnail.is_valid())
    rows = np.flatnonzero(known.to_numpy(zero_copy_only=False))
    hashes = np.repeat(own[:, None], 1 + variants.type.list_size, axis=1)
    hashes[rows, 1:] = variants.filter(known).flatten().to_numpy().reshape(len(rows), variants.type.list_size)
    width = thumbnail.type.byte_width
    thumbnails = np.zeros((len(own), width), np.uint8)
    there = thumbnail.filter(known)
    data = there.buffers()[1] if len(rows) else b""
    thumbnails[rows] = np.frombuffer(data, np.uint8, len(rows) * width, there.offset * width).reshape(-1, width)
    return Fingerprints(hashes, thumbnails, np.isin(np.arange(len(own)), rows))
