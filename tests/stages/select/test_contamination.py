"""Decontamination: pictures of evaluation sets, by hash and by vector, and runs of words of their questions."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from models.clip import ClipSettings, load_clip
from schemas.errors import InputError
from schemas.tables import CONTAMINATION
from schemas.tables import vectors as vectors_schema
from stages.acquire.decode import Picture, decode
from stages.acquire.settings import AcquireSettings
from stages.run_folder import RunFolder
from stages.select.candidates import Candidates
from stages.select.contamination import ask_contamination
from stages.select.decide import write_decisions
from stages.select.evaluation_sets import EvaluationSet, evaluation_content, read_sets
from stages.select.ngrams import shared_ngrams
from stages.select.settings import SelectSettings
from tests.stages.select.test_against import DIM, make_run

CLIP = ClipSettings()


def _plain_ngrams(texts, known, length):
    def runs(text):
        words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
        return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]

    first = {}
    for place, text in enumerate(known):
        for run in runs(text):
            first.setdefault(run, place)
    found = {}
    for place, text in enumerate(texts):
        for run in runs(text):
            if run in first:
                found[place, first[run]] = found.get((place, first[run]), 0) + 1
    return sorted((*pair, number) for pair, number in found.items())


_TEXTS = st.lists(st.text(alphabet="ab B,", max_size=14), max_size=8)


@settings(max_examples=150, deadline=None)
@given(_TEXTS, _TEXTS, st.integers(2, 4))
def test_shared_ngrams_are_the_plain_ones(texts, known, length) -> None:
    found = shared_ngrams(pa.array(texts, pa.string()), pa.array(known, pa.string()), length)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == _plain_ngrams(texts, known, length)


def test_words_are_compared_without_case_signs_and_spaces() -> None:
    texts = pa.array(["What's on -- the RED table?", "what s on the red chair", None, "", "赤い机の上に猫"])
    known = pa.array(["it asks: what's on the red table", None, "机の上"])
    text, item, number = shared_ngrams(texts, known, 3)
    assert list(zip(text.tolist(), item.tolist(), number.tolist(), strict=True)) == [(0, 0, 4), (1, 0, 3), (4, 2, 1)]


def _drawn(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 255, (6, 6, 3), np.uint8)
    return Image.fromarray(rough).resize((160, 160), Image.Resampling.BICUBIC)


def _rows(pictures: list[Image.Image], captions: list[list[str]]) -> Candidates:
    """Candidates with real fingerprints and vectors."""
    import io

    found = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "PNG")
        decoded = decode(file.getvalue(), AcquireSettings())
        assert isinstance(decoded, Picture)
        found.append(decoded)
    ids = [f"{row:032x}" for row in range(len(pictures))]
    prints = [picture.fingerprint for picture in found]
    samples = pa.table(
        {
            "sample_id": ids,
            "row": pa.array(range(len(ids)), pa.int64()),
            "reason": pa.nulls(len(ids), pa.string()),
            "captions": pa.array(captions, pa.list_(pa.string())),
            "phash": [one.phash for one in prints],
            "phash_variants": pa.array([one.phash_variants for one in prints], pa.list_(pa.uint64(), 3)),
            "thumbnail": pa.array([one.thumbnail for one in prints], pa.binary(len(prints[0].thumbnail))),
        }
    )
    model = load_clip()
    seen = model.encode_pictures([picture.jpeg for picture in found]).astype(np.float16)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(seen.ravel()), model.dim)
    schema = vectors_schema(model.dim)
    given = {"sample_id": ids, "clip_score": np.full(len(ids), 0.3, np.float32), "vector": vector}
    columns = [given.get(name, pa.nulls(len(ids), schema.field(name).type)) for name in schema.names]
    return Candidates.of(samples, {"": pa.table(columns, schema=schema)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    held = tmp_path / "held"
    (held / "more").mkdir(parents=True)
    _drawn(1).save(held / "a.png")
    _drawn(2).save(held / "more" / "b.jpg", quality=90)
    (held / "read me.txt").write_text("not a picture")
    return held


def test_every_hit_is_listed_and_its_row_dropped(tmp_path: Path, folder: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("How many red apples lie on the old table?\n\nwhat is it\n")
    mirrored = _drawn(2).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    rows = _rows(
        [_drawn(1).resize((90, 90)), _drawn(7), mirrored, _drawn(8), _drawn(9)],
        [["x"], ["y", "HOW MANY red apples lie on the old table"], ["z"], ["what is it"], ["red apples lie on"]],
    )
    one = EvaluationSet(name="held", pictures=str(folder), questions=str(questions), min_cosine=0.995)
    run = RunFolder(tmp_path / "run")
    found = ask_contamination(rows, read_sets(run, [one], CLIP))
    assert found.schema == CONTAMINATION
    hits = [(int(row["sample_id"], 16), row["set"], row["item"], row["by"]) for row in found.to_pylist()]
    question = "How many red apples lie on the old table?"
    assert {hit for hit in hits if hit[3] != "semantic"} == {
        (0, "held", "a.png", "perceptual"), (1, "held", question, "text"), (2, "held", "more/b.jpg", "perceptual"),
    }  # fmt: skip
    assert (0, "held", "a.png", "semantic") in hits
    value = {row["by"]: row["value"] for row in found.to_pylist()}
    assert value["text"] == 2  # runs of 8 words in 9
    assert value["semantic"] >= 0.995
    assert rows.verdicts.reason.tolist() == [
        "contaminated_picture", "contaminated_text", "contaminated_picture", None, None,
    ]  # fmt: skip


def test_a_dropped_row_is_not_compared(tmp_path: Path, folder: Path) -> None:
    rows = _rows([_drawn(1), _drawn(1)], [["x"], ["x"]])
    rows.verdicts.reason[0] = "caption_short"
    one = EvaluationSet(name="held", pictures=str(folder), min_cosine=None)
    found = ask_contamination(rows, read_sets(RunFolder(tmp_path / "run"), [one], CLIP))
    assert [int(name, 16) for name in found["sample_id"].to_pylist()] == [1]
    assert rows.verdicts.reason.tolist() == ["caption_short", "contaminated_picture"]
    none = _rows([_drawn(1)], [["x"]])
    none.verdicts.reason[0] = "caption_short"
    assert ask_contamination(none, read_sets(RunFolder(tmp_path / "run"), [one], CLIP)).num_rows == 0


def test_a_folder_is_read_once_and_again_when_it_changes(tmp_path: Path, folder: Path, monkeypatch) -> None:
    run = RunFolder(tmp_path / "run")
    one = EvaluationSet(name="held", pictures=str(folder))
    first = read_sets(run, [one], CLIP)[0].pictures
    content = evaluation_content([one])
    monkeypatch.setattr("stages.select.evaluation_sets.decode", None)
    assert read_sets(run, [one], CLIP)[0].pictures == first
    monkeypatch.undo()
    _drawn(3).save(folder / "c.png")
    assert evaluation_content([one]) != content
    assert read_sets(run, [one], CLIP)[0].pictures["item"].to_pylist() == ["a.png", "c.png", "more/b.jpg"]


def test_a_run_says_what_was_near_and_decides_again_when_a_set_changes(tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("how many red apples lie on the table")
    run = make_run(tmp_path / "run", 1, 4, cut=2, caption={2: "red apples lie on the table, and pears"})
    sets = [{"name": "held", "questions": str(questions), "ngram": 5}]
    asked = SelectSettings.model_validate({"decontaminate": sets})
    assert write_decisions(run, asked, 0, 0) == {"kept": 3, "contaminated_text": 1}
    hits = pq.read_table(run.path("contamination.parquet")).to_pylist()
    assert [(hit["sample_id"], hit["set"], hit["by"], hit["value"]) for hit in hits] == [
        (f"{1:016x}{2:016x}", "held", "text", 2.0)
    ]
    assert pq.read_table(run.path("decisions.parquet"))["reason"].to_pylist()[2] == "contaminated_text"
    questions.write_text("how many green apples lie in the basket")
    assert write_decisions(run, asked, 0, 0) == {"kept": 4}
    assert pq.read_table(run.path("contamination.parquet")).num_rows == 0


def test_a_run_serves_as_a_set(tmp_path: Path) -> None:
    held = make_run(tmp_path / "held", 1, 3)
    theirs = held.read_table("samples")["phash"].to_pylist()
    near = np.random.default_rng(1).normal(size=(3, DIM))[1] + 0.01
    run = make_run(tmp_path / "run", 2, 4, phash={0: theirs[0]}, vector={1: near})
    asked = {"decontaminate": [{"name": "held", "pictures": str(held.root)}]}
    assert write_decisions(run, SelectSettings.model_validate(asked), 0, 0) == {"kept": 2, "contaminated_picture": 2}
    hits = pq.read_table(run.path("contamination.parquet")).to_pylist()
    ids = [f"{1:016x}{row:016x}" for row in range(2)]
    assert [(hit["item"], hit["by"]) for hit in hits] == [(ids[0], "perceptual"), (ids[1], "semantic")]
    other = SelectSettings.model_validate(asked | {"clip": {"resize_mode": "longest"}})
    with pytest.raises(InputError, match="decontaminate.held: .* is not embedded by this run's CLIP model"):
        write_decisions(make_run(tmp_path / "other", 3, 2), other, 0, 0)


@pytest.mark.parametrize("form", ["txt", "jsonl", "parquet"])
def test_questions_come_in_three_forms(tmp_path: Path, form: str) -> None:
    asked = ["how many dogs are there", "where is the cat"]
    path = tmp_path / f"q.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"question": [*asked, None]}), path)
    else:
        path.write_text(
            "\n".join(
                [asked[0], asked[1]] if form == "txt" else [json.dumps(asked[0]), json.dumps({"question": asked[1]})]
            )
        )
    held = read_sets(RunFolder(tmp_path / "run"), [EvaluationSet(name="q", questions=str(path))], CLIP)[0]
    assert held.questions is not None
    assert held.questions.to_pylist() == asked


def test_what_is_wrong_with_a_set_is_said_in_one_line(tmp_path: Path, folder: Path) -> None:
    run = RunFolder(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jsonl").write_text('{"asked": "x"}\n')
    (tmp_path / "none.txt").write_text("\n")
    cases = {
        "is no folder": EvaluationSet(name="a", pictures=str(tmp_path / "absent")),
        "holds no picture": EvaluationSet(name="a", pictures=str(tmp_path / "empty")),
        "there is no file": EvaluationSet(name="a", questions=str(tmp_path / "absent.txt")),
        "have a key 'question'": EvaluationSet(name="a", questions=str(tmp_path / "bad.jsonl")),
        "holds no question": EvaluationSet(name="a", questions=str(tmp_path / "none.txt")),
    }
    for message, one in cases.items():
        with pytest.raises(InputError, match=rf"^select.decontaminate.a: .*{message}"):
            read_sets(run, [one], CLIP)
    (folder / "broken.jpg").write_bytes((folder / "more" / "b.jpg").read_bytes()[:300])
    with pytest.raises(InputError, match=r"broken.jpg is no picture that can be read"):
        read_sets(run, [EvaluationSet(name="a", pictures=str(folder), min_cosine=None)], CLIP)
    for keys in ({}, {"pictures": "x", "max_hamming": None, "min_cosine": None}):
        with pytest.raises(ValidationError):
            EvaluationSet(name="a", **keys)
