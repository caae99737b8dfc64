"""DataComp's strategies: what each keeps, how they are written in a recipe, and what is wrong input."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as save_safetensors

from models.clip import ClipSettings
from pipelines.recipe import parse_recipe, to_yaml
from schemas.errors import InputError, SluiceError
from schemas.identity import sample_id
from schemas.tables import SAMPLES
from stages.embed import EmbedWork
from stages.run_folder import RunFolder
from stages.select.candidates import Candidates
from stages.select.decide import write_decisions
from stages.select.inputs import check_inputs, content_of, models_of, read_references
from stages.select.references import reference_vectors
from stages.select.settings import SelectSettings
from stages.select.strategies import References, strategy_names
from stages.select.strategies.image_based import near_references
from stages.select.strategies.text_based import count_concepts
from stages.tar import tar_bytes

CAPTIONS = [
    "A golden retriever runs along the beach at sunset",
    "Ein großer brauner Hund läuft am Strand entlang in der Sonne",
    "Red car",
    "two hot dogs and a glass of lemonade on the table",
    "the old lighthouse stands on a rocky coast in the fog",
    "boats and kayaks for hire by the quiet harbour",
]
SIDES = [(400, 300), (400, 300), (400, 300), (199, 300), (900, 300), (901, 300)]
SCORES = [0.30, 0.35, 0.10, 0.25, 0.20, 0.15]
CLIP = ClipSettings(model="sluice-filter-64", pretrained="none", batch_size=8)


def _select(strategy: object, **more: object) -> SelectSettings:
    return SelectSettings.model_validate({"strategy": strategy, **more})


def _rows(vectors: np.ndarray | None = None, order: list[int] | None = None, **scores: list[float]) -> Candidates:
    count = len(CAPTIONS) if vectors is None else len(vectors)
    order = order or list(range(count))
    names = ["caption", "original_width", "original_height", "url"]
    values = [(CAPTIONS[row % 6], *SIDES[row % 6], f"http://host{row % 2}/{row}.jpg") for row in order]
    ids = [sample_id(str(row), "c") for row in order]
    samples = pa.table([*map(list, zip(*values, strict=True))], names)
    samples = samples.append_column("sample_id", pa.array(ids)).append_column("row", pa.array(range(count)))
    samples = samples.append_column("reason", pa.nulls(count, pa.string()))
    tables = {}
    for model, score in ({"": SCORES} | scores).items():
        table = pa.table({"sample_id": ids, "clip_score": pa.array([score[row % 6] for row in order], pa.float32())})
        if vectors is not None:
            flat = pa.array(vectors[order].astype(np.float16).ravel())
            table = table.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
        tables[model] = table
    rows = Candidates.of(samples, tables)
    rows.measure("clip_score", rows.scores())
    return rows


def _asked(strategy: object, rows: Candidates | None = None, references: References | None = None) -> Candidates:
    rows = rows or _rows()
    chosen = _select(strategy, models={"big": {}}).strategy
    chosen.ask(rows, f"strategy.{chosen.name()}", references or {})
    return rows


def _kept(rows: Candidates) -> list[int]:
    return np.flatnonzero(rows.alive()).tolist()


def _concepts(folder: Path, *lines: str) -> dict[str, dict[str, str]]:
    (folder / "concepts.txt").write_text("\n".join(lines))
    return {"text_based": {"concepts": str(folder / "concepts.txt")}}


def test_none_keeps_everything_and_asks_nothing() -> None:
    rows = _asked("none")
    assert _kept(rows) == [0, 1, 2, 3, 4, 5]
    assert rows.thresholds == []


def test_basic_is_datacomps_with_a_reason_for_each_part() -> None:
    rows = _asked("basic")
    reasons = [None, "caption_language", "caption_short", "picture_too_small", None, "aspect_ratio"]
    assert rows.verdicts.reason.tolist() == reasons
    assert {asked.name: asked.value for asked in rows.thresholds} == {
        "strategy.basic.language": 1, "strategy.basic.characters": 6, "strategy.basic.min_caption_words": 3,
        "strategy.basic.min_side_px": 200, "strategy.basic.max_aspect": 3,
    }  # fmt: skip
    assert all(asked.measure in rows.measures for asked in rows.thresholds)


def test_text_based_keeps_captions_that_name_a_concept(tmp_path: Path) -> None:
    rows = _asked(_concepts(tmp_path, "Kayak", "", "hot dog", "CARS", "golden bridge"))
    assert _kept(rows) == [2, 3, 5]
    assert set(rows.verdicts.reason.tolist()) == {None, "text_based"}
    assert rows.thresholds[0].measure == "concepts_named"


@pytest.mark.parametrize(
    ("concept", "caption", "named"),
    [
        ("car", "three CARS.", 1),
        ("car", "health care", 0),
        ("car", "a carpet", 0),
        ("horse", "horses", 1),
        ("bus", "two buses", 1),
        ("glass", "glasses", 1),
        ("glasses", "a glass", 1),
        ("berry", "berries", 1),
        ("child", "children at play", 1),
        ("wolves", "a lone wolf", 1),
        ("hot dog", "a hot\ndog", 1),
        ("hot dog", "hot, dogs & hot dogs", 2),
        ("hot dog", "hot", 0),
        ("dog", "the dog's hot", 1),
        ("tiger-cat", "a tiger cat", 1),
        ("crème brûlée", "CRÈME BRÛLÉE", 1),
        ("car", "", 0),
    ],
)
def test_concepts_are_found_in_any_number_and_case(concept: str, caption: str, named: int) -> None:
    assert count_concepts(pa.array(["none", caption, None]), ["zebra", concept]).tolist() == [0, named, 0]


_WORD = st.sampled_from(["ab", "cd", "ef", "gh"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(_WORD, max_size=6), min_size=1, max_size=6),
       st.lists(st.lists(_WORD, min_size=1, max_size=3), min_size=1, max_size=4))  # fmt: skip
def test_counting_concepts_agrees_with_looking_at_every_place(captions: list, concepts: list) -> None:
    expected = [
        sum(any(words[at : at + len(c)] == c for c in concepts) for at in range(len(words))) for words in captions
    ]
    found = count_concepts(pa.array([" ".join(words) for words in captions]), [" ".join(c) for c in concepts])
    assert found.tolist() == expected


def test_clip_score_is_absolute_a_share_or_a_share_of_each_group() -> None:
    assert _kept(_asked({"clip_score": {"min": 0.25}})) == [0, 1, 3]
    assert _kept(_asked({"clip_score": {"top": 0.34}})) == [0, 1, 3]
    assert _kept(_asked({"clip_score": {"top": 0.34, "by": "source"}})) == [0, 1, 3, 4]
    big = _rows(big=[0.1, 0.2, 0.3, 0.1, 0.1, float("nan")])
    _asked({"clip_score": {"min": 0.2, "model": "big"}}, big)
    assert big.verdicts.reason.tolist() == ["clip_score", None, None, "clip_score", "clip_score", "bad_vector"]
    assert big.thresholds[0].measure == "clip_score_big"
    assert big.thresholds[0].name == "strategy.clip_score.min"


def test_intersections_and_unions_are_those_of_what_each_keeps(tmp_path: Path) -> None:
    text, score = _concepts(tmp_path, "dog", "kayak", "car"), {"clip_score": {"top": 0.5}}
    alone = [set(_kept(_asked(strategy))) for strategy in (text, score)]
    both = _asked({"all": [text, score]})
    assert set(_kept(both)) == alone[0] & alone[1] == {3}
    assert set(both.verdicts.reason.tolist()) == {None, "text_based", "clip_score"}
    assert [asked.name for asked in both.thresholds] == ["strategy.all.0.text_based", "strategy.all.1.clip_score.top"]
    either = _asked({"any": [text, score]})
    assert set(_kept(either)) == alone[0] | alone[1]
    assert set(either.verdicts.reason.tolist()) == {None, "strategy"}
    (threshold,) = either.thresholds
    assert (threshold.name, threshold.dropped) == ("strategy.any", 1)
    np.testing.assert_array_equal(either.measures["strategy"] >= 1, either.alive())
    nested = _asked({"all": [{"any": [text, "none"]}, {"any": [score, {"all": ["basic", text]}]}]})
    assert set(_kept(nested)) == alone[1]
    assert len(set(nested.measures)) == len(nested.measures)


def test_two_of_a_kind_keep_a_measure_each(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    rows = _asked({"all": [_concepts(tmp_path, "dog", "car"), _concepts(tmp_path / "other", "lemonade")]})
    assert _kept(rows) == [3]
    assert [asked.measure for asked in rows.thresholds] == ["concepts_named", "concepts_named_2"]
    rows = _asked({"any": [{"clip_score": {"top": 0.1, "by": by}} for by in ("source", "language")]})
    assert {"clip_score_margin", "clip_score_2_margin"} <= set(rows.measures)


def _clouds(per_cloud: int, clouds: int = 12, dim: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Vectors about as many directions as there are clouds, and the directions."""
    rng = np.random.default_rng(5)
    middles = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:clouds]
    vectors = np.repeat(middles, per_cloud, axis=0) + 0.05 * rng.normal(size=(clouds * per_cloud, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16), middles.astype(np.float16)


def test_image_based_keeps_the_clusters_that_are_nearest_to_the_references() -> None:
    vectors, middles = _clouds(30)
    vectors[7] = np.nan
    wanted = {"image_based": {"reference": "ref", "clusters": 24}}
    references = {("ref", ""): np.concatenate([middles[[3, 8]]] * 4 + [vectors[7:8]])}
    rows = _asked(wanted, _rows(vectors), references)
    kept = set(_kept(rows))
    assert kept <= {*range(90, 120), *range(240, 270)}
    assert len(kept) >= 20
    assert rows.verdicts.reason[7] == "bad_vector"
    assert rows.verdicts.reason[0] == "image_based"
    everything = {("ref", ""): vectors}
    assert len(_kept(_asked(wanted, _rows(vectors), everything))) == len(vectors) - 1


def test_image_based_does_not_depend_on_the_order_of_rows() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 8)).astype(np.float16)
    wanted, references = {"image_based": {"reference": "ref", "clusters": 3}}, {("ref", ""): vectors[:1]}
    expected = {
        i for i, alive in zip(range(400), _asked(wanted, _rows(vectors), references).alive(), strict=True) if alive
    }
    assert 0 < len(expected) < 400
    order = rng.permutation(400).tolist()
    found = _asked(wanted, _rows(vectors, order), references).alive()
    assert {row for row, alive in zip(order, found, strict=True) if alive} == expected


def test_more_clusters_than_pictures_and_no_pictures_are_no_error() -> None:
    vectors = np.eye(4, dtype=np.float16)
    assert near_references(vectors, np.arange(4), vectors[:1], 1000).tolist() == [1, 0, 0, 0]
    assert near_references(vectors[:0], np.arange(0), vectors[:1], 10).shape == (0,)
    assert np.ptp(near_references(np.ones((50, 4), np.float16), np.arange(50), vectors[:1], 10)) == 0
    with pytest.raises(InputError, match="none of the reference pictures has a vector"):
        near_references(vectors, np.arange(4), np.full((2, 4), np.nan, np.float16), 2)


def _jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (30, 30, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def _finished_run(folder: Path, kept: list[bool]) -> RunFolder:
    run = RunFolder(folder)
    rows = [{"key": f"{row:09d}", "sample_id": f"{row:032x}", "caption": "c", "row": row} for row in range(len(kept))]
    members = [(f"{row['key']}.jpg", _jpeg(place)) for place, row in enumerate(rows)]
    table = pa.Table.from_pylist(rows, SAMPLES)
    run.commit("source", 0, "k", {"source/00000.parquet": table.select(["sample_id"])}, {})
    run.commit("acquire", 0, "k", {"samples/00000.tar": tar_bytes(members)[0], "samples/00000.parquet": table}, {})
    EmbedWork(run, CLIP, device="cpu").process(0)
    states = ["kept" if keep else "dropped" for keep in kept]
    decisions = pa.table({"sample_id": table["sample_id"], "state": states})
    run.commit("select", "all", "k", {"decisions.parquet": decisions}, {})
    run.path("recipe.yaml").write_text("name: other\n")
    return run


def test_references_are_a_folder_of_pictures_or_what_a_run_kept(tmp_path: Path) -> None:
    other = _finished_run(tmp_path / "other", [True, False, True])
    folder = tmp_path / "pictures" / "more"
    folder.mkdir(parents=True)
    for name, seed in (("b.jpg", 2), ("a.JPG", 0)):
        (folder / name).write_bytes(_jpeg(seed))
    (folder / "notes.txt").write_text("no picture")
    run = RunFolder(tmp_path / "run")
    from_run = reference_vectors(run, str(other.root), CLIP)
    from_folder = reference_vectors(run, str(tmp_path / "pictures"), CLIP)
    np.testing.assert_array_equal(from_run, from_folder)
    (cached,) = run.path("references").iterdir()
    before = cached.stat().st_mtime_ns
    np.testing.assert_array_equal(reference_vectors(run, str(tmp_path / "pictures"), CLIP), from_folder)
    assert cached.stat().st_mtime_ns == before

    select = _select({"image_based": {"reference": str(tmp_path / "pictures")}}, clip=CLIP.model_dump())
    first = content_of(select)
    np.testing.assert_array_equal(read_references(run, select)[str(tmp_path / "pictures"), ""], from_folder)
    assert models_of(select) == {"": True}
    (folder / "c.png").write_bytes(_jpeg(1))
    assert content_of(select) != first
    (folder / "c.png").write_bytes(b"no picture at all")
    os.utime(folder / "c.png", (1, 1))
    with pytest.raises(InputError, match=r"reference picture .*c.png cannot be read"):
        reference_vectors(run, str(tmp_path / "pictures"), CLIP)
    with pytest.raises(InputError, match="are not all embedded by sluice-filter-64"):
        reference_vectors(run, str(other.root), CLIP.model_copy(update={"precision": "bf16"}))


def test_what_is_named_must_be_there_before_anything_is_downloaded(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for strategy, message in [
        ({"text_based": {"concepts": str(tmp_path / "none.txt")}}, "cannot read .*none.txt"),
        (_concepts(tmp_path, "", "  "), "holds no concept"),
        ({"image_based": {"reference": str(tmp_path / "nowhere")}}, "nowhere is no folder"),
        ({"all": ["basic", {"image_based": {"reference": str(tmp_path / "empty")}}]}, "holds no pictures"),
    ]:
        with pytest.raises(InputError, match=message):
            check_inputs(_select(strategy))
    check_inputs(_select({"any": ["basic", _concepts(tmp_path, "dog")]}))


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("clipscore", "there is no strategy 'clipscore'; did you mean 'clip_score'"),
        ({"all": ["basik"]}, "no strategy 'basik'; did you mean 'basic'"),
        ("everything", "known: all, any, basic"),
        ("text_based", "text_based: key 'concepts' is missing"),
        ({"text_based": {"concept": "a.txt"}}, "unknown key 'concept'; did you mean 'concepts'"),
        ("image_based", "key 'reference' is missing"),
        ({"image_based": {"reference": "x", "clusters": 0}}, "'clusters'"),
        ({"clip_score": {"top": 0}}, "'top'.*greater than 0"),
        ({"clip_score": {"top": 0.1, "min": 0.2}}, "either 'min'"),
        (
            {"clip_score": {"top": 0.1, "model": "bik"}},
            "no model is called 'bik' under select.models; did you mean 'big'",
        ),
        ({"all": []}, "all: 'of'"),
        ({"all": "basic"}, "all: give a list of strategies"),
        ({"any": {"basic": None}}, "any: give a list of strategies"),
        ({"clip_score": 0.3}, "clip_score: takes a mapping with keys of: .*top"),
        (["basic", "none"], "give one strategy"),
        ({"basic": None, "none": None}, "give one strategy"),
        ({"basic": {"words": 3}}, "unknown key 'words'"),
    ],
)
def test_a_wrong_strategy_is_told_in_one_line(strategy: object, message: str) -> None:
    data = {"name": "x", "source": {"table": "a.parquet"}, "select": {"strategy": strategy, "models": {"big": {}}}}
    with pytest.raises(InputError, match=message) as error:
        parse_recipe(data, "r.yaml")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("r.yaml: 'select")


def test_a_head_must_name_a_model_that_is_there() -> None:
    with pytest.raises(ValueError, match="heads.mine.model: no model is called 'big' under select.models"):
        _select("none", heads={"mine": {"file": "h.pth", "kind": "unsafe", "model": "big"}})


def test_a_resolved_recipe_reads_back_as_it_was() -> None:
    strategy = {"all": ["basic", {"any": [{"clip_score": {"top": 0.3, "by": "language", "model": "big"}},
                                          {"image_based": {"reference": "imagenet"}}]}]}  # fmt: skip
    select = {"strategy": strategy, "models": {"big": {"model": "ViT-B-32"}}}
    recipe = parse_recipe({"name": "x", "source": {"table": "a.parquet"}, "select": select}, "r.yaml")
    text = to_yaml(recipe)
    assert parse_recipe(yaml.safe_load(text), "again") == recipe
    plain = parse_recipe({"name": "x", "source": {"table": "a.parquet"}}, "r.yaml")
    assert "strategy: none" in to_yaml(plain)
    assert strategy_names() == ["all", "any", "basic", "clip_score", "image_based", "none", "text_based"]


def test_a_run_selects_by_a_further_model_a_head_and_references_and_again_when_a_file_changes(tmp_path: Path) -> None:
    run = _finished_run(tmp_path / "run", [True] * 4)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.jpg").write_bytes(_jpeg(2))
    head = tmp_path / "head.safetensors"
    vectors = run.read_table("vectors", [0])["vector"].to_pylist()
    head.write_bytes(save_safetensors({"weight": torch.tensor([vectors[2]]).float()}))
    select = SelectSettings.model_validate(
        {
            "clip": CLIP.model_dump(),
            "models": {"padded": {**CLIP.model_dump(), "resize_mode": "longest"}},
            "heads": {"likeness": {"file": str(head), "kind": "aesthetic", "keep": {"min": 0.5}, "model": "padded"}},
            "strategy": {"image_based": {"reference": str(tmp_path / "pictures"), "clusters": 4}},
            "dedup": {"exact": False},
        }
    )
    with pytest.raises(SluiceError, match="embedded"):
        write_decisions(run, select, 0.0, 0)
    EmbedWork(run, select.models["padded"], device="cpu", name="padded").process(0)
    counts = write_decisions(run, select, 0.0, 0)
    assert counts["kept"] + counts.get("aesthetic", 0) + counts.get("image_based", 0) == 4
    assert "image_based" in counts
    scores = pq.read_table(run.path("scores.parquet"))
    assert {"head_likeness", "references_near"} <= set(scores.column_names)
    assert np.argmax(scores["head_likeness"].to_numpy()) == 2
    assert scores["references_near"].to_pylist()[2] == 1
    asked = [each["name"] for each in json.loads(run.path("select.json").read_text())["thresholds"]]
    assert asked == ["heads.likeness.keep.min", "strategy.image_based"]

    head.write_bytes(save_safetensors({"weight": -torch.tensor([vectors[2]]).float()}))
    with pytest.raises(InputError, match="keeps none of the 4 rows"):
        write_decisions(run, select, 0.0, 0)
