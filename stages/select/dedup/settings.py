"""The section `select.dedup` of the recipe."""

from __future__ import annotations

from pydantic import Field

from schemas.settings import Settings


class PerceptualSettings(Settings):
    """Nearly the same pixels, by perceptual hash."""

    max_hamming: int = Field(default=6, ge=0, le=16, description="bits of 64 in which the hashes may differ")


class SemanticSettings(Settings):
    """Nearly the same content, by CLIP vector (SemDeDup, Abbas et al. 2023)."""

    min_cosine: float = Field(
        default=0.96, gt=0, le=1, description="cosine of two pictures' vectors from which they are one"
    )


class DedupSettings(Settings):
    """Which kinds of duplicates are dropped, in this order."""

    exact: bool = Field(default=True, description="the same bytes")
    perceptual: PerceptualSettings | None = Field(default=None, description="null leaves it out")
    semantic: SemanticSettings | None = Field(default=None, description="null leaves it out")
