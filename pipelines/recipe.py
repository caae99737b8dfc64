"""The recipe: one YAML file is one run. It reads from top to bottom in the order of the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from models.full import ModelSettings
from schemas.errors import InputError
from schemas.settings import Settings, explain
from stages.acquire import AcquireSettings
from stages.evaluate import EvaluateSettings
from stages.feed.settings import FeedSettings
from stages.instruct import InstructSettings
from stages.select import SelectSettings
from stages.source import SourceSettings
from stages.train.settings import TrainStep


class RaySettings(Settings):
    """The Ray that the stages run on."""

    address: str | None = Field(None, description="an existing cluster (`auto` or ray://...); a local one where null")
    num_cpus: int = Field(4, ge=4, description="logical CPUs of a local Ray; more than the cores there are is fine")
    train_workers: int = Field(
        1, ge=1, description="processes that train, each with its own copy or shard of the model"
    )
    shard: bool | None = Field(
        None,
        description="each training worker holds a part of the model (FSDP2); where null: several GPUs do",
    )


class Recipe(Settings):
    """Everything that decides what a run does. Sections that are left out have their defaults; see docs/recipes.md."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="names the run folder: runs/NAME")
    seed: int = Field(0, ge=0, description="all chance in the run comes from it")
    source: SourceSettings
    acquire: AcquireSettings = AcquireSettings()
    select: SelectSettings = SelectSettings()
    instruct: InstructSettings = InstructSettings()
    feed: FeedSettings = FeedSettings()
    model: ModelSettings | None = Field(None, description="the model that language steps train")
    train: list[TrainStep] = Field(default_factory=list, description="training steps, in order")
    evaluate: EvaluateSettings | None = Field(None, description="left out: the model is not evaluated")
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [step.name for step in self.train]
        if len(set(names)) < len(names):
            raise ValueError("train: two steps have the same name")
        objectives = {step.objective for step in self.train}
        if len(objectives) > 1:
            raise ValueError("train: contrastive and language steps cannot stand in one recipe")
        if "language" in objectives and self.model is None:
            raise ValueError("model: a language step needs a model section (vision, connector, language)")
        if self.evaluate and "language" not in objectives:
            raise ValueError("evaluate: only a model trained by a language step can be asked questions")
        if self.instruct.asks_endpoint() and self.instruct.endpoint is None:
            raise ValueError("instruct.endpoint: kinds conversation, detail and reasoning need an endpoint")
        return self

    @property
    def contrastive(self) -> bool:
        return any(step.objective == "contrastive" for step in self.train)


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Reads and checks a recipe.

    Args:
        overrides: `key=value` texts as `--set` takes them; a key is dotted (`select.clip.keep.top`, `train.0.epochs`),
            a value is YAML.

    Raises:
        InputError: one line with file, key, what is wrong and what would be right.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"there is no recipe {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the recipe {path}: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: a recipe is a mapping of sections (source, acquire, select, ...)")
    for override in overrides or []:
        _override(data, override)
    return parse_recipe(data, str(path))


def parse_recipe(data: dict[str, Any], where: str) -> Recipe:
    """Checks a recipe that was read already.

    Raises:
        InputError: with `where`, the key, what is wrong and what would be right.
    """
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise explain(error, Recipe, where) from None


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override}: must be key=value, for example select.clip.keep.top=0.3")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: the value is not YAML: {error}") from error
    *path, last = key.split(".")
    section: Any = data
    for name in path:
        if isinstance(section, list):
            section = section[_index(section, name, override)]
            continue
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict | list):
            raise InputError(f"--set {override}: '{name}' is not a section")
    if isinstance(section, list):
        section[_index(section, last, override)] = value
    else:
        section[last] = value


def _index(section: list[Any], name: str, override: str) -> int:
    if not name.isdigit() or int(name) >= len(section):
        raise InputError(f"--set {override}: '{name}' must be a number below {len(section)}")
    return int(name)


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, every default written out; loading it again gives the same recipe."""
    data = recipe.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)
