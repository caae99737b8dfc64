"""Conversations as tokens: rendered by the chat template, tokenized segment by segment, so no loss mask can slip.

A conversation is cut into segments at the borders between what is given and what is learned; each segment is tokenized
by itself and the ids are joined. The mask follows from the segments, never from searching in the joined ids (Prismatic,
Karamcheti et al. 2024, does likewise).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.conversation import IMAGE_TOKEN, Conversation
from schemas.errors import InputError, SluiceError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: What labels hold where a token carries no loss.
NO_LOSS = -100

#: Chat templates by name, for models that have none of their own.
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
        "{{ '<|im_end|>' if eos_token == '<|im_end|>' else '<|im_end|>' + eos_token if m['role'] == 'assistant' "
        "else '<|im_end|>' }}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    # The fewest tokens a turn: the question, a line's end, the answer, the end token.
    "plain": (
        "{% for m in messages %}{{ m['content'] + ('\n' if m['role'] == 'user' else eos_token) }}{% endfor %}"
    ),
}


@dataclass(frozen=True)
class Encoded:
    """A conversation as token ids; labels are the ids that carry loss, `NO_LOSS` elsewhere."""

    input_ids: list[int]
    labels: list[int]

    @property
    def supervised(self) -> int:
        """How many tokens carry loss."""
        return sum(label != NO_LOSS for label in self.labels)


def encode(conversation: Conversation, tokenizer: PreTrainedTokenizerBase, picture_tokens: int) -> Encoded:
    """Tokenizes a conversation about one picture. Loss is on the answers and the end token after each.

    Args:
        picture_tokens: places that the picture takes, before the first question; 0 leaves it out.

    Raises:
        InputError: the tokenizer's template is one that no loss mask can be derived from.
        SluiceError: no token would carry loss.
    """
    messages: list[dict[str, str]] = []
    ids: list[int] = []
    labels: list[int] = []
    before = ""
    for number, turn in enumerate(conversation.turns):
        messages.append({"role": "user", "content": _asked(turn.question, picture_tokens > 0 and number == 0)})
        asked = _render(tokenizer, messages, generate=True)
        messages.append({"role": "assistant", "content": turn.answer})
        answered = _render(tokenizer, messages, generate=False)
        given = _continuation(before, asked)
        learned, after = _split_answer(_continuation(asked, answered), tokenizer)
        for text, supervised in ((given, False), (learned, True), (after, False)):
            tokens = _ids(tokenizer, text, picture_tokens)
            ids += tokens
            labels += tokens if supervised else [NO_LOSS] * len(tokens)
        before = answered
    encoded = Encoded(ids, labels)
    if encoded.supervised == 0:
        raise SluiceError(f"conversation {conversation.conversation_id} has no token that carries loss")
    return encoded


def prompt_ids(question: str, tokenizer: PreTrainedTokenizerBase, picture_tokens: int) -> list[int]:
    """Token ids up to where the answer begins: what `encode` gives for a first turn, without the answer."""
    messages = [{"role": "user", "content": _asked(question, picture_tokens > 0)}]
    return _ids(tokenizer, _render(tokenizer, messages, generate=True), picture_tokens)


def _asked(question: str, picture: bool) -> str:
    # A question must not bring a picture's token along: its number has to be the picture's.
    question = question.replace(IMAGE_TOKEN, "")
    return f"{IMAGE_TOKEN}\n{question}" if picture else question


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], generate: bool) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generate)


def _continuation(before: str, text: str) -> str:
    if not text.startswith(before):
        raise InputError(
            "model.language: the tokenizer's chat template changes what came before when a turn is added, so no loss "
            "mask can be derived from it; set model.language.chat_template: chatml"
        )
    return text[len(before) :]


def _split_answer(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The answer with its end token, and what the template puts after it."""
    place = text.rfind(tokenizer.eos_token)
    if place < 0:
        raise InputError(
            f"model.language: the chat template does not end an answer with the end token {tokenizer.eos_token}, so a "
            "model could not learn to stop; set model.language.chat_template: chatml"
        )
    end = place + len(tokenizer.eos_token)
    return text[:end], text[end:]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, picture_tokens: int) -> list[int]:
    """Ids of `text`, with the picture's one token repeated `picture_tokens` times."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if IMAGE_TOKEN not in text:
        return ids
    picture = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    place = ids.index(picture)
    return ids[:place] + [picture] * picture_tokens + ids[place + 1 :]
