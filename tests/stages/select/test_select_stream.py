"""Select part by part: a function of the parts in their order, whoever decides and whenever."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import InputError, SluiceError
from stages.run_folder import RunFolder
from stages.select.decide import write_decisions
from stages.select.decisions import read_decisions, streamed
from stages.select.settings import SelectSettings
from stages.select.stream import SelectWork, check_select_streams, write_stream_decisions
from tests.stages.select.test_against import DEDUP, make_run

SETTINGS = SelectSettings.model_validate({"dedup": DEDUP, "clip": {"keep": {"min": 0.2}}})


def _stream(run: RunFolder, chosen: SelectSettings = SETTINGS, anew: bool = False) -> dict[str, int]:
    """Decides part by part; with `anew`, each part by an actor that knows nothing of the others."""
    work = SelectWork(run, chosen, 0.0, 0)
    for part in run.parts():
        work = SelectWork(run, chosen, 0.0, 0) if anew else work
        work.process(part)
    return write_stream_decisions(run, chosen, 0.0, 0)


def _files(run: RunFolder) -> dict[str, bytes]:
    paths = [*run.path("select").rglob("*.parquet"), *run.root.glob("*.parquet"), run.path("select.json")]
    return {str(path.relative_to(run.root)): path.read_bytes() for path in paths}


def _said(run: RunFolder) -> list[tuple[str | None, str | None]]:
    table = pq.read_table(run.path("decisions.parquet"))
    return list(zip(table["reason"].to_pylist(), table["duplicate_of"].to_pylist(), strict=True))


def test_a_part_is_decided_against_itself_and_what_was_kept_of_the_parts_before(tmp_path: Path) -> None:
    # Row 1 is row 0 again, in the same part; row 4 is row 3 of the part before, and scores higher; row 8 is near row 2.
    same, near = "a" * 64, f"{1 << 40:016x}"
    run = make_run(tmp_path, 3, 9, [4, 6], sha256={0: same, 1: same, 3: "b" * 64, 4: "b" * 64},
                   phash={2: near, 8: f"{(1 << 40) + 3:016x}"})  # fmt: skip
    counts = _stream(run)
    name = f"{3:016x}{{:016x}}".format
    expected = [(None, None)] * 9
    expected[1] = ("duplicate_exact", name(0))
    expected[4] = ("duplicate_exact", name(3))
    expected[8] = ("duplicate_perceptual", name(2))
    assert _said(run) == expected
    assert counts == {"kept": 6, "duplicate_exact": 2, "duplicate_perceptual": 1}
    facts = json.loads(run.path("select.json").read_text())
    assert facts["counts"] == counts and facts["thresholds"][-1]["reached"] == 9
    assert read_decisions(run, 1, ["row"], kept=True)["row"].to_pylist() == [5]


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=st.lists(st.integers(0, 4), min_size=6, max_size=12), cuts=st.sets(st.integers(1, 5), min_size=1))
def test_of_equal_pictures_the_best_of_the_first_part_that_has_one_stays(
    tmp_path_factory: pytest.TempPathFactory, groups: list[int], cuts: set[int]
) -> None:
    edges = sorted(cuts)
    run = make_run(tmp_path_factory.mktemp("run"), 1, len(groups), edges,
                   sha256={row: f"{group:064x}" for row, group in enumerate(groups)})  # fmt: skip
    only = SelectSettings.model_validate({"dedup": {"exact": True}})
    _stream(run, only)
    first = {}
    for row, group in enumerate(groups):  # within a part scores fall with the row
        first.setdefault(group, row)
    kept = [row for row, (reason, _) in enumerate(_said(run)) if reason is None]
    assert kept == sorted(first.values())


def test_whoever_decides_a_part_says_the_same(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, 5, 40, [9, 20, 31], sha256={row: f"{row % 13:064x}" for row in range(40)})
            for name in ("one", "many")]  # fmt: skip
    _stream(runs[0])
    _stream(runs[1], anew=True)
    assert _files(runs[0]) == _files(runs[1])
    before = {path: path.stat().st_mtime_ns for path in runs[0].root.rglob("*.parquet")}
    _stream(runs[0])
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_part_that_changed_has_all_parts_after_it_decided_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, 5, 12, [4, 8])
    _stream(run)
    work = SelectWork(run, SETTINGS, 0.0, 0)
    assert all(work.done(part) for part in run.parts())
    table = run.read_table("samples", [0])
    run.commit("acquire", 0, "other", {"samples/00000.parquet": table.slice(0, 3)}, {})
    for part in run.parts():
        assert not work.done(part)
        work.process(part)


def test_a_stream_is_put_together_when_its_last_part_is_decided(tmp_path: Path) -> None:
    run = make_run(tmp_path, 5, 12, [4, 8])
    SelectWork(run, SETTINGS, 0.0, 0).process(0)
    with pytest.raises(SluiceError, match="part 1 is not decided yet"):
        write_stream_decisions(run, SETTINGS, 0.0, 0)


def test_without_stream_the_run_is_decided_anew_over_all_rows(tmp_path: Path) -> None:
    # The later row scores higher: it stays where all are compared at once.
    run = make_run(tmp_path, 2, 8, [4], sha256={3: "c" * 64, 4: "c" * 64})
    _stream(run)
    assert _said(run)[3:5] == [(None, None), ("duplicate_exact", f"{2:016x}{3:016x}")]
    write_decisions(run, SETTINGS, 0.0, 0)
    assert _said(run)[3:5] == [("duplicate_exact", f"{2:016x}{4:016x}"), (None, None)]
    assert not any(streamed(run, part) for part in run.parts())
    assert read_decisions(run, 0, ["row"], kept=True)["row"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"clip": {"keep": {"top": 0.3}}}, r"select.clip.keep.top .*keep: \{min: COSINE\}"),
        ({"rules": {"max_caption_repeats": 3}}, "select.rules.max_caption_repeats .*boilerplate"),
        (
            {"heads": {"nice": {"file": "a.pth", "kind": "aesthetic", "keep": {"top": 0.5}}}},
            "select.heads.nice.keep.top",
        ),
        ({"strategy": {"any": ["basic", {"clip_score": {"top": 0.1}}]}}, "select.strategy: clip_score .*min: COSINE"),
        ({"strategy": {"image_based": {"reference": "x"}}}, "select.strategy: image_based .*clusters"),
    ],
)
def test_what_needs_all_rows_is_refused_with_what_a_stream_can_do(section: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_select_streams(SelectSettings.model_validate(section))


def test_what_stands_on_a_row_alone_streams() -> None:
    check_select_streams(SETTINGS)
    check_select_streams(SelectSettings.model_validate({"strategy": {"all": ["basic", {"clip_score": {"min": 0.3}}]}}))
