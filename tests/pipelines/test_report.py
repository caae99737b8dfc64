"""The report of a small fabricated run: tables in their schemas, real pictures, the real ledger and feed stages."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
import base64
import io
import json
import random
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from models.chat import NO_LOSS, encode
from models.language import load_tokenizer
from models.towers import VisionTower
from pipelines.line import Line, prepare
from pipelines.recipe import Recipe, parse_recipe
from pipelines.report import charts, write_report
from pipelines.report.marks import Mark, marks_in
from pipelines.report.material import Material
from pipelines.report.sections.contamination import contamination
from pipelines.report.sections.duplicates import duplicates
from pipelines.report.sections.thresholds import thresholds
from pipelines.tables import evaluation_table
from schemas.conversation import Conversation, Turn
from schemas.identity import digest_bytes, sample_id
from schemas.tables import CONTAMINATION, CONVERSATIONS, DECISIONS, LEDGER, SAMPLES, SOURCE, scores, vectors
from schemas.tables import REJECTED as REFUSED
from schemas.vocabulary import Reason, State
from stages.evaluate import Question, score
from stages.feed.plan import write_plan
from stages.feed.shards import ShardWork
from stages.instruct.endpoint import AnswerStore
from stages.instruct.endpoint.answer import Answer
from stages.ledger import write_ledger
from stages.run_folder import RunFolder
from stages.sample.world import scene_of
from stages.tar import tar_bytes

EVIL = """<script>alert(1)</script><img src=x onerror="alert(2)">"""
EVIL_URL = "javascript:alert(3)"
PARTS, ROWS = 2, 30
#: Row -> why it is dropped without a picture.
FAILED = {
    3: (Reason.HTTP_CLIENT_ERROR, 404, None), 8: (Reason.DECODE_ERROR, 200, "broken data stream"),
    11: (Reason.BAD_URL, None, "not http"), 37: (Reason.DEADLINE, None, "no whole answer in 4 s"),
    41: (Reason.ROBOTS, None, "robots.txt of localhost"), 44: (Reason.BAD_ROW, None, None),
}  # fmt: skip
#: Row -> why select drops it, and the row that is kept instead.
REJECTED = {
    4: (Reason.CLIP_SCORE, None), 13: (Reason.CLIP_SCORE, None), 33: (Reason.CLIP_SCORE, None),
    6: (Reason.CAPTION_BOILERPLATE, None), 15: (Reason.AESTHETIC, None), 45: (Reason.AESTHETIC, None),
    16: (Reason.CONTAMINATED_PICTURE, None), 46: (Reason.CONTAMINATED_TEXT, None),
    20: (Reason.DUPLICATE_EXACT, 0), 35: (Reason.DUPLICATE_PERCEPTUAL, 1),
    36: (Reason.DUPLICATE_PERCEPTUAL, 1), 40: (Reason.DUPLICATE_SEMANTIC, 2),
}  # fmt: skip
#: Key, measure, what it keeps, value, reason: in order.
THRESHOLDS = [
    ("rules.min_side_px", "shorter_side_px", "at_least", 32.0, Reason.PICTURE_TOO_SMALL),
    ("rules.boilerplate", "caption_boilerplate", "at_most", 0.0, Reason.CAPTION_BOILERPLATE),
    ("clip.keep.min", "clip_score", "at_least", 0.2, Reason.CLIP_SCORE),
    ("heads.beauty.keep.min", "head_beauty", "at_least", 4.0, Reason.AESTHETIC),
]


def make_recipe(folder: Path) -> Recipe:
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([caption for row in range(40) for caption in scene_of(5, row).captions], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder / "tokenizer")
    config = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1}
    kinds = {"caption": 1.0, "count": 1.0, "detail": 0.1}
    endpoint = {"base_url": "http://user:secret@127.0.0.1:9/v1", "model": "org/small-lm"}
    data = {
        "name": "small",
        "source": {"table": "urls.parquet"},
        "select": {"clip": {"keep": {"min": 0.2}}, "dedup": {"perceptual": {}, "semantic": {}},
                   "decontaminate": [{"name": "held", "pictures": "held", "questions": "held.txt"},
                                     {"name": "other", "pictures": "other"}]},
        "instruct": {"kinds": kinds, "endpoint": endpoint},
        "feed": {"tokens_per_pack": 512, "holdout": 0.2},
        "model": {"vision": {"pretrained": "none"},
                  "language": {"config": config, "tokenizer": str(folder / "tokenizer")}},
        "train": [{"name": "align", "learn": {"connector": 1e-3}, "kinds": ["caption"]},
                  {"name": "instruct", "learn": {"connector": 1e-3, "language": 2e-5}, "epochs": 2}],
        "evaluate": {"questions": 100, "every_step": True},
    }  # fmt: skip
    return parse_recipe(data, "test")


def make_run(folder: Path, until: str = "evaluate") -> RunFolder:
    """A run that has come to the end of the stage `until`."""
    run, recipe = RunFolder(folder / "run"), make_recipe(folder)
    prepare(Line(recipe, run))
    kept, said = [], []
    for part in range(PARTS):
        rows = [_row(number) for number in range(part * ROWS, (part + 1) * ROWS)]
        said += _commit_part(run, part, rows, with_conversations=until not in ("source", "acquire", "select"))
        kept += [row for row in rows if row["decision"]["state"] == State.KEPT]
    run.commit("source", "all", "key", {}, {"rows": PARTS * ROWS, "parts": PARTS, "bad_row": 0})
    if until == "source":
        return run
    table = pa.Table.from_pylist([_row(number)["decision"] for number in range(PARTS * ROWS)], DECISIONS)
    run.commit("select", "all", "key", {"decisions.parquet": table, **_selected()}, {})
    if until in ("feed", "evaluate"):
        for part in range(PARTS):
            ShardWork(run, recipe.feed, recipe.model).process(part)
        for step in recipe.train:
            write_plan(run, step, recipe.feed, recipe.seed)
    write_ledger(run)
    if until == "evaluate":
        _log_training(run)
        _evaluate(run, said)
    return run


@cache
def _row(number: int) -> dict:
    """Everything that the stages say of one row, by stage."""
    copied = REJECTED.get(number, (None, None))[1]
    scene = scene_of(5, number if copied is None else copied)
    url = EVIL_URL if number == 11 else f"http://pictures.example/{number}.jpg?a=1&b=2"
    caption = EVIL if number == 5 else scene.captions[0]
    identity = sample_id(url, caption)
    reason, status, message = FAILED.get(number, (None, 200, None))
    boxes = [{"label": each.name, **dict(zip("xywh", each.box, strict=True))} for each in scene.objects]
    source = {"sample_id": identity, "row": number, "url": url, "caption": caption, "captions": [caption],
              "licence": None, "reason": None}  # fmt: skip
    sample = dict.fromkeys(SAMPLES.names) | {
        "key": f"{number // ROWS:05d}{number % ROWS:04d}", "url": url, "caption": caption, "sample_id": identity,
        "row": number, "http_status": status, "error_message": message, "reason": reason and reason.value,
    }  # fmt: skip
    if reason is Reason.BAD_ROW:
        source |= {"url": None, "caption": None, "captions": None, "reason": reason.value}
        sample |= {"url": None, "caption": None}
    jpeg = None
    if reason is None:
        picture = scene.picture.copy()
        picture.thumbnail((192, 192))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90 if number != 35 else 60)
        jpeg = buffer.getvalue()
        sample |= {"width": picture.width, "height": picture.height, "original_width": scene.picture.width,
                   "original_height": scene.picture.height, "boxes": boxes, "sha256": digest_bytes(jpeg),
                   "phash": str(imagehash.phash(picture))}  # fmt: skip
    cosine = random.Random(number).uniform(0.2, 0.6)
    why, keeper = REJECTED.get(number, (reason, None))
    if why is Reason.CLIP_SCORE:
        cosine = 0.05 * (number % 4)
    measured = {"shorter_side_px": scene.picture.height, "clip_score": cosine,
                "caption_boilerplate": float(why is Reason.CAPTION_BOILERPLATE),
                "head_beauty": 3.0 if why is Reason.AESTHETIC else 5 + number / 60}  # fmt: skip
    decision = {
        "sample_id": identity, "row": number, "part": number // ROWS, "stage": why and why.info.stage.value,
        "state": State.DROPPED if why else State.KEPT, "reason": why and why.value,
        "duplicate_of": None if keeper is None else _row(keeper)["source"]["sample_id"],
        "clip_score": cosine if jpeg else None, "split": None if why else "val" if number % 5 == 2 else "train",
    }  # fmt: skip
    return {"source": source, "sample": sample, "jpeg": jpeg, "decision": decision, "scene": scene,
            "measured": measured if jpeg else {}}  # fmt: skip


def _selected() -> dict[str, pa.Table | bytes]:
    """What select commits besides its decisions: thresholds that agree with them."""
    rows = [_row(number) for number in range(PARTS * ROWS)]
    names = list(dict.fromkeys(measure for _, measure, *_ in THRESHOLDS))
    identity = [{"sample_id": row["source"]["sample_id"], "row": row["source"]["row"]} for row in rows]
    measured = [row["measured"] for row in rows]
    table = pa.Table.from_pylist([one | two for one, two in zip(identity, measured, strict=True)], scores(names))
    asked, left = [], [row for row in rows if row["jpeg"]]
    for name, measure, keeps, value, reason in THRESHOLDS:
        gone = [row for row in left if row["decision"]["reason"] == reason.value]
        asked.append({"name": name, "measure": measure, "keeps": keeps, "value": value, "reason": reason.value,
                      "reached": len(left), "dropped": len(gone)})  # fmt: skip
        left = [row for row in left if row not in gone]
    hits = [(16, "held", "a/b.png", "perceptual", 3), (16, "held", "a/c.png", "semantic", 0.983),
            (46, "held", EVIL, "text", 1)]  # fmt: skip
    columns = [
        [_row(row)["source"]["sample_id"] for row, *_ in hits],
        *([hit[at] for hit in hits] for at in range(1, 5)),
    ]
    return {
        "select.json": json.dumps({"threshold": 0.2, "thresholds": asked}).encode(),
        "scores.parquet": table,
        "contamination.parquet": pa.table(columns, CONTAMINATION),
    }


def _commit_part(run: RunFolder, part: int, rows: list[dict], with_conversations: bool) -> list[Conversation]:
    source = pa.Table.from_pylist([row["source"] for row in rows], SOURCE)
    run.commit("source", part, "key", {f"source/{part:05d}.parquet": source}, {"rows": ROWS, "bad_row": 0})
    samples = pa.Table.from_pylist([row["sample"] for row in rows], SAMPLES)
    pictured = [row for row in rows if row["jpeg"]]
    tar, _ = tar_bytes((f"{row['sample']['key']}.jpg", row["jpeg"]) for row in pictured)
    files = {f"samples/{part:05d}.tar": tar, f"samples/{part:05d}.parquet": samples}
    run.commit("acquire", part, "key", files, {})
    embedded = [
        {"sample_id": row["source"]["sample_id"], "clip_score": row["decision"]["clip_score"],
         "vector": np.array([1, 0, 0, 0], np.float16)}
        for row in pictured
    ]  # fmt: skip
    run.commit("embed", part, "key", {f"vectors/{part:05d}.parquet": pa.Table.from_pylist(embedded, vectors(4))}, {})
    if not with_conversations:
        return []
    said = [one for row in rows if row["decision"]["state"] == State.KEPT for one in _conversations(row)]
    table = pa.Table.from_pylist([one.to_row() for one in said], CONVERSATIONS)
    refused = dict.fromkeys(REFUSED.names) | {
        "conversation_id": f"{part}-detail", "sample_id": said[0].sample_id, "kind": "detail", "reason": "ungrounded",
        "detail": f"zebra {EVIL}", "scope": "turn", "question": "What runs there?", "answer": "A zebra.",
    }  # fmt: skip
    rows = [{**refused, "retried": True}, {**refused, "retried": False}]
    files = {f"conversations/{part:05d}.parquet": table,
             f"rejected/{part:05d}.parquet": pa.Table.from_pylist(rows, REFUSED)}  # fmt: skip
    run.commit("instruct", part, "key", files, {"caption": len(said), "rejected_leak": 2})
    return said


def _conversations(row: dict) -> list[Conversation]:
    identity, number, scene = row["source"]["sample_id"], row["source"]["row"], row["scene"]
    count = Turn("How many objects are in the picture?", str(len(scene.objects)), "count")
    presence = Turn("Is there a café here?", "no, none", "presence")
    point = Turn("Point to it.", '<points x1="25.0" y1="50.0" x2="75.0" y2="50.0" alt="it">it</points>', "point")
    locate = Turn("What is at [0.100, 0.100, 0.300, 0.400]?", "<loc0512><loc0000><loc1023><loc0511> it", "locate")
    describe = Turn("Describe the picture.", row["source"]["caption"], "caption")
    made = [
        Conversation(f"{identity}-caption", identity, "caption", "template", [describe]),
        Conversation(f"{identity}-template", identity, "template", "template", [count, presence, point, locate]),
    ]
    if number % 10 == 0:
        detail = Turn("What is going on?", f"A whole story: {scene.captions[1]} ☃", "detail")
        made.append(
            Conversation(f"{identity}-detail", identity, "detail", "endpoint", [detail], "org/small-lm", "detail-2")
        )
    return made


def _log_training(run: RunFolder) -> None:
    run.path("logs").mkdir()
    for step, parts in (("align", ["connector"]), ("instruct", ["connector", "language"])):
        rates = {"connector": 1e-3, "language": 2e-5}
        lines = [
            {"step": number, "steps": 200, "loss": 0.6 + 3 * 0.97**number, "packs": number * 4, "gradient": 0.5,
             "lr": {part: rates[part] * (1 - number / 201) for part in parts}, "tokens_per_s": 5100.5, "filled": 0.93}
            for number in range(10, 201, 10)
        ]  # fmt: skip
        if step == "instruct":
            for line in lines[4::5]:
                loss = 1.2 + abs(line["step"] - 100) / 100
                line["validation"] = {"all": loss, "detail": loss + 0.5, "template": loss - 0.5}
        run.path("logs", f"{step}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        run.commit("train", step, "key", {}, {"steps": 200})


def _evaluate(run: RunFolder, said: list[Conversation]) -> None:
    questions = [
        Question(one.sample_id, turn.kind, turn.question, turn.answer)
        for one in said
        for turn in one.turns
        if turn.kind in ("count", "presence")
    ]
    answers = {
        "model": [q.expected if place % 5 else "seven" for place, q in enumerate(questions)],
        "majority": ["no, none"] * len(questions),
        "blank": ["3"] * len(questions),
        "shuffled": ["2"] * len(questions),
    }
    examples = [
        {"sample_id": q.sample_id, "kind": q.kind, "question": q.question, "expected": q.expected, "answer": answer,
         "right": answer == q.expected}
        for q, answer in zip(questions, answers["model"], strict=True)
    ]  # fmt: skip
    result = {**score(questions, answers, 200, 0), "majority": {"count": "3"}, "examples": examples}
    run.commit("evaluate", "all", "key", {"eval.json": json.dumps(result).encode()}, {})
    before = score(questions, {**answers, "model": answers["blank"]}, 200, 0)
    run.commit("evaluate", "after-align", "key", {"eval/align.json": json.dumps(before).encode()}, {})


class Page(HTMLParser):
    """The page as a browser would read it."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__()
        self.size = write_report(run)
        self.source = run.path("report.html").read_text()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.marked: list[str] = []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.tags and self.tags[-1][0] == "mark":
            self.marked.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}", {}))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(run: RunFolder) -> Page:
    return Page(run)


def test_headline_says_what_came_of_the_run(run: RunFolder, page: Page) -> None:
    result = json.loads(run.path("eval.json").read_text())
    kept = PARTS * ROWS - len(FAILED) - len(REJECTED)
    head = page.text[: page.text.index("What was kept")]
    assert f"Source rows {PARTS * ROWS}" in head
    assert f"Kept {kept} {100 * kept / (PARTS * ROWS):.1f} % of the source rows" in head
    assert f"{100 * result['accuracy']['model']:.1f} %" in head
    assert f"{result['best_baseline']}) {100 * result['accuracy'][result['best_baseline']]:.1f} %" in head
    assert f"+{100 * result['margin']:.1f} points" in head
    assert f"+{100 * result['interval'][0]:.1f} to +{100 * result['interval'][1]:.1f}" in head


def test_every_reason_is_there_with_its_meaning(page: Page) -> None:
    for reason in {why for why, *_ in [*FAILED.values(), *REJECTED.values()]}:
        assert reason.value in page.text
        assert reason.info.text in page.text


def test_page_needs_no_network_and_runs_nothing(page: Page) -> None:
    assert page.size < 3_000_000
    assert not page.all("script")
    assert not page.all("link")
    assert "@import" not in page.source
    assert "url(" not in page.source
    assert all((image["src"] or "").startswith("data:image/") for image in page.all("img"))
    assert any("default-src 'none'" in (each.get("content") or "") for each in page.all("meta"))


def test_text_from_the_web_stays_text(page: Page) -> None:
    assert EVIL in page.text
    assert EVIL_URL in page.text  # shown, but no link
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    links = [each["href"] or "" for each in page.all("a")]
    assert all(link.startswith(("#", "http://pictures.example/")) for link in links)
    assert "http://pictures.example/0.jpg?a=1&b=2" in links


def test_every_picture_and_chart_has_a_description(page: Page) -> None:
    assert all(image["alt"] for image in page.all("img"))
    described = [each for each in page.all("div") if each.get("role") == "img"]
    assert len(described) == 9  # scores; three thresholds; loss and rates of two steps, held-out loss of one
    assert all(each["aria-label"] for each in described)


def test_losses_on_held_out_conversations_stand_beside_the_training_loss(page: Page) -> None:
    described = [each["aria-label"] or "" for each in page.all("div") if each.get("role") == "img"]
    assert any("training from" in each and "held out from 1.7 to 2.2" in each for each in described)
    assert any("detail from 2.2 to 2.7; template from 1.2 to 1.7" in each for each in described)
    assert "On held-out conversations it is 2.200 (detail 2.700, template 1.700)" in page.text
    assert "it was lowest after optimizer step 100, with 1.200" in page.text


def test_each_kind_and_each_step_has_its_margin(run: RunFolder, page: Page) -> None:
    result = json.loads(run.path("eval.json").read_text())
    before = json.loads(run.path("eval", "align.json").read_text())
    assert page.text.index("After each training step") < page.text.index("Some of the questions")
    printed = io.StringIO()
    Console(file=printed, width=200).print(evaluation_table(run))
    for measured in (result, before, *result["kinds"].values()):
        margin, (low, high) = measured["margin"], measured["interval"]
        said = [f"{100 * each:+.1f}" for each in (margin, low, high)]
        assert f"{said[0]} {said[1]} to {said[2]}".replace("-", "\N{MINUS SIGN}") in page.text
        assert re.search(rf"{re.escape(said[0])} +{re.escape(said[1])} to {re.escape(said[2])}", printed.getvalue())


def test_a_curve_tells_what_another_threshold_would_keep(run: RunFolder) -> None:
    data = thresholds(Material(run))
    kept = [_row(number)["measured"] for number in range(PARTS * ROWS) if _row(number)["decision"]["state"] == "kept"]
    came = [_row(number)["measured"] for number in (4, 13, 33)]
    line = next(line for line in data["lines"] if line["name"] == "clip.keep.min")
    assert (line["reached"], line["dropped"], line["alone"], line["half"]) == (53, 3, 3, False)
    heights = [100 - float(point.split(",")[1]) for point in line["chart"].lines[0].points.split()]
    measured = sorted(row["clip_score"] for row in kept + came)
    assert len(heights) == len(set(np.float32(measured))) + 1  # every score, and where the threshold is set
    scale = heights[0] / len(measured)
    assert [round(height / scale) for height in heights[2:5]] == [len(kept), len(kept), len(kept) - 1]
    assert line["chart"].marker.label == "0.2"
    assert next(line for line in data["lines"] if line["name"] == "rules.boilerplate")["chart"] is None


def test_both_sides_of_a_threshold_show_the_nearest_rows(run: RunFolder) -> None:
    sides = {side["name"]: side for side in thresholds(Material(run))["sides"]}
    assert list(sides) == ["clip.keep.min", "heads.beauty.keep.min"]
    rows = [_row(number) for number in range(PARTS * ROWS)]
    kept = sorted(row["measured"]["clip_score"] for row in rows if row["decision"]["state"] == "kept")[:3]
    clip = sides["clip.keep.min"]
    assert [value for _, value in clip["kept"]] == pytest.approx(kept)
    assert [value for _, value in clip["dropped"]] == pytest.approx([0.05, 0.05, 0.0])
    assert {row.reason for row, _ in clip["dropped"]} == {"clip_score"}


def test_a_threshold_that_drops_more_than_half_is_flagged(tmp_path: Path) -> None:
    run = make_run(tmp_path, "select")
    assert "over half" not in Page(run).text
    facts = json.loads(run.path("select.json").read_text())
    facts["thresholds"][2] |= {"reached": 53, "dropped": 27}
    run.path("select.json").write_text(json.dumps(facts))
    page = Page(run)
    assert "50.9 % over half" in page.text
    assert "1 of them drops more than half of what reaches it" in page.text


def test_runs_of_before_thresholds_were_kept_have_no_section_of_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, "select")
    for name in ("scores", "contamination"):
        run.path(f"{name}.parquet").unlink()
    run.path("select.json").write_text('{"threshold": 0.2}')
    material = Material(run)
    assert thresholds(material) is None
    assert contamination(material) is None
    assert "Kept and dropped pictures" in Page(run).text


def test_every_hit_of_an_evaluation_set_is_listed(page: Page) -> None:
    part = page.text[page.text.index("Compared with held, other") :]
    part = part[: part.index("What is said of the pictures")]
    assert "2 samples are near them and left out (3 hits)" in part
    for text in ("3 of 64 bits differ", "a/b.png", "cosine 0.983", "a/c.png", "1 run of 8 words shared", EVIL):
        assert text in part


def test_the_kept_duplicate_says_why_it_is_kept(page: Page) -> None:
    part = page.text[page.text.index("rows were dropped for 3 kept ones") :]
    assert any(why in part for why in ("the highest CLIP score", "more pixels", "the earlier row"))


def test_a_mirrored_duplicate_is_told_as_one(tmp_path: Path) -> None:
    run = make_run(tmp_path, "select")
    path = run.table_path("samples", 0)
    samples = pq.read_table(path).to_pylist()
    kept, other = samples[7], samples[9]
    kept["phash_variants"] = [int(other["phash"], 16), 0, 0]
    other["phash_variants"] = [int(kept["phash"], 16), 0, 0]
    kept["thumbnail"] = other["thumbnail"] = bytes(640)
    pq.write_table(pa.Table.from_pylist(samples, SAMPLES), path)
    path = run.table_path("ledger", 0)
    ledger = pq.read_table(path).to_pylist()
    ledger[9] |= {"state": "dropped", "reason": "duplicate_perceptual", "duplicate_of": ledger[7]["sample_id"]}
    pq.write_table(pa.Table.from_pylist(ledger, LEDGER), path)
    groups = duplicates(Material(run))["groups"]
    dropped = next(each for group in groups for each in group["dropped"] if each.row.row == 9)
    assert (dropped.bits, dropped.seen, dropped.direct) == (0, "mirrored", True)


def test_what_an_earlier_run_kept_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, "select")
    path = run.table_path("ledger", 0)
    ledger = pq.read_table(path).to_pylist()
    ledger[20]["duplicate_of"] = "f" * 64
    pq.write_table(pa.Table.from_pylist(ledger, LEDGER), path)
    text = Page(run).text
    assert "in an earlier run" in text
    assert "f" * 64 in text


def test_conversations_stand_beside_pictures_with_their_marks(page: Page) -> None:
    drawn = {each.get("class") for each in page.all("rect")}
    assert {"known", "asking", "answering"} <= drawn
    assert any(each.get("style") == "left:25.00%;top:50.00%" for each in page.all("i"))
    assert "written by org/small-lm, prompt detail-2" in page.text


def test_what_gates_refused_is_counted_with_examples(page: Page) -> None:
    part = page.text[page.text.index("What the gates refused") :]
    assert "4 refused; after 2 of them the language model was asked once more" in part
    assert "detail 4 4 0 2" in part
    assert f"zebra {EVIL}" in part


def test_tokens_and_cost_of_the_endpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path, "instruct")
    assert "gave this run" not in Page(run).text
    AnswerStore(tmp_path / "answers", run.root.name).put_all({"a": Answer("x", 1200, 34), "b": Answer("y", 300, 6)})
    assert "gave this run 2 answers for 1,500 tokens of requests and 40 of answers." in Page(run).text


def test_marks_are_read_as_shares() -> None:
    assert marks_in('<point x="12.5" y="50.0" alt="a">a</point>') == [Mark(0.125, 0.5)]
    assert marks_in("[0.000, 0.250, 0.500, 1.000]; [0.5, 0.5, 0.1, 0.9]") == [Mark(0, 0.25, 0.5, 0.75)]
    assert marks_in("<loc0512><loc0000><loc1023><loc0511> cat") == [Mark(0, 0.5, 0.5, 0.5)]
    assert marks_in('<point x="120.0" y="5.0"> [1, 2, 3] [0.1, 0.2, 0.3, 7.5]') == []


@given(st.text(alphabet='<point x="1.5"y[,]0loc>s ', max_size=200))
def test_marks_of_any_text_lie_in_the_picture(text: str) -> None:
    for mark in marks_in(text):
        assert 0 <= mark.x <= mark.x + mark.w <= 1
        assert 0 <= mark.y <= mark.y + mark.h <= 1


def test_duplicates_stand_beside_the_kept_one(page: Page) -> None:
    part = page.text[page.text.index("rows were dropped for 3 kept ones") :]
    for kind in ("exact", "perceptual", "semantic"):
        assert kind in part
    assert "0 of 64 bits differ, cosine 1.000" in part


def test_rows_without_a_picture_show_status_and_message(page: Page) -> None:
    assert "status 404" in page.text
    assert "broken data stream" in page.text


def test_marked_tokens_are_those_that_carry_loss(run: RunFolder, page: Page) -> None:
    recipe = make_recipe(run.root.parent)
    tokenizer = load_tokenizer(recipe.model.language)
    conversations = {row["conversation_id"]: row for row in run.read_table("conversations").to_pylist()}
    shown = re.findall(r'<pre class="tokens">(.*?)</pre>', page.source, re.DOTALL)
    assert len(shown) == 6
    expected = set()
    for row in conversations.values():
        encoded = encode(Conversation.from_row(row), tokenizer, 64)
        learned = [token for token, label in zip(encoded.input_ids, encoded.labels, strict=True) if label != NO_LOSS]
        expected.add(tokenizer.decode(learned))
    for html in shown:
        reader = HTMLParser()
        pieces: list[str] = []
        reader.handle_data = pieces.append  # type: ignore[method-assign]
        reader.feed("".join(re.findall(r"<mark>(.*?)</mark>", html, re.DOTALL)))
        reader.close()
        assert "".join(pieces) in expected
        assert html.count("picture × 64") == 1
    assert any("☃" in html for html in shown)
    assert "written by org/small-lm, prompt detail-2" in page.text
    assert "from templates" in page.text


def test_picture_is_shown_as_the_tower_gets_it(run: RunFolder, page: Page) -> None:
    recipe = make_recipe(run.root.parent)
    tower = VisionTower(recipe.model.vision)
    seen = [each["src"] for each in page.all("img") if each.get("class") == "pixels"]
    assert len(seen) == 6
    mean, std = np.array(tower.format.mean), np.array(tower.format.std)
    inputs = []
    for row in map(_row, range(PARTS * ROWS)):
        if row["jpeg"]:
            tensor = tower.format.tensor(Image.open(io.BytesIO(row["jpeg"])))
            inputs.append(tensor.numpy().transpose(1, 2, 0) * std + mean)
    for source in seen:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode((source or "").partition(",")[2]))))
        assert pixels.shape == (64, 64, 3)
        assert min(np.abs(pixels / 255 - each).max() for each in inputs) < 0.5 / 255


def test_secrets_do_not_reach_the_page(page: Page) -> None:
    assert "secret" not in page.source
    assert "127.0.0.1:9/v1" in page.source


def test_same_run_same_page(run: RunFolder, page: Page) -> None:
    assert Page(run).source == page.source


@pytest.mark.parametrize(
    ("until", "there", "missing"),
    [
        ("source", [], ["select", "acquire", "instruct", "train", "evaluate"]),
        ("select", ["values of CLIP score", "kept"], ["instruct", "train", "evaluate"]),
        ("instruct", ["written by org/small-lm"], ["train", "evaluate"]),
    ],
)
def test_what_is_not_there_yet_names_its_stage(
    tmp_path: Path, until: str, there: list[str], missing: list[str]
) -> None:
    page = Page(make_run(tmp_path, until))
    for stage in ("select", "acquire", "instruct", "train", "evaluate"):
        assert (f"Not there yet: the stage {stage} makes it." in page.text) == (stage in missing)
    assert all(text in page.source for text in there)


def test_contrastive_recipe_leaves_out_the_language_model(tmp_path: Path) -> None:
    run = make_run(tmp_path, "select")
    data = {"name": "clip", "source": {"table": "urls.parquet"},
            "train": [{"name": "clip", "objective": "contrastive", "learn": {"clip": 1e-3}}]}  # fmt: skip
    run.path("recipe.yaml").write_text(json.dumps(data))
    page = Page(run)
    assert "This recipe trains no language model." in page.text
    assert "This recipe has no section evaluate." in page.text
    assert "Training tokens" not in page.text


def test_without_a_tokenizer_answers_are_marked(tmp_path: Path) -> None:
    run = make_run(tmp_path, "instruct")
    for path in (tmp_path / "tokenizer").iterdir():
        path.unlink()
    page = Page(run)
    assert "The tokenizer is not on this machine" in page.text
    assert any(text.startswith("A whole story") for text in page.marked)


def test_ticks_are_round_and_enclose_the_values() -> None:
    assert charts.tick_values(0, 97) == [0, 25, 50, 75, 100] or charts.tick_values(0, 97) == [0, 50, 100]
    for low, high in ((0.31, 0.34), (-0.7, 0.9), (0, 1), (5, 5), (1e-5, 2e-5)):
        values = charts.tick_values(low, high)
        assert values[0] <= low
        assert values[-1] >= high
        assert len(values) <= 9


def test_histogram_bars_add_up() -> None:
    values = np.random.default_rng(0).normal(size=500)
    chart = charts.histogram_chart([("kept", "kept", values[:300]), ("gone", "dropped", values[300:])], 0.5, "score")
    counted = sum(int(bar.title.split(": ")[1].split()[0]) for bar in chart.bars)
    assert counted == 500
    assert all(bar.top >= 0 and bar.top + bar.height <= 100.001 for bar in chart.bars)
    assert chart.marker is not None
    assert "500 values" in chart.summary
