"""DataComp's "image-based filtering": pictures that look like those of a reference set, for example ImageNet's."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pyarrow.compute as pc
from pydantic import Field

from models.compat import use_cores
from schemas.errors import InputError
from schemas.vocabulary import Reason
from stages.select.candidates import Candidates
from stages.select.references import reference_content
from stages.select.strategies.base import References, Strategy, new_measure
from stages.select.vectors import stored_vectors

_ROUNDS = 20
_SEED = 0
_LEARNED_PER_CLUSTER = 64
_BLOCK = 65_536


class ImageBased(Strategy):
    """Pictures in those clusters of all pictures' vectors that are the nearest one to a reference picture.

    DataComp makes 100,000 clusters of its small pool's 12.8 million pictures, and asks for English captions beside it.
    """

    reference: str = Field(description="a folder of pictures, or a finished run: the pictures that it kept")
    clusters: int = Field(default=1000, ge=1, description="clusters that all pictures are put into")
    model: str | None = Field(default=None, description="a name of select.models; the model of select.clip where null")

    def ask(self, rows: Candidates, key: str, references: References) -> None:
        stored, place = stored_vectors(rows, self.model_name())
        order = pc.sort_indices(rows.samples["sample_id"]).to_numpy()
        by_id = place[order[place[order] >= 0]]
        near = near_references(stored, by_id, references[self.reference, self.model_name()], self.clusters)
        rows.measure(measure := new_measure(rows, "references_near"), np.append(near, np.float32(np.nan))[place])
        rows.drop(np.isnan(rows.measures[measure]), Reason.BAD_VECTOR)
        rows.ask(key, measure, "at_least", 1.0, Reason.IMAGE_BASED)

    def model_name(self) -> str:
        return self.model or ""

    def reads_vectors(self) -> bool:
        return True

    def needs_all_rows(self) -> str:
        return "its clusters are those of all pictures; give clip_score: {min: COSINE} or text_based"

    def reference_pictures(self) -> str:
        return self.reference

    def content(self) -> Any:
        return reference_content(self.reference)


def near_references(vectors: np.ndarray, order: np.ndarray, references: np.ndarray, clusters: int) -> np.ndarray:
    """For each vector the number of references whose nearest cluster centre is that of its own cluster.

    The clusters are those of k-means by cosine, on at most 64 vectors for each.

    Args:
        vectors: floating [n, dim].
        order: int64, places of all or some of them in an order of their own, on which nothing else may depend; k-means
            begins from vectors drawn by it.
        references: floating [m, dim].

    Returns:
        float32 [n]; NaN where a vector is zero or not finite.

    Raises:
        InputError: no reference is a vector.
    """
    use_cores()
    references = references[_good(references)]
    if not len(references):
        raise InputError("select.strategy: image_based: none of the reference pictures has a vector that is a number")
    good = _good(vectors)
    near = np.full(len(vectors), np.nan, np.float32)
    order = order[good[order]]
    if not len(order):
        return near
    clusters = min(clusters, len(order))
    learned = min(len(order), clusters * _LEARNED_PER_CLUSTER)
    drawn = order[np.sort(np.random.default_rng(_SEED).choice(len(order), learned, replace=False))]
    kmeans = faiss.Kmeans(vectors.shape[1], clusters, niter=_ROUNDS, spherical=True, seed=_SEED,
                          min_points_per_centroid=1, max_points_per_centroid=_LEARNED_PER_CLUSTER)  # fmt: skip
    kmeans.train(_unit(vectors[drawn]))
    named = np.bincount(_clusters(kmeans, references), minlength=clusters)
    places = np.flatnonzero(good)
    near[places] = named[_clusters(kmeans, vectors, places)]
    return near


def _clusters(kmeans: faiss.Kmeans, vectors: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
    """The nearest centre of each vector, or of those at `places`, int64."""
    places = np.arange(len(vectors)) if places is None else places
    blocks = [places[start : start + _BLOCK] for start in range(0, len(places), _BLOCK)]
    return np.concatenate([kmeans.index.search(_unit(vectors[block]), 1)[1][:, 0] for block in blocks])


def _good(vectors: np.ndarray) -> np.ndarray:
    """bool [n]: finite and not zero."""
    starts = range(0, len(vectors), _BLOCK)
    length = np.concatenate([np.empty(0, np.float32), *(_length(vectors[start : start + _BLOCK]) for start in starts)])
    return np.isfinite(length) & (length > 0)


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors.astype(np.float32), axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    exact = vectors.astype(np.float32)
    return exact / np.linalg.norm(exact, axis=1, keepdims=True)
