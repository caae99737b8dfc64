"""The whole line on a known world: what comes out, that it is accounted for, and that it is the same every time."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from schemas.identity import digest_file
from schemas.tables import LEDGER
from stages.run_folder import RunFolder
from stages.tar import read_members
from tests.end_to_end.conftest import SCENES, Sluice, environment, kill_when
from tests.models.test_export import STRANGER


def _ledger(run: Path) -> list[dict]:
    return RunFolder(run).read_table("ledger").to_pylist()


def _digests(run: Path, *folders: str) -> dict[str, str]:
    """Digest of every file under `folders` of a run, by its path in it."""
    return {
        str(path.relative_to(run)): digest_file(path)
        for folder in folders
        for path in sorted((run / folder).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


DATA = ("source", "samples", "vectors", "conversations", "shards", "plan", "lengths", "ledger")


def test_every_source_row_stands_in_the_ledger_once_with_its_fate(finished: Path, world: Path) -> None:
    ledger = _ledger(finished)
    source = pq.read_table(world / "urls.parquet")
    assert pq.read_table(finished / "ledger" / "00000.parquet").schema.equals(LEDGER)
    assert [row["row"] for row in ledger] == list(range(SCENES))
    assert [row["url"] for row in ledger] == source["url"].to_pylist()
    kept = [row for row in ledger if row["state"] == "kept"]
    dropped = Counter(row["reason"] for row in ledger if row["state"] == "dropped")
    assert len(kept) + dropped.total() == SCENES
    assert all(row["shard"] and row["split"] in ("train", "val") for row in kept)


def test_trouble_is_dropped_for_its_own_reason(finished: Path, world: Path) -> None:
    truth = pq.read_table(world / "truth.parquet").to_pylist()
    reasons = {
        "missing": {"http_4xx"}, "html": {"not_a_picture"}, "broken": {"decode_error"}, "robots": {"robots_txt"},
        "opt_out": {"opt_out"}, "huge": {"too_many_pixels"}, "tiny": {"too_few_pixels", "picture_too_small"},
        "boilerplate_caption": {"caption_short", "caption_boilerplate"},
    }  # fmt: skip
    fate = {row["row"]: row["reason"] for row in _ledger(finished)}
    seen = set()
    for row in truth:
        if row["noise"] in reasons:
            assert fate[row["row"]] in reasons[row["noise"]], row
            seen.add(row["noise"])
    assert len(seen) >= 6


def test_of_exact_duplicates_one_is_kept(finished: Path, world: Path) -> None:
    truth = pq.read_table(world / "truth.parquet").to_pylist()
    ledger = _ledger(finished)
    by_id = {row["sample_id"]: row for row in ledger}
    for row in truth:
        if row["noise"] == "duplicate_exact":
            pair = [ledger[row["row"]], ledger[row["copied_row"]]]
            assert sum(one["state"] == "kept" for one in pair) <= 1
            for one in pair:
                if one["duplicate_of"]:
                    assert by_id[one["duplicate_of"]]["reason"] in (None, "no_conversation", "too_long")


def test_shards_hold_what_the_ledger_says_at_its_offset(finished: Path) -> None:
    kept = [row for row in _ledger(finished) if row["state"] == "kept"]
    for row in kept[:20]:
        data = (finished / "shards" / row["shard"]).read_bytes()
        name = data[row["shard_offset"] : row["shard_offset"] + 100].rstrip(b"\0").decode()
        record = dict(read_members(finished / "shards" / row["shard"], "json"))[name.split(".")[0]]
        assert json.loads(record)["sample_id"] == row["sample_id"]


def test_the_run_prints_funnel_losses_evaluation_and_what_to_do_next(finished: Path) -> None:
    printed = json.loads(finished.with_suffix(".json").read_text())["out"]
    for wanted in ("The funnel", "duplicate_exact", "Training", "instruct", "Held-out questions", "95% bootstrap",
                   "report:", "sluice ask"):  # fmt: skip
        assert wanted in printed
    for name in ("report.html", "eval.json", "recipe.yaml", "model/config.json", "decisions.parquet"):
        assert (finished / name).exists(), name


def test_progress_is_told_in_a_log_with_rates(finished: Path) -> None:
    told = json.loads(finished.with_suffix(".json").read_text())["err"]
    assert f"acquire: {SCENES} rows in" in told and "rows/s" in told
    assert "train instruct: step" in told


def test_started_again_it_does_nothing_again(finished: Path, sluice: Sluice, recipe: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.tar")}
    before |= {path: path.stat().st_mtime_ns for path in finished.rglob("final.safetensors")}
    sluice("run", recipe, "--run-dir", finished)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_run_with_three_download_actors_gives_the_same_bytes(
    finished: Path, sluice: Sluice, recipe: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    sluice("run", recipe, "--run-dir", again, "--set", "acquire.actors=3", "--until", "feed")
    assert _digests(again, *DATA) == _digests(finished, *DATA)
    assert digest_file(again / "decisions.parquet") == digest_file(finished / "decisions.parquet")


@pytest.mark.slow
def test_killed_in_three_stages_and_started_again_it_ends_the_same(
    finished: Path, sluice: Sluice, prefect_server: str, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    variables = {**environment(tmp_path), "PREFECT_API_URL": prefect_server}
    for ready in ("manifests/acquire/*.json", "manifests/instruct/*.json", "checkpoints/instruct/state/*"):
        kill_when(ready, run, variables, "run", recipe, "--run-dir", run)
    assert not (run / "checkpoints/instruct/final.safetensors").exists()
    sluice("run", recipe, "--run-dir", run)
    assert _digests(run, *DATA) == _digests(finished, *DATA)
    for step in ("align", "instruct"):
        name = f"checkpoints/{step}/final.safetensors"
        assert digest_file(run / name) == digest_file(finished / name)
    losses = [
        [
            (line["step"], line["loss"])
            for line in map(json.loads, (folder / "logs/instruct.jsonl").read_text().splitlines())
        ]
        for folder in (run, finished)
    ]
    assert losses[0] == losses[1]
    assert json.loads((run / "eval.json").read_text()) == json.loads((finished / "eval.json").read_text())


def test_a_broken_law_fails_the_run(finished: Path, sluice: Sluice, recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "broken"
    shutil.copytree(finished, run)
    path = run / "ledger" / "00001.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    ran = sluice("run", recipe, "--run-dir", run, "--until", "feed", check=False)
    assert ran.returncode == 1
    assert f"the ledger has {SCENES - 1} rows and the source {SCENES}" in ran.stderr
    table = pq.read_table(finished / "ledger" / "00001.parquet")
    twice = pa.concat_tables([table.slice(0, 1), table.slice(0, len(table) - 1)])
    pq.write_table(twice, path)
    ran = sluice("run", recipe, "--run-dir", run, "--until", "feed", check=False)
    assert ran.returncode == 1 and "more than once" in ran.stderr


def test_a_changed_threshold_downloads_and_embeds_nothing_again(
    finished: Path, sluice: Sluice, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "changed"
    shutil.copytree(finished, run)
    times = {path: path.stat().st_mtime_ns for folder in ("samples", "vectors") for path in (run / folder).iterdir()}
    sluice("run", recipe, "--run-dir", run, "--set", "select.clip.keep={top: 0.6}", "--until", "select")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    reasons = Counter(row["reason"] for row in _ledger(run))
    assert reasons["clip_score"] > Counter(row["reason"] for row in _ledger(finished))["clip_score"]


def test_the_exported_folder_answers_in_plain_transformers_as_sluice_ask_does(finished: Path, tmp_path: Path) -> None:
    from models.export import ask

    pictures = []
    for shard in sorted((finished / "shards").glob("val-*.tar")):
        for key, data in read_members(shard, "jpg"):
            path = tmp_path / f"{key}.jpg"
            path.write_bytes(data)
            pictures.append(path)
    pictures = pictures[:5]
    questions = ["How many objects are in the picture?", "Is there a dog in the picture?", 
                 "What does this picture show?", "Where in the picture is the cat?"]  # fmt: skip
    given = json.dumps([str(finished / "model"), [str(path) for path in pictures], questions])
    ran = subprocess.run([sys.executable, "-c", STRANGER, given], cwd=tmp_path, capture_output=True, text=True,
                         env=environment(tmp_path) | {"PYTHONPATH": ""}, check=False)  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["wrong"] == [] and len(told["said"]) == 20
    asked = [ask(finished / "model", path, question, 8) for path in pictures for question in questions]
    assert told["said"] == asked
    assert any(asked)


def test_trace_goes_from_a_url_to_the_optimizer_step(finished: Path, sluice: Sluice) -> None:
    ledger = _ledger(finished)
    kept = next(row for row in ledger if row["split"] == "train")
    told = sluice("trace", finished, kept["url"]).stdout
    for wanted in (kept["sample_id"], kept["shard"], "optimizer step", "train instruct", "-template"):
        assert wanted in told
    copy = next(row for row in ledger if row["duplicate_of"])
    assert copy["duplicate_of"] in sluice("trace", finished, copy["sample_id"]).stdout
    assert sluice("trace", finished, "http://nowhere/", check=False).returncode == 2


def test_status_check_report_evaluate_export_and_ask_answer(finished: Path, sluice: Sluice, recipe: Path) -> None:
    told = sluice("status", finished).stdout
    assert "acquire" in told and "4/4" in told and "train instruct" in told
    told = sluice("check", recipe).stdout
    assert "source -> acquire" in told and f"{SCENES} rows in 4 parts" in told
    assert sluice("report", finished).stdout.strip().endswith("report.html")
    assert "best blind baseline" in sluice("evaluate", finished).stdout.replace("\n", " ").replace("  ", " ")
    path = Path(sluice("export", finished, "--to", "llava-json").stdout.strip())
    records = json.loads(path.read_text())
    assert records and all(record["conversations"][0]["value"].startswith("<image>") for record in records)
    assert sluice("ask", finished / "model", finished / "example.jpg", "How many?").returncode == 0


def test_the_resolved_recipe_is_kept_and_loads_again(finished: Path) -> None:
    text = (finished / "recipe.yaml").read_text()
    assert "# torch " in text
    assert yaml.safe_load(text)["name"] == "small"


def test_prefect_kept_an_artifact_with_the_counts_of_each_stage(finished: Path) -> None:
    with sqlite3.connect(finished.parent / "prefect" / "prefect.db") as base:
        keys = {row[0] for row in base.execute("select key from artifact")}
    stages = ("source", "acquire", "select", "instruct", "feed", "ledger", "train", "evaluate", "export", "report")
    assert {f"sluice-{stage}" for stage in stages} <= keys
