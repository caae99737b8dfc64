"""Answers: greedy, and the same alone as in a batch."""

from typing import Any

import torch
from PIL import Image

from models.answer import answer
from models.full import VisionLanguageModel

Built = tuple[VisionLanguageModel, Any]
QUESTIONS = ["How many cats?", "Where are the two dogs and the cat in the picture?", "What?", "Who?", "Is it there?"]


def test_answers_do_not_depend_on_the_batch(built: Built, pictures: list[Image.Image]) -> None:
    model, tokenizer = built
    shown: list[Any] = [*pictures, None]
    alone = answer(model, tokenizer, QUESTIONS, shown, max_new_tokens=8, batch_size=1)
    assert len(set(alone)) > 2
    assert answer(model, tokenizer, QUESTIONS, shown, max_new_tokens=8, batch_size=3) == alone


def test_answers_depend_on_the_picture(built: Built, pictures: list[Image.Image]) -> None:
    assert len(set(answer(*built, ["Where?"] * len(pictures), pictures, max_new_tokens=8))) > 1


def test_an_answer_stops_at_the_end_of_the_turn(built: Built, pictures: list[Image.Image]) -> None:
    model, tokenizer = built
    first = answer(model, tokenizer, ["What?"], pictures[:1], max_new_tokens=1)[0]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    head = model.language.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, __, logits: logits.index_fill(-1, torch.tensor([end]), 1e4))
    try:
        assert answer(model, tokenizer, ["What?"], pictures[:1], max_new_tokens=8) == [""]
    finally:
        hook.remove()
    assert first != ""
