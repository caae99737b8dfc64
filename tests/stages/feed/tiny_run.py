"""A run folder in miniature, as it is when feed begins: pictures of one colour, and questions about that colour."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from models.full import ModelSettings
from schemas.conversation import Conversation, Turn
from schemas.identity import sample_id
from schemas.tables import CONVERSATIONS, DECISIONS, SAMPLES, SOURCE
from stages.feed import FeedSettings, ShardWork
from stages.run_folder import WHOLE, RunFolder
from stages.tar import tar_bytes
from tests.models.conftest import make_tokenizer

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 50, 210), "white": (240, 240, 240)}
FEED = FeedSettings(tokens_per_pack=512, pictures_per_pack=8)


def one_colour(number: int) -> Image.Image:
    """The picture of row `number`, unless a test draws others."""
    colour = list(COLOURS.values())[number % len(COLOURS)]
    return Image.new("RGB", (48, 40), tuple(min(255, value + number) for value in colour))


def make_run(
    root: Path,
    parts: int = 2,
    rows: int = 12,
    long_row: int | None = None,
    draw: Callable[[int], Image.Image] = one_colour,
    kinds: Sequence[str] = ("detail", "template"),
) -> RunFolder:
    """Commits what acquire, select and instruct would have. Row 0 of a part is dropped, rows 1 and 2 are held out.

    Args:
        long_row: this row of part 0 says too much for any pack.
        draw: the picture of a row.
        kinds: of conversations; the one of kind `template` has two turns, others have one.
    """
    run = RunFolder(root)
    decisions = []
    for part in range(parts):
        source, samples, members, said = [], [], [], []
        for place in range(rows):
            number = part * rows + place
            name = list(COLOURS)[number % len(COLOURS)]
            caption = f"a {name} field"
            url = f"http://pictures.example/{number}.jpg"
            identity, key = sample_id(url, caption), f"{part:05d}{place:04d}"
            kept = place != 0
            file = io.BytesIO()
            picture = draw(number)
            width, height = picture.size
            picture.save(file, "JPEG")
            members.append((f"{key}.jpg", file.getvalue()))
            box = {"label": name, "x": 0.0, "y": 0.0, "w": float(width), "h": float(height)}
            source.append(
                {"sample_id": identity, "row": number, "url": url, "caption": caption, "licence": "CC0",
                 "captions": [caption, f"a picture of {name}"], "reason": None}
            )  # fmt: skip
            samples.append(
                {"key": key, "url": url, "caption": caption, "status": "success", "sample_id": identity, "row": number,
                 "width": width, "height": height, "original_width": 2 * width, "original_height": 2 * height,
                 "boxes": [box]}
            )  # fmt: skip
            decisions.append(
                {"sample_id": identity, "row": number, "part": part, "state": "kept" if kept else "dropped",
                 "stage": None if kept else "select", "reason": None if kept else "caption_short",
                 "split": None if not kept else "val" if place in (1, 2) else "train"}
            )  # fmt: skip
            if kept:
                words = "very " * 600 if part == 0 and place == long_row else ""
                turns = [
                    Turn("Which colour?", name, "colour"),
                    Turn("Is it red?", "yes" if name == "red" else "no", "red"),
                ]
                says = Turn(f"Describe {words}it.", f"A field, all {name}.", "detail")
                for kind in kinds:
                    if kind == "template" and words:
                        continue
                    spoken = turns if kind == "template" else [says]
                    said.append(Conversation(f"{identity}-{kind}", identity, kind, "template", spoken).to_row())
        files: dict[str, Any] = {
            f"samples/{part:05d}.tar": tar_bytes(members)[0],
            f"samples/{part:05d}.parquet": pa.Table.from_pylist(samples, SAMPLES),
        }
        table = pa.Table.from_pylist(source, SOURCE)
        run.commit("source", part, "k", {f"source/{part:05d}.parquet": table}, {"rows": rows})
        run.commit("acquire", part, "k", files, {})
        conversations = pa.Table.from_pylist(said, CONVERSATIONS)
        run.commit("instruct", part, "k", {f"conversations/{part:05d}.parquet": conversations}, {})
    run.commit("select", WHOLE, "k", {"decisions.parquet": pa.Table.from_pylist(decisions, DECISIONS)}, {})
    return run


def make_model(folder: Path, **more: Any) -> ModelSettings:
    """An untrained model: the packaged tower's shape, a Llama of two layers, a tokenizer of 320 tokens.

    Args:
        more: further keys of the Llama's config.
    """
    make_tokenizer(folder, None, "Which colour is it? Describe it. A field, all red green blue white.")
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        **more,
    }
    return ModelSettings.model_validate(
        {"vision": {"pretrained": "none"}, "language": {"config": config, "tokenizer": str(folder)}}
    )


def feed_all(run: RunFolder, model: ModelSettings | None, feed: FeedSettings = FEED) -> ShardWork:
    """Runs the feed stage over all parts."""
    work = ShardWork(run, feed, model)
    for part in run.parts():
        work.process(part)
    return work
