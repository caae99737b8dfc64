"""Writes rendered pictures with their conversations as a folder that the source form `llava` reads."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from schemas.conversation import Conversation
from stages.render import find_renderer
from stages.store import write_atomically

#: What one process draws before it asks for more.
_CHUNK = 16
_QUALITY = 92

#: A picture to draw: sort, number, seed.
Order = tuple[str, int, int]


def render(
    folder: Path,
    numbers: Mapping[str, int],
    seed: int,
    processes: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Writes FOLDER/pictures/*.jpg and FOLDER/conversations.json; returns how many pictures there are.

    Each picture follows from its sort, its number and the seed alone, so the bytes are the same for any number of
    processes, and more pictures leave the first ones as they are. A record holds what was drawn as `truth`, and a
    `caption`, beside what LLaVA's form has.

    Args:
        numbers: sort (a file of `stages.render`) -> how many.
        processes: as many as there are cores, where None; 1 draws in this one.
        progress: called after each picture with how many are done.

    Raises:
        InputError: there is no such sort.
    """
    orders = [(find_renderer(name)().name, number, seed) for name, most in numbers.items() for number in range(most)]
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    records = []
    for record, jpeg in _drawn(orders, processes or os.cpu_count() or 1):
        (pictures / record["image"]).write_bytes(jpeg)
        records.append(record)
        progress(len(records))
    text = json.dumps(records, ensure_ascii=False, indent=1)
    write_atomically(folder / "conversations.json", text.encode())
    return len(records)


def _drawn(orders: list[Order], processes: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each record and its JPEG, in the order asked for."""
    if processes == 1 or len(orders) <= _CHUNK:
        yield from map(draw_one, orders)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(draw_one, orders, chunksize=_CHUNK)


def draw_one(order: Order) -> tuple[dict[str, Any], bytes]:
    """One record in LLaVA's form, and its picture as JPEG."""
    name, number, seed = order
    rng = random.Random(f"{seed}/{name}/{number}")
    renderer = find_renderer(name)()
    drawn = renderer.draw(rng)
    identity = f"{name}-{number:06d}"
    said = Conversation(identity, identity, name, "source", renderer.turns(drawn, rng))
    file = io.BytesIO()
    drawn.picture.save(file, "JPEG", quality=_QUALITY)
    return said.to_llava(f"{identity}.jpg") | {"caption": drawn.caption, "truth": drawn.truth}, file.getvalue()
