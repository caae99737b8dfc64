"""A model's vectors as numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from stages.select.candidates import Candidates


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """The column `vector` of `schemas.tables.vectors(dim)` as float16 [rows, dim]."""
    dim = column.type.list_size
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim) for chunk in column.chunks]
    return np.concatenate([np.empty((0, dim), np.float16), *chunks])


def stored_vectors(rows: Candidates, model: str) -> tuple[np.ndarray, np.ndarray]:
    """A model's vectors as they are stored, and where among them each row's is.

    Returns:
        float16 [pictures, dim], and int64 [rows]: a place in it, -1 where the row has no picture.
    """
    return matrix(rows.vectors[model]["vector"]), rows.places_in(model)
