"""Greedy answers of a full model, in batches, as evaluation needs them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from models.chat import prompt_ids
from models.full import VisionLanguageModel


@torch.inference_mode()
def answer(
    model: VisionLanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    pictures: Sequence[torch.Tensor],
    max_new_tokens: int = 32,
    batch_size: int = 32,
) -> list[str]:
    """Answers each question about its picture; one turn each, greedy, ending at the end token.

    Args:
        pictures: float32 [3, H, W] each, as `model.vision.picture_tensor` makes them.
        max_new_tokens: longest answer, tokens.

    Returns:
        The answers as text, in the order of the questions.
    """
    was_training = model.training
    model.eval()
    answers: list[str] = []
    device = next(model.parameters()).device
    for start in range(0, len(questions), batch_size):
        prompts = [
            prompt_ids(question, tokenizer, model.vision.num_patches)
            for question in questions[start : start + batch_size]
        ]
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), tokenizer.pad_token_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        pixels = torch.stack(list(pictures[start : start + batch_size]))
        embeddings = model.embed(ids.to(device), pixels.to(device))
        out = model.language.generate(
            inputs_embeds=embeddings,
            attention_mask=mask.to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        answers += [text.strip() for text in tokenizer.batch_decode(out, skip_special_tokens=True)]
    model.train(was_training)
    return answers
