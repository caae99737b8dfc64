"""Rules on the size and shape of the original picture."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from schemas.vocabulary import Reason
from stages.select.rules.base import Rule


class MinSide(Rule):
    name = "min_side_px"
    reason = Reason.PICTURE_TOO_SMALL
    limit = (int | None, Field(None, ge=1, description="shorter side of the original picture at least, pixels"))
    measure = "shorter_side_px"
    keeps = "at_least"

    @staticmethod
    def measured(samples: pa.Table, limit: int) -> pa.ChunkedArray:
        return pc.min_element_wise(*_sides(samples), skip_nulls=False)


class MinArea(Rule):
    name = "min_area_px"
    reason = Reason.PICTURE_TOO_SMALL
    limit = (int | None, Field(None, ge=1, description="pixels of the original picture at least: width x height"))
    measure = "area_px"
    keeps = "at_least"

    @staticmethod
    def measured(samples: pa.Table, limit: int) -> pa.ChunkedArray:
        return pc.multiply(*_sides(samples))


class MaxArea(Rule):
    name = "max_area_px"
    reason = Reason.PICTURE_TOO_LARGE
    limit = (int | None, Field(None, ge=1, description="pixels of the original picture at most: width x height"))
    measure = "area_px"
    keeps = "at_most"

    @staticmethod
    def measured(samples: pa.Table, limit: int) -> pa.ChunkedArray:
        return pc.multiply(*_sides(samples))


class MaxAspect(Rule):
    name = "max_aspect"
    reason = Reason.ASPECT_RATIO
    limit = (float | None, Field(None, ge=1, description="longer side divided by shorter side at most"))
    measure = "aspect"
    keeps = "at_most"

    @staticmethod
    def measured(samples: pa.Table, limit: float) -> pa.ChunkedArray:
        sides = _sides(samples)
        return pc.divide(pc.max_element_wise(*sides, skip_nulls=False), pc.min_element_wise(*sides, skip_nulls=False))


def _sides(samples: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    return samples["original_width"].cast(pa.float64()), samples["original_height"].cast(pa.float64())
