"""The section `select` of the recipe."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.clip import ClipSettings
from schemas.settings import Settings
from stages.select.dedup.settings import DedupSettings
from stages.select.evaluation_sets import EvaluationSet
from stages.select.filter_network import FilterTrainSettings
from stages.select.heads import HeadSettings
from stages.select.rules import RuleSettings
from stages.select.strategies import StrategySetting

#: Names folders, manifests and columns.
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class KeepSettings(Settings):
    """Which samples fit their captions well enough: one of `min` and `top`."""

    min: float | None = Field(default=None, ge=-1, le=1, description="cosine of picture and caption at least")
    top: float | None = Field(
        default=None, gt=0, le=1, description="share of all scored samples that is kept, best first"
    )
    by: Literal["all", "language", "source"] = Field(
        default="all",
        description="of what `top` is a share: of all samples, or of those in each caption language (as detected) or "
        "from each source (the URL's host; the folder, where pictures are not downloaded)",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> KeepSettings:
        if (self.min is None) == (self.top is None):
            raise ValueError("give either 'min' (a cosine) or 'top' (a share)")
        if self.min is not None and self.by != "all":
            raise ValueError(f"'by: {self.by}' goes with 'top': 'min' is the same for every {self.by}")
        return self

    @property
    def form(self) -> str:
        """The key that was given."""
        return "top" if self.min is None else "min"


class ClipFilterSettings(ClipSettings):
    """The model that embeds, and the threshold on its score."""

    keep: KeepSettings | None = Field(
        default=None, description="{min: cosine} or {top: share}; every score is kept where null"
    )
    train: FilterTrainSettings | None = Field(
        default=None, description="trains the model on trusted pairs before it scores, from the weights named above"
    )

    @model_validator(mode="after")
    def _trainable(self) -> ClipFilterSettings:
        if self.train is not None and ":" in self.model:
            raise ValueError("train: a model that brings its own weights cannot be trained; name an OpenCLIP model")
        return self


class SelectSettings(Settings):
    """What is kept. Changing any of it but the CLIP model downloads and embeds nothing again."""

    clip: ClipFilterSettings = ClipFilterSettings()
    models: dict[Name, ClipSettings] = Field(
        default={},
        description="further CLIP models that embed beside it, by names of your own, for heads and strategies",
    )
    rules: RuleSettings = RuleSettings()  # type: ignore[valid-type]
    heads: dict[Name, HeadSettings] = Field(
        default={}, description="quality heads on CLIP vectors, by names of your own: aesthetic, watermark, unsafe"
    )
    strategy: StrategySetting = Field(
        default="none",
        validate_default=True,
        description="none, basic, text_based, clip_score or image_based, as DataComp has them; or lists of them under "
        "all (what every one keeps) or any (what one of them keeps)",
    )
    dedup: DedupSettings = DedupSettings()
    decontaminate: list[EvaluationSet] = Field(
        default=[],
        description="evaluation sets whose pictures and questions must not be trained on; hits are listed in "
        "contamination.parquet",
    )

    @model_validator(mode="after")
    def _models_are_there(self) -> SelectSettings:
        asked = [(f"heads.{name}.model", head.model) for name, head in self.heads.items()]
        asked += [(f"strategy: {part.name()}.model", part.model_name()) for part in self.strategy.parts()]
        for where, name in asked:
            if name and name not in self.models:
                near = difflib.get_close_matches(name, self.models, n=1)
                known = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(self.models) or 'none'}"
                raise ValueError(f"{where}: no model is called '{name}' under select.models; {known}")
        return self
