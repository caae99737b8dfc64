"""The section `select.dedup` of the recipe."""

from __future__ import annotations

from pydantic import Field

from schemas.settings import Settings
from stages.select.dedup.link import Link


class PerceptualSettings(Settings):
    """Nearly the same pixels, by perceptual hash; thumbnails tell apart what shares no more than a background."""

    max_hamming: int = Field(default=6, ge=0, le=16, description="bits of 64 in which the hashes may differ")
    mirrored: bool = Field(default=True, description="a picture and its mirror image are one")
    cropped: bool = Field(default=True, description="a picture and its centre, 90% of each side, are one")
    min_likeness: float | None = Field(
        default=0.96, gt=0, le=1, description="correlation of the thumbnails' luma; null trusts the hash alone"
    )
    max_colour_shift: float = Field(
        default=24, ge=0, description="levels of 255 by which the thumbnails' colours may differ; luma twice as far"
    )


class SemanticSettings(Settings):
    """Nearly the same content, by CLIP vector (SemDeDup, Abbas et al. 2023)."""

    min_cosine: float = Field(
        default=0.96, gt=0, le=1, description="cosine of two pictures' vectors from which they are one"
    )


class DedupSettings(Settings):
    """Which kinds of duplicates are dropped, in this order."""

    exact: bool = Field(default=True, description="the same bytes, or the same decoded pixels")
    perceptual: PerceptualSettings | None = Field(default=None, description="null leaves it out")
    semantic: SemanticSettings | None = Field(default=None, description="null leaves it out")
    link: Link = Field(
        default="to_kept",
        description="what goes of a chain A-B-C in which A and C are not near each other: to_kept drops only what is "
        "itself near a kept sample (B); single takes the whole chain for one group and keeps the best of it (B and C "
        "go). The best has the highest CLIP score, then the most pixels, then the lowest row",
    )
    against: list[str] = Field(
        default=[],
        description="earlier runs' folders: what they kept counts as kept here, before all rows, in each kind of dedup",
    )

    def columns(self) -> list[str]:
        """The columns of `schemas.tables.SAMPLES` by which samples are compared."""
        exact = ["sha256", "pixels_sha256"] if self.exact else []
        return exact + (["phash", "phash_variants", "thumbnail"] if self.perceptual is not None else [])
