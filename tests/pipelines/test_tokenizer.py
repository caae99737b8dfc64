"""A tokenizer that is learned from a run's conversations: small, whole, and one that a model from scratch takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from models.full import build_model
from pipelines.cli import app
from stages.run_folder import RunFolder
from tests.models.conftest import TEMPLATE, make_tokenizer
from tests.stages.feed.tiny_run import make_model, make_run


def _told(status: int, *arguments: object) -> str:
    told = CliRunner().invoke(app, ["tokenizer", *map(str, arguments)], env={"COLUMNS": "300"})
    assert told.exit_code == status, told.output
    return told.output


def _run(folder: Path) -> RunFolder:
    run = make_run(folder, parts=2)
    run.path("recipe.yaml").write_text("name: t\n")
    return run


def test_it_holds_every_text_in_fewer_tokens_and_a_model_takes_it(tmp_path: Path) -> None:
    run, like = _run(tmp_path / "run"), make_tokenizer(tmp_path / "like", TEMPLATE, "nothing of the kind")
    for folder in ("made", "again"):
        assert "303 tokens; set model.language.tokenizer" in _told(0, run.root, tmp_path / folder, "--like", like)
    assert (tmp_path / "made/tokenizer.json").read_bytes() == (tmp_path / "again/tokenizer.json").read_bytes()
    made, old = AutoTokenizer.from_pretrained(tmp_path / "made"), AutoTokenizer.from_pretrained(like)
    for text in ("A field, all green.", "Which colour? Überall 青!"):
        assert made.decode(made(text)["input_ids"]) == text
    assert len(made("A field, all green.")["input_ids"]) < len(old("A field, all green.")["input_ids"])
    assert (made.eos_token, made.chat_template) == (old.eos_token, old.chat_template)
    settings = make_model(tmp_path / "model").model_dump()
    settings["language"]["tokenizer"] = str(tmp_path / "made")
    model, _ = build_model(type(make_model(tmp_path / "model")).model_validate(settings), seed=0)
    assert model.language.get_input_embeddings().num_embeddings < 330


def test_wrong_input_is_told(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    assert "must be 300 or more" in _told(2, run.root, tmp_path / "t", "--like", tmp_path, "--size", 20)
    assert "cannot load this tokenizer" in _told(2, run.root, tmp_path / "t", "--like", tmp_path)
    for path in run.path("conversations").iterdir():
        path.unlink()
    assert "run it until instruct" in _told(2, run.root, tmp_path / "t", "--like", tmp_path)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
