"""The section `select` of the recipe."""

from __future__ import annotations

from pydantic import Field, model_validator

from models.clip import ClipSettings
from schemas.settings import Settings
from stages.select.rules import RuleSettings


class KeepSettings(Settings):
    """Which samples fit their captions well enough: one of the two."""

    min: float | None = Field(default=None, ge=-1, le=1, description="cosine of picture and caption at least")
    top: float | None = Field(
        default=None, gt=0, le=1, description="share of all scored samples that is kept, best first"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> KeepSettings:
        if (self.min is None) == (self.top is None):
            raise ValueError("give either 'min' (a cosine) or 'top' (a share)")
        return self


class ClipFilterSettings(ClipSettings):
    """The model that embeds, and the threshold on its score."""

    keep: KeepSettings | None = Field(
        default=None, description="{min: cosine} or {top: share}; every score is kept where null"
    )


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


class SelectSettings(Settings):
    """What is kept. Changing any of it but the CLIP model downloads and embeds nothing again."""

    clip: ClipFilterSettings = ClipFilterSettings()
    rules: RuleSettings = RuleSettings()  # type: ignore[valid-type]
    dedup: DedupSettings = DedupSettings()
