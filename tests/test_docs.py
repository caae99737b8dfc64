"""The README and the docs are true: commands parse, recipes load, code runs, links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
import typer
import yaml

from pipelines.cli import app
from pipelines.recipe import parse_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "bench/README.md"]


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def test_the_readme_opens_with_the_two_commands() -> None:
    first = _blocks(ROOT / "README.md", "bash")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make demo", "make test"]
    for command in ("make demo", "make test"):
        ran = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    assert "make test" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    group = typer.main.get_command(app)
    for line in "\n".join(_blocks(page, "bash")).splitlines():
        words = shlex.split(line, comments=True)
        if not words or Path(words[0]).name != "sluice":
            continue
        command = group.commands[words[1]]  # type: ignore[attr-defined]
        try:
            command.make_context(words[1], words[2:])
        except click.ClickException as error:
            pytest.fail(f"{page.name}: {line}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_load(page: Path) -> None:
    for block in _blocks(page, "yaml"):
        data = yaml.safe_load(block)
        if "source" in data:
            parse_recipe(data, page.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_runs(page: Path) -> None:
    for block in _blocks(page, "python"):
        exec(compile(ast.parse(block), page.name, "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_recipes_that_the_docs_name_are_there() -> None:
    for page in PAGES:
        for name in re.findall(r"pipelines/recipes/[\w.-]+\.yaml", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_docs_name_every_recipe() -> None:
    page = (ROOT / "docs/recipes.md").read_text()
    for recipe in (ROOT / "pipelines/recipes").glob("*.yaml"):
        assert f"{recipe.name}`" in page, f"docs/recipes.md does not name {recipe.name}"


def test_the_torch_pins_agree_with_the_lock() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lock = (ROOT / "constraints.txt").read_text().splitlines()
    for name in ("torch", "torchvision", "prefect"):
        assert any(line.startswith(f"{name}==") and line in wanted for line in lock), name


def test_compose_is_well_formed() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert {"postgres", "prefect", "sluice"} == set(compose["services"])
    assert "shm_size" in compose["services"]["sluice"]
