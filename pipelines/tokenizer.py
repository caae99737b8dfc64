"""`sluice tokenizer`: a small tokenizer from a run's conversations, for a language model that is trained from scratch.

Half of what a small model computes is its vocabulary's: a tokenizer for the web's texts has ten times the tokens that
short answers need.
"""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoTokenizer

from schemas.errors import InputError
from stages.run_folder import RunFolder

#: Every byte is a token, and so are the special ones.
LEAST_SIZE = 300


def train_tokenizer(run: RunFolder, like: str, size: int, folder: Path) -> int:
    """Learns a vocabulary from what a run's conversations say, and writes a tokenizer that transformers loads.

    Args:
        like: a tokenizer (folder or hub name) whose way of splitting, special tokens and chat template are taken over.
        size: tokens of the new vocabulary.
        folder: where it is written.

    Returns:
        The number of tokens that it has.

    Raises:
        InputError: there is nothing to learn from, or no such tokenizer.
    """
    if size < LEAST_SIZE:
        raise InputError(f"--size {size}: must be {LEAST_SIZE} or more, for the single bytes alone are 256")
    parts = [part for part in run.parts() if run.path(f"conversations/{part:05d}.parquet").exists()]
    if not parts:
        raise InputError(f"{run.root} has no conversations yet: run it until instruct")
    try:
        pattern = AutoTokenizer.from_pretrained(like)
    except (OSError, ValueError) as error:
        raise InputError(f"--like {like}: cannot load this tokenizer: {error}") from error
    made = pattern.train_new_from_iterator(_texts(run, parts), size, show_progress=False)
    made.save_pretrained(folder)
    return len(made)


def _texts(run: RunFolder, parts: list[int]) -> Iterator[list[str]]:
    for part in parts:
        for said in run.read_table("conversations", [part])["turns"].to_pylist():
            yield [text for turn in said for text in (turn["question"], turn["answer"])]
