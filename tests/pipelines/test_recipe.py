"""Recipes: every wrong one is refused with one line that says what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.recipe import Recipe, load_recipe, parse_recipe, to_yaml
from schemas.errors import InputError

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "pipelines/recipes").glob("*.yaml"))


def _write(folder: Path, data: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_load_and_resolve_to_themselves(path: Path) -> None:
    recipe = load_recipe(path)
    again = parse_recipe(yaml.safe_load(to_yaml(recipe)), "resolved")
    assert again == recipe


def test_the_least_recipe_is_a_name_and_a_table(tmp_path: Path) -> None:
    recipe = load_recipe(_write(tmp_path, {"name": "a", "source": {"table": "a.parquet"}}))
    assert recipe.acquire.allow_networks == [] or recipe.acquire.allow_networks == ()
    assert recipe.train == [] and recipe.model is None


LEAST: dict[str, Any] = {"name": "a", "source": {"table": "a.parquet"}}
LANGUAGE = {"name": "somewhere"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aquire": {}}, "unknown key 'aquire'; did you mean 'acquire'"),
        ({"acquire": {"sise": 3}}, "unknown key 'acquire.sise'; did you mean 'size'"),
        ({"select": {"dedup": {"perceptual": {"max_haming": 3}}}}, "did you mean 'max_hamming'"),
        ({"source": {"tabel": "x"}}, "source"),
        ({"source": {}}, "key 'source.table' is missing"),
        ({"acquire": {"size": "big"}}, "acquire.size"),
        ({"acquire": {"allow_networks": ["127.0.0.1/99"]}}, "allow_networks"),
        ({"instruct": {"kinds": {"cuont": 1}}}, "there is no kind 'cuont'"),
        ({"instruct": {"kinds": {"count": 2}}}, "between 0 and 1"),
        ({"instruct": {"kinds": {"detail": 0.1}}}, "need an endpoint"),
        ({"train": [{"name": "a", "learn": {"conector": 1e-3}}]}, "'conector' is no part of a language step"),
        ({"train": [{"name": "a", "learn": {"connector": 1e-3}}]}, "needs a model section"),
        ({"train": [{"name": "a", "lern": {}}]}, "did you mean 'learn'"),
        ({"model": {"language": LANGUAGE, "connector": "qformer"}}, "there is no connector 'qformer'"),
        ({"model": {"language": LANGUAGE, "fusion": "cross_attention"}}, "fusion"),
        ({"model": {"language": {}}}, "name"),
        ({"evaluate": {}}, "evaluate"),
        ({"name": "../up"}, "name"),
    ],
)
def test_wrong_recipes_are_refused_in_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = _write(tmp_path, {**LEAST, **change})
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "a: b: c"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="YAML|mapping"):
        load_recipe(_write(tmp_path, text))


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no recipe .*nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_values_can_be_set_from_the_command_line(tmp_path: Path) -> None:
    path = _write(tmp_path, {**LEAST, "select": {"clip": {"keep": {"top": 0.5}}}})
    recipe = load_recipe(path, ["source.table=b.csv", "select.clip.keep.top=0.25", "acquire.size=128", "seed=3"])
    assert (recipe.source.table, recipe.acquire.size, recipe.seed) == ("b.csv", 128, 3)
    assert recipe.select.clip.keep is not None and recipe.select.clip.keep.top == 0.25
    demo = load_recipe(ROOT / "pipelines/recipes/demo.yaml", ["train.1.epochs=2"])
    assert demo.train[1].epochs == 2


@pytest.mark.parametrize("override", ["size", "=3", "train.9.epochs=1", "seed.x=1", "acquire.sise=1", "a=["])
def test_wrong_overrides_are_refused(override: str) -> None:
    with pytest.raises(InputError):
        load_recipe(ROOT / "pipelines/recipes/demo.yaml", [override])


def test_every_setting_says_what_it_is() -> None:
    def undescribed(model: Any, path: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            inner = [
                arg
                for arg in (field.annotation, *getattr(field.annotation, "__args__", ()))
                if hasattr(arg, "model_fields")
            ]
            for part in inner:
                found += undescribed(part, f"{path}{name}.")
            if not inner and not field.description:
                found.append(f"{path}{name}")
        return found

    assert undescribed(Recipe, "") == []
