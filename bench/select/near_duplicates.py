"""Which copies of pictures each kind of dedup finds, in a known world of a seed that nothing was tuned on.

The world is clean but for copies; two more kinds are planted here: a slight change of colour, brightness and contrast,
and a file with other bytes that decodes to the same pixels. Each picture goes through acquire's decoder and the shipped
filter network. Of the rows of a scene one is to be kept: all others are to be dropped in favour of a row of the same
scene. Recall is the share of these that are, precision the share of all dropped rows that are right. What is an exact
copy is said by Pillow's decoder: some near copies are exact copies of each other, as two mirrored ones.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageEnhance

from bench.goals import print_goal
from models.clip import load_clip
from schemas.tables import SAMPLES
from stages.acquire import AcquireSettings
from stages.acquire.decode import Picture, decode
from stages.sample.world import NoiseRates, make_world
from stages.select.dedup import Verdicts, drop_duplicates
from stages.select.dedup.settings import DedupSettings, PerceptualSettings, SemanticSettings

SEED = 727_272
SCENES, PLANTED = 5000, 300
LEAST_RECALL, LEAST_PRECISION = 0.98, 0.99
#: Cosines of the shipped filter network: those of unlike scenes in its world reach 0.987.
MIN_COSINE = 0.99
RATES = {
    "duplicate_exact": 0.05, "duplicate_reencoded": 0.05, "duplicate_resized": 0.05, "duplicate_cropped": 0.05,
    "duplicate_flipped": 0.05,
}  # fmt: skip
EXACT = ("duplicate_exact", "same_pixels")


@dataclass(frozen=True)
class Row:
    """A file, the kind of copy that it is, and the row of the scene that it shows."""

    body: bytes
    kind: str
    scene: int


def main(quick: bool) -> None:
    """Prints the goals' lines."""
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(Path(folder), SCENES // 10 if quick else SCENES, PLANTED // 10 if quick else PLANTED)
    samples, vectors = look(rows)
    scene = np.array([row.scene for row in rows])
    content = np.array([hashlib.md5(np.asarray(Image.open(io.BytesIO(row.body))).tobytes()).digest() for row in rows])
    by_content = dedup(samples, vectors, DedupSettings())
    precision, recall = score(by_content, content)
    copies = int(np.isin([row.kind for row in rows], EXACT).sum())
    print_goal("select", "exact duplicates: precision", precision, 1.0, rows=len(rows), copies=copies)
    print_goal("select", "exact duplicates: recall", recall, 1.0, rows=len(rows), copies=copies)

    left = np.flatnonzero(by_content < 0)
    samples, vectors = samples.take(left), vectors.take(left)
    kinds = {"perceptual": PerceptualSettings(), "semantic": SemanticSettings(min_cosine=MIN_COSINE)}
    asked = {name: {name: kind} for name, kind in kinds.items()} | {
        "perceptual, hash alone": {"perceptual": PerceptualSettings(mirrored=False, cropped=False, min_likeness=None)},
        "semantic, default threshold": {"semantic": SemanticSettings()},
    }
    alone = {name: told(score(dedup(samples, vectors, DedupSettings(**kind)), scene[left]))  # type: ignore[arg-type]
             for name, kind in asked.items()}  # fmt: skip
    together = dedup(samples, vectors, DedupSettings(**kinds))  # type: ignore[arg-type]
    precision, recall = score(together, scene[left])
    missed = missed_kinds([rows[place].kind for place in left], scene[left], together)
    print_goal("select", "near duplicates: recall, perceptual and semantic", recall, LEAST_RECALL, missed=missed)
    print_goal("select", "near duplicates: precision, perceptual and semantic", precision, LEAST_PRECISION,
               rows=len(left), min_cosine=MIN_COSINE, alone=alone)  # fmt: skip


def make_rows(folder: Path, scenes: int, planted: int) -> list[Row]:
    """The files of a world with copies, followed by the planted ones."""
    make_world(folder, scenes, SEED, NoiseRates.clean().model_copy(update=RATES))
    rows = []
    for truth in pq.read_table(folder / "truth.parquet").to_pylist():
        body = (folder / "pictures" / truth["url"].rpartition("/")[2]).read_bytes()
        rows.append(Row(body, truth["noise"], truth["row"] if truth["copied_row"] is None else truth["copied_row"]))
    rng = np.random.default_rng(SEED)
    clean = [row for row in rows if row.kind == "clean"]
    for number, place in enumerate(rng.choice(len(clean), planted, replace=False)):
        row = clean[int(place)]
        if number % 3:
            rows.append(Row(_recoloured(row.body, rng), "recoloured", row.scene))
        else:
            rows.append(Row(_with_comment(row.body), "same_pixels", row.scene))
    return rows


def look(rows: list[Row]) -> tuple[pa.Table, pa.Table]:
    """The columns that dedup reads, by acquire's decoder and the shipped filter network."""
    settings = AcquireSettings()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        pictures = [found for found in pool.map(lambda row: decode(row.body, settings), rows)
                    if isinstance(found, Picture)]  # fmt: skip
    assert len(pictures) == len(rows)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    encoded = load_clip().encode_pictures([picture.jpeg for picture in pictures]).astype(np.float16)
    found = [
        asdict(picture.fingerprint) | {"sha256": picture.sha256, "pixels_sha256": picture.pixels_sha256}
        for picture in pictures
    ]
    names = DedupSettings(perceptual=PerceptualSettings()).columns()
    columns = {name: pa.array([row[name] for row in found], SAMPLES.field(name).type) for name in names}
    vector = pa.FixedSizeListArray.from_arrays(pa.array(encoded.ravel()), encoded.shape[1])
    return pa.table(columns), pa.table({"vector": vector})


def dedup(samples: pa.Table, vectors: pa.Table, settings: DedupSettings) -> np.ndarray:
    """For each row the row that is kept in its stead, or -1; in a fixed random order of preference."""
    count = samples.num_rows
    verdicts = Verdicts(np.full(count, None))
    places = np.random.default_rng(SEED).permutation(count)
    drop_duplicates(verdicts, places, samples, vectors, pa.array(np.arange(count)), settings)
    return verdicts.final_keeper()


def score(keeper: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Precision and recall of dropping all but one of each group in favour of one of the same group."""
    dropped = np.flatnonzero(keeper >= 0)
    right = int((group[dropped] == group[keeper[dropped]]).sum())
    return right / max(len(dropped), 1), right / (len(group) - len(np.unique(group)))


def told(found: tuple[float, float]) -> dict[str, float]:
    """Both figures by name."""
    return {"precision": round(found[0], 4), "recall": round(found[1], 4)}


def missed_kinds(kinds: list[str], scene: np.ndarray, keeper: np.ndarray) -> dict[str, int]:
    """Of the scenes that keep more than one row, how many rows of each kind they keep besides the original's."""
    kept = np.flatnonzero(keeper < 0)
    number = np.bincount(scene[kept], minlength=int(scene.max()) + 1)
    names, counts = np.unique([kinds[row] for row in kept if number[scene[row]] > 1], return_counts=True)
    return {str(name): int(count) for name, count in zip(names, counts, strict=True) if name != "clean"}


def _recoloured(body: bytes, rng: np.random.Generator) -> bytes:
    picture = Image.open(io.BytesIO(body)).convert("RGB")
    for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        picture = enhance(picture).enhance(float(rng.uniform(0.88, 1.12)))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _with_comment(jpeg: bytes) -> bytes:
    """The same JPEG with a comment behind its first marker."""
    note = b"a comment"
    return jpeg[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + jpeg[2:]
