"""Lengths like those of LLaVA-1.5's instruction data, for measuring how full packs become."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from schemas.tables import LENGTHS

#: Tokens of one picture: a 336-pixel ViT-L/14 gives 24 x 24.
PICTURE_TOKENS = 576
#: The most tokens of a conversation that LLaVA-1.5 trains on.
MOST_TOKENS = 2048
#: Lengths are counted in these for the bound.
_GRAIN = 8

#: Set -> conversations, turns (mean; one where 1), tokens of a question and a short answer with the template's
#: own, tokens of an answer that is a text (mean), and whether there is a picture.
_SETS: dict[str, tuple[int, float, int, int, bool]] = {
    "llava_conversation": (58_000, 3.2, 30, 42, True),
    "llava_detail": (23_000, 1, 24, 125, True),
    "llava_reasoning": (77_000, 1, 30, 165, True),
    "sharegpt": (40_000, 3.5, 60, 260, False),
    "vqav2": (83_000, 5.4, 18, 0, True),
    "gqa": (72_000, 13.1, 20, 0, True),
    "okvqa": (9_000, 1, 30, 0, True),
    "ocrvqa": (80_000, 4.8, 18, 0, True),
    "aokvqa": (66_000, 1, 58, 0, True),
    "textcaps": (22_000, 1, 60, 18, True),
    "refcoco": (48_000, 6.0, 40, 0, True),
    "vg": (86_000, 10, 40, 0, True),
}


def llava_lengths(seed: int = 0, share: float = 1.0) -> pa.Table:
    """Rows of `schemas.tables.LENGTHS`, of `share` of the 664,000 conversations; kinds are the sets' names.

    What is published: the sets and their sizes (Liu et al. 2023, Improved Baselines with Visual Instruction Tuning,
    table 7; the 158,000 are 58,000 conversations, 23,000 descriptions and 77,000 reasonings), that questions about one
    picture make one conversation, that Visual Genome gives ten annotations a picture and RefCOCO fewer than ten turns,
    that long ShareGPT conversations are cut at 2,048 tokens, and a picture's 576 tokens. Mean turns follow from the
    sets' numbers of questions and pictures (VQAv2: 443,757 on 82,783; GQA: 943,000 on 72,140). Tokens a turn are
    estimates from such questions and answers; turns are Poisson, texts log-normal with a deviation of 0.5. There is no
    system message, for this project's templates leave it out.
    """
    random = np.random.default_rng([seed, 665])
    kinds, sizes, pictured = [], [], []
    for name, (number, turns, asked, told, shown) in _SETS.items():
        number = round(number * share)
        counts = np.ones(number) if turns == 1 else 1 + random.poisson(turns - 1, number)
        questions = counts * asked + random.normal(0, 3, number) * np.sqrt(counts)
        texts = counts * told * random.lognormal(-0.125, 0.5, number)
        begin = PICTURE_TOKENS * shown
        sizes.append(np.clip(begin + questions + texts, begin + 12, MOST_TOKENS).astype(np.int32))
        kinds += [name] * number
        pictured.append(np.full(number, shown))
    lengths = np.concatenate(sizes)
    ids = pa.array(range(len(lengths))).cast(pa.string())
    columns = {
        "conversation_id": ids,
        "sample_id": ids,
        "kind": pa.array(kinds),
        "split": pa.array(["train"] * len(lengths)),
        "part": pa.array(np.arange(len(lengths)) // 2000),
        "length": lengths,
        "supervised": np.maximum(lengths // 8, 1),
        "text_only": pa.array(~np.concatenate(pictured)),
        "tiles": np.concatenate(pictured).astype(np.int32),
    }
    return pa.table(columns).cast(LENGTHS)


def most_filled(lengths: np.ndarray, room: int) -> float:
    """No plan of whole conversations fills a larger share of the positions than this.

    The linear relaxation of cutting stock by column generation (Gilmore & Gomory 1961), whose bound holds in every
    round (Farley 1990). Lengths are rounded down to eights, which can only raise it.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csc_matrix

    sizes, counts = np.unique(np.maximum(lengths // _GRAIN, 1), return_counts=True)
    whole = room // _GRAIN
    packs = [np.eye(len(sizes), dtype=int)[place] * (whole // size) for place, size in enumerate(sizes)]
    fewest = 0.0
    for _ in range(100):
        found = linprog(np.ones(len(packs)), A_ub=csc_matrix(-np.array(packs).T), b_ub=-counts, method="highs")
        prices = -found.ineqlin.marginals
        best, last = _knapsack(sizes, prices, whole)
        fewest = max(fewest, found.fun / best[whole])
        better = [place for place, size in enumerate(sizes) if best[whole - size] + prices[place] > 1 + 1e-7]
        if not better:
            break
        packs += [_pack_with(place, sizes, last, whole) for place in better]
    return float(lengths.sum() / room / fewest)


def _knapsack(sizes: np.ndarray, prices: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """For every room the most that conversations in it are worth, and the last one taken (-1: none)."""
    best, last = np.zeros(room + 1), np.full(room + 1, -1)
    for width in range(1, room + 1):
        best[width] = best[width - 1]
        fits = np.flatnonzero(sizes <= width)
        if len(fits):
            worth = best[width - sizes[fits]] + prices[fits]
            if worth.max() > best[width]:
                best[width], last[width] = worth.max(), fits[worth.argmax()]
    return best, last


def _pack_with(first: int, sizes: np.ndarray, last: np.ndarray, room: int) -> np.ndarray:
    """How many of each size a best pack that holds size number `first` has."""
    pack = np.zeros(len(sizes), int)
    pack[first] = 1
    left = room - sizes[first]
    while left > 0:
        place = last[left]
        if place < 0:
            left -= 1
        else:
            pack[place] += 1
            left -= sizes[place]
    return pack
