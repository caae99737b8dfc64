"""Writes a known world: pictures to be served, the source table, COCO annotations, and the truth about every row.

A row's content depends on the seed and the row's number alone, so any number of processes writes the same bytes.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydantic import Field

from schemas.settings import Settings
from schemas.tables import BOX
from stages.sample.objects import object_paths
from stages.sample.scenes import Scene, make_scene


def _rate(default: float, text: str) -> Any:
    return Field(default, ge=0, le=1, description=f"share of rows: {text}")


class NoiseRates(Settings):
    """The share of rows with each kind of trouble. What is left is clean."""

    wrong_caption: float = _rate(0.06, "the caption of another scene")
    boilerplate_caption: float = _rate(0.04, "a caption that says nothing, like IMG_1234.jpg")
    duplicate_exact: float = _rate(0.03, "the same bytes as an earlier row")
    duplicate_reencoded: float = _rate(0.02, "an earlier picture at another JPEG quality")
    duplicate_resized: float = _rate(0.02, "an earlier picture at another size")
    duplicate_cropped: float = _rate(0.02, "an earlier picture cropped to 90%")
    duplicate_flipped: float = _rate(0.02, "an earlier picture mirrored left to right")
    tiny: float = _rate(0.02, "a picture of a few pixels")
    huge: float = _rate(0.003, "a picture of more than 16 million pixels")
    broken: float = _rate(0.02, "a JPEG that is cut short or damaged")
    html: float = _rate(0.02, "an HTML page behind a .jpg name")
    missing: float = _rate(0.03, "status 404")
    slow: float = _rate(0.002, "a server that drips bytes")
    endless: float = _rate(0.002, "an answer that never ends")
    opt_out: float = _rate(0.01, "a header that opts out of machine learning")
    robots: float = _rate(0.01, "a host that robots.txt closes")

    def kinds(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.model_dump().items()}

    @classmethod
    def clean(cls) -> NoiseRates:
        """No trouble at all."""
        return cls(**dict.fromkeys(cls.model_fields, 0.0))


_DUPLICATES = ("duplicate_exact", "duplicate_reencoded", "duplicate_resized", "duplicate_cropped", "duplicate_flipped")
_BOILERPLATE = ("IMG_{n}.jpg", "DSC{n}.JPG", "image", "photo {n}", "untitled", "stock photo", "https://example.com/{n}",
                "{n}", "thumbnail", "Screenshot {n}")  # fmt: skip
_JPEG_QUALITY = 92
#: Of OpenMoji's drawings.
_LICENCE = "CC BY-SA 4.0"


def make_world(
    folder: Path,
    scenes: int,
    seed: int,
    rates: NoiseRates | None = None,
    base_url: str = "http://127.0.0.1:8765",
    closed_url: str | None = None,
    processes: int | None = None,
    progress: Callable[[int], None] | None = None,
    drawings: Path | None = None,
) -> None:
    """Writes the world of `seed` into `folder`.

    Files: `pictures/` (what a server serves), `routes.json` (how it serves each; see `stages.sample.server`),
    `urls.parquet` (the source table), `truth.parquet` (which row is which), `annotations.json` (COCO: `images`,
    `annotations` with boxes, `captions`, `categories`), `world.json` (seed, rates, source and licence of the drawings).

    Args:
        scenes: rows of the source table. Rows with trouble are among them, at `rates`.
        seed: the same seed gives the same bytes.
        base_url: where the pictures will be served.
        closed_url: a second name of that server, whose robots.txt closes it; by default `localhost` for `127.0.0.1`.
        processes: worker processes; all cores where None.
        progress: called with the number of rows that are done.
        drawings: a folder of drawings to compose the scenes from (see `object_paths`); OpenMoji's where None.

    Raises:
        InputError: `drawings` is no such folder, or a drawing in it cannot be used.
    """
    kinds = object_paths(drawings)
    rates = rates or NoiseRates()
    closed_url = closed_url or base_url.replace("127.0.0.1", "localhost")
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    noise = plan_noise(scenes, seed, rates)
    work = partial(_write_row, folder=folder, seed=seed, noise=noise, base_url=base_url, closed_url=closed_url,
                   drawings=drawings)  # fmt: skip
    rows: list[dict[str, Any]] = []
    processes = processes or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for row in pool.map(work, range(scenes), chunksize=32):
            rows.append(row)
            if progress and len(rows) % 50 == 0:
                progress(len(rows))
    if progress:
        progress(len(rows))
    _write_tables(folder, rows, list(kinds), _LICENCE if drawings is None else None)
    drawn = f"OpenMoji 17.0.0, {_LICENCE}, openmoji.org" if drawings is None else str(drawings)
    about = {"scenes": scenes, "seed": seed, "rates": rates.kinds(), "base_url": base_url, "kinds": len(kinds),
             "drawings": drawn}  # fmt: skip
    (folder / "world.json").write_text(json.dumps(about, indent=1))


def plan_noise(scenes: int, seed: int, rates: NoiseRates) -> list[tuple[str, int]]:
    """Says for every row what befalls it and which earlier row it copies (itself, where none).

    Wrong captions are taken from the row they copy; only clean rows are copied.
    """
    rng = np.random.default_rng([seed, 1])
    names = list(rates.kinds())
    edges = np.cumsum(list(rates.kinds().values()))
    draws = rng.random(scenes)
    kinds = [names[index] if index < len(names) else "clean" for index in np.searchsorted(edges, draws, side="right")]
    clean: list[int] = []
    planned: list[tuple[str, int]] = []
    for row, kind in enumerate(kinds):
        if (kind in _DUPLICATES or kind == "wrong_caption") and not clean:
            kind = "clean"
        copied = int(rng.choice(clean)) if kind in _DUPLICATES or kind == "wrong_caption" else row
        if kind == "clean":
            clean.append(row)
        planned.append((kind, copied))
    return planned


def scene_of(seed: int, row: int, drawings: Path | None = None) -> Scene:
    """The scene that row `row` of the world of `seed` (and of the folder `drawings`, where given) shows."""
    return make_scene(np.random.default_rng([seed, 2, row]), drawings)


def _write_row(
    row: int,
    folder: Path,
    seed: int,
    noise: list[tuple[str, int]],
    base_url: str,
    closed_url: str,
    drawings: Path | None,
) -> dict[str, Any]:
    kind, copied = noise[row]
    rng = np.random.default_rng([seed, 3, row])
    original = scene_of(seed, copied if kind in _DUPLICATES else row, drawings)
    boxes = [_box(placed.name, placed.box, 1.0) for placed in original.objects]
    picture, captions = original.picture, original.captions
    if kind == "wrong_caption":
        captions = scene_of(seed, copied, drawings).captions
    elif kind == "duplicate_resized":
        scale = float(rng.choice([0.7, 0.8, 1.25, 1.5]))
        picture = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.LANCZOS)
        boxes = [_box(placed.name, placed.box, scale) for placed in original.objects]
    elif kind == "duplicate_cropped":
        left, top = round(picture.width * 0.05), round(picture.height * 0.05)
        picture = picture.crop((left, top, picture.width - left, picture.height - top))
        boxes = [_box(placed.name, placed.box, 1.0, -left, -top, picture.size) for placed in original.objects]
    elif kind == "duplicate_flipped":
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirrored = [(picture.width - p.box[0] - p.box[2], *p.box[1:]) for p in original.objects]
        boxes = [_box(p.name, box, 1.0) for p, box in zip(original.objects, mirrored, strict=True)]
        captions = [caption for caption in captions if " left of " not in caption and " right of " not in caption]
    elif kind == "tiny":
        picture = picture.resize((int(rng.integers(1, 16)), int(rng.integers(1, 16))))
    elif kind == "huge":
        picture = picture.resize((4600, 4600), Image.Resampling.BILINEAR)
    quality = int(rng.integers(55, 80)) if kind == "duplicate_reencoded" else _JPEG_QUALITY
    data = _jpeg(picture, quality)
    if kind == "broken":
        cut = int(len(data) * rng.uniform(0.1, 0.6))
        data = data[:cut]
    elif kind == "html":
        data = b"<!DOCTYPE html><html><head><title>Not found</title></head><body>This picture has moved.</body></html>"
    caption = captions[int(rng.integers(len(captions)))]
    if kind == "boilerplate_caption":
        caption = str(rng.choice(_BOILERPLATE)).format(n=int(rng.integers(1000, 9999)))
        captions = [caption]
    # The name says nothing of what is behind it.
    name = f"{np.random.default_rng([seed, 4, row]).integers(1 << 62):016x}.jpg"
    (folder / "pictures" / name).write_bytes(data)
    said = [caption] + [other for other in captions if other != caption]
    return {
        "url": f"{closed_url if kind == 'robots' else base_url}/pictures/{name}",
        "caption": caption,
        "captions": said,
        "boxes": boxes,
        "row": row,
        "noise": kind,
        "copied_row": copied if kind in _DUPLICATES else None,
        "objects": [placed.name for placed in original.objects],
        "background": original.background,
        "file": name,
        "width": picture.width,
        "height": picture.height,
    }


def _box(
    label: str, box: tuple[int, ...], scale: float, dx: int = 0, dy: int = 0, inside: tuple[int, int] | None = None
) -> dict[str, Any]:
    x, y, w, h = (side * scale for side in box)
    x, y = x + dx, y + dy
    if inside:
        right, bottom = min(x + w, inside[0]), min(y + h, inside[1])
        x, y = max(x, 0.0), max(y, 0.0)
        w, h = right - x, bottom - y
    return {"label": label, "x": x, "y": y, "w": w, "h": h}


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _write_tables(folder: Path, rows: list[dict[str, Any]], kinds: list[str], licence: str | None) -> None:
    source = pa.schema(
        [("url", pa.string()), ("caption", pa.string()), ("captions", pa.list_(pa.string())), ("boxes", pa.list_(BOX)),
         ("licence", pa.string())]
    )  # fmt: skip
    listed = [{**{name: row[name] for name in source.names[:-1]}, "licence": licence} for row in rows]
    pq.write_table(pa.Table.from_pylist(listed, source), folder / "urls.parquet")
    truth = pa.schema(
        [("row", pa.int64()), ("url", pa.string()), ("noise", pa.string()), ("copied_row", pa.int64()),
         ("objects", pa.list_(pa.string())), ("background", pa.string())]
    )  # fmt: skip
    pq.write_table(
        pa.Table.from_pylist([{name: row[name] for name in truth.names} for row in rows], truth),
        folder / "truth.parquet",
    )
    routes = {row["file"]: row["noise"] for row in rows if row["noise"] in ("missing", "slow", "endless", "opt_out")}
    (folder / "routes.json").write_text(json.dumps(routes, indent=0))
    names = {name: number for number, name in enumerate(kinds, start=1)}
    boxed = [(row, box) for row in rows for box in row["boxes"]]
    said = [(row, caption) for row in rows for caption in row["captions"]]
    coco = {
        "images": [{"id": r["row"], "file_name": r["file"], "width": r["width"], "height": r["height"]} for r in rows],
        "annotations": [
            {"id": number, "image_id": row["row"], "category_id": names[box["label"]], "iscrowd": 0,
             "bbox": [box["x"], box["y"], box["w"], box["h"]], "area": box["w"] * box["h"]}
            for number, (row, box) in enumerate(boxed)
        ],
        "captions": [
            {"id": number, "image_id": row["row"], "caption": caption} for number, (row, caption) in enumerate(said)
        ],
        "categories": [{"id": number, "name": name} for name, number in names.items()],
    }  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(coco))
