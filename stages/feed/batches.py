"""Turns the plan into tensors: every rank reads its packs by number, in the order of the plan."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from models.chat import NO_LOSS, Encoded, encode
from models.layout import PictureLayout
from schemas.conversation import Conversation
from schemas.errors import InputError, SluiceError
from stages.feed.reader import PackReader, decode

T = TypeVar("T")

#: Sequences are padded to a multiple of this, so that few different shapes occur.
_ROUND_UP = 32


@dataclass(frozen=True)
class Piece:
    """What one rank passes forward at once: some packs of one optimizer step.

    Attributes:
        step: number of the optimizer step, from 0.
        last: whether the rank's next piece belongs to another step.
        divisor: supervised tokens (pictures, in contrastive steps) of the whole optimizer step, over all ranks.
        packs: for each pack its rows of `schemas.tables.PLAN`. Empty where the plan's last step is too small.
    """

    step: int
    last: bool
    divisor: int
    packs: list[list[dict[str, Any]]]


class Pieces(Protocol):
    """What one rank passes forward in a training step.

    Attributes:
        steps: optimizer steps; None where that is not known before they are taken.
    """

    @property
    def steps(self) -> int | None: ...

    def pictures(self) -> int:
        """How many pictures the steps show at most, repeats counted."""
        ...

    def samples(self, step: int) -> list[str]:
        """The samples of an optimizer step, over all ranks."""
        ...

    def batches(self, from_step: int, collate: Callable[[Piece], Any]) -> Iterator[Any]:
        """What `collate` makes of each piece, in order, from optimizer step `from_step` on."""
        ...


def pack_begins(plan: pa.Table) -> np.ndarray:
    """The row at which each pack begins, and the end of the last; int64 [packs + 1]."""
    return np.append(np.flatnonzero(np.diff(plan["pack"].to_numpy(), prepend=-1)), len(plan))


class PiecePlan:
    """Cuts a plan into optimizer steps, and each step into pieces for ranks and accumulation.

    Args:
        plan: rows of `schemas.tables.PLAN`, in order.
        packs_per_step: packs in one optimizer step, over all ranks.
        max_steps: optimizer steps to take at most.

    Raises:
        InputError: `packs_per_step` cannot be cut evenly.
    """

    def __init__(
        self,
        plan: pa.Table,
        packs_per_step: int,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
        max_steps: int | None = None,
    ) -> None:
        if packs_per_step % (accumulation * world):
            raise InputError(
                f"train: packs_per_step: {packs_per_step} cannot be cut into {accumulation} accumulations "
                f"x {world} workers; choose a multiple of {accumulation * world}"
            )
        self.plan = plan
        self.pieces_per_step, self.world, self.rank = accumulation * world, world, rank
        self._begins = pack_begins(plan)
        self._supervised = plan["supervised"].to_numpy()
        self.packs_per_step = packs_per_step
        every = -(-(len(self._begins) - 1) // packs_per_step)
        self.steps = every if max_steps is None else min(every, max_steps)

    def pictures(self) -> int:
        """How many pictures the steps show at most (one for each conversation), repeats counted."""
        return int(self._begins[min(self.steps * self.packs_per_step, len(self._begins) - 1)])

    def samples(self, step: int) -> list[str]:
        """The samples of an optimizer step, over all ranks."""
        packs = self._begins[step * self.packs_per_step :][: self.packs_per_step + 1]
        return self.plan["sample_id"].slice(packs[0], packs[-1] - packs[0]).to_pylist()

    def pieces(self, from_step: int = 0) -> Iterator[Piece]:
        """This rank's pieces, in order, from optimizer step `from_step` on."""
        for step in range(from_step, self.steps):
            begin = step * self.packs_per_step
            packs = np.arange(begin, min(begin + self.packs_per_step, len(self._begins) - 1))
            divisor = int(self._supervised[self._begins[packs[0]] : self._begins[packs[-1] + 1]].sum())
            mine = np.array_split(packs, self.pieces_per_step)[self.rank :: self.world]
            for number, piece in enumerate(mine):
                yield Piece(step, number == len(mine) - 1, divisor, [self._rows(pack) for pack in piece])

    def batches(self, from_step: int, collate: Callable[[Piece], T]) -> Iterator[T]:
        """What `collate` makes of each of `pieces(from_step)`, some of them ahead."""
        return prefetch(self.pieces(from_step), collate)

    def _rows(self, pack: int) -> list[dict[str, Any]]:
        begin, end = self._begins[pack], self._begins[pack + 1]
        return self.plan.slice(begin, end - begin).to_pylist()


@dataclass(frozen=True)
class Batch:
    """One piece as tensors, for the language objective.

    Attributes:
        input_ids, labels, position_ids: int64 [B, T]. Position ids restart at 0 with every conversation, and once more
            where padding begins; above 0 with each turn that shares only so many positions with the turns before it.
            Labels are -100 where there is no loss.
        samples: the sample of every picture, in the order in which the pictures' tokens stand.
        tiles: how many tiles each of these pictures has.
        pixel_values: float32 [sum of tiles, 3, H, W]; None where features come from a store, or there is no picture.
        picture_order: int64, what `PictureLayout.orders` says of the pictures.
        tokens: positions that are not padding.
    """

    step: int
    last: bool
    divisor: int
    packs: list[int]
    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    samples: list[str]
    tiles: list[int]
    pixel_values: torch.Tensor | None
    picture_order: torch.Tensor | None
    tokens: int

    @property
    def positions(self) -> int:
        return self.input_ids.numel()


@dataclass(frozen=True)
class PairBatch:
    """One piece for the contrastive objective: `pixel_values` float32 [P, 3, H, W], `texts` int64 [P, context]."""

    step: int
    last: bool
    divisor: int
    packs: list[int]
    pixel_values: torch.Tensor
    texts: torch.Tensor

    @property
    def tokens(self) -> int:
        return len(self.texts)

    @property
    def positions(self) -> int:
        return len(self.texts)


class LanguageCollate:
    """Makes a `Batch` of a piece.

    Args:
        layout: where a picture's tokens come from.
        pixels: whether batches hold the pictures' pixels.
    """

    def __init__(
        self,
        reader: PackReader,
        tokenizer: Any,
        layout: PictureLayout,
        pixels: bool = True,
    ) -> None:
        self.reader, self.tokenizer = reader, tokenizer
        self.layout, self.pixels = layout, pixels
        self.padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def __call__(self, piece: Piece) -> Batch:
        samples = [row["sample_id"] for pack in piece.packs for row in pack]
        records = dict(zip(samples, self.reader.map(self.reader.record, samples), strict=True))
        found = [[self._encode(row, records[row["sample_id"]]) for row in pack] for pack in piece.packs]
        packs = [[encoded for encoded, _ in pack] for pack in found]
        shown = [said.sample_id for pack in found for _, said in pack if not said.text_only]
        sizes = [(records[sample]["width"], records[sample]["height"]) for sample in shown]
        used = [sum(len(one.input_ids) for one in pack) for pack in packs]
        width = -(-max(used, default=0) // _ROUND_UP) * _ROUND_UP
        ids = torch.full((len(packs), width), self.padding, dtype=torch.int64)
        labels = torch.full_like(ids, NO_LOSS)
        positions = torch.zeros_like(ids)
        for number, pack in enumerate(packs):
            begin = 0
            for one in pack:
                end = begin + len(one.input_ids)
                ids[number, begin:end] = torch.tensor(one.input_ids)
                labels[number, begin:end] = torch.tensor(one.labels)
                positions[number, begin:end] = torch.tensor(one.position_ids)
                begin = end
            positions[number, begin:] = torch.arange(width - begin)
        pixels = None
        if self.pixels and shown:
            jpegs = self.reader.map(self.reader.jpeg, shown)
            pixels = torch.cat([self.layout.tensor(decode(jpeg)) for jpeg in jpegs])
        return Batch(
            piece.step,
            piece.last,
            piece.divisor,
            [pack[0]["pack"] for pack in piece.packs],
            ids,
            labels,
            positions,
            shown,
            [self.layout.tiles(*size) for size in sizes],
            pixels,
            self.layout.orders(sizes),
            tokens=sum(used),
        )

    def _encode(self, row: dict[str, Any], record: dict[str, Any]) -> tuple[Encoded, Conversation]:
        """Token ids and labels of one row of the plan, whose sample is `record`, and the conversation.

        Raises:
            SluiceError: the shard does not hold what the plan was made from.
        """
        for said in record["conversations"]:
            if said["conversation_id"] == row["conversation_id"]:
                conversation = Conversation.from_row(said)
                pictured = not conversation.text_only
                tokens = self.layout.tokens(record["width"], record["height"]) if pictured else 0
                encoded = encode(conversation, self.tokenizer, tokens)
                if len(encoded.input_ids) == row["length"]:
                    return encoded, conversation
        raise SluiceError(
            f"conversation {row['conversation_id']} is not in the shards as the plan has it "
            f"({row['length']} tokens): run the feed stage again with this model"
        )


class PairCollate:
    """Makes a `PairBatch` of a piece.

    A sample's caption of the epoch, and its crop, are drawn from the seed, the epoch and the sample alone.

    Args:
        preprocess: RGB picture -> float32 [3, H, W].
        tokenizer: texts -> int64 [number, context].
        augment: pictures are cropped to a random share of their area between `1 - augment` and 1.
    """

    def __init__(
        self,
        reader: PackReader,
        preprocess: Callable[[Image.Image], torch.Tensor],
        tokenizer: Callable[[list[str]], torch.Tensor],
        seed: int,
        augment: float = 0,
    ) -> None:
        self.reader, self.preprocess, self.tokenizer = reader, preprocess, tokenizer
        self.seed, self.augment = seed, augment

    def __call__(self, piece: Piece) -> PairBatch:
        pictures, captions = [], []
        rows = [row for pack in piece.packs for row in pack]
        samples = self.reader.map(self.reader.read, [row["sample_id"] for row in rows])
        for row, sample in zip(rows, samples, strict=True):
            chance = random.Random(f"{self.seed}/{row['epoch']}/{row['sample_id']}")
            captions.append(chance.choice(sample.record["captions"]))
            pictures.append(self.preprocess(random_crop(sample.picture, 1 - self.augment, chance)))
        return PairBatch(
            piece.step,
            piece.last,
            piece.divisor,
            [pack[0]["pack"] for pack in piece.packs],
            torch.stack(pictures),
            self.tokenizer(captions),
        )


def random_crop(picture: Image.Image, least_area: float, chance: random.Random) -> Image.Image:
    """A random window of the picture's own shape that holds at least the share `least_area` of it."""
    side = chance.uniform(least_area, 1) ** 0.5
    if side >= 1:
        return picture
    width, height = max(1, round(picture.width * side)), max(1, round(picture.height * side))
    left, top = chance.randint(0, picture.width - width), chance.randint(0, picture.height - height)
    return picture.crop((left, top, left + width, top + height))


def prefetch(items: Iterable[Any], make: Callable[[Any], T], ahead: int = 2) -> Iterator[T]:
    """Yields `make(item)` in order, made in a background thread up to `ahead` items early.

    Raises:
        Whatever `make` raises, at the place of the item.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
