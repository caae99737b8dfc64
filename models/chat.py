"""Conversations as tokens: by the tokenizer's own chat template, segment by segment, with an exact loss mask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import AddedToken

from schemas.conversation import IMAGE_TOKEN, Conversation
from schemas.errors import InputError, SluiceError

#: The label of a token that carries no loss.
NO_LOSS = -100

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

#: Chat templates that a recipe can name. `chatml` is for tokenizers that bring none; `bare` spends the fewest tokens:
#: the question, the end of its line, the answer, the end token.
TEMPLATES = {
    "chatml": _CHATML,
    "bare": "{% for message in messages %}{{ message['content'] }}"
    "{{ '\n' if message['role'] == 'user' else eos_token }}{% endfor %}",
}

_PICTURE = f"{IMAGE_TOKEN}\n"
_KEPT_CHATS = 8
_KEPT_SEGMENTS = 1 << 15


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens.

    Attributes:
        labels: the token itself where it carries loss, else -100.
        position_ids: 0, 1, ... Where turns are apart they begin again, behind what all turns share, with each turn.
    """

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int]


def prepare_tokenizer(tokenizer: Any, template: str | None = None) -> Any:
    """Gives a tokenizer what it lacks: the picture token, a chat template, a padding token. Changes it in place.

    Args:
        template: a name in `TEMPLATES` or a Jinja template, instead of the tokenizer's own.

    Raises:
        InputError: it takes no picture token.
    """
    wanted = [IMAGE_TOKEN]
    if template is not None or tokenizer.chat_template is None:
        tokenizer.chat_template = TEMPLATES.get(template or "chatml", template)
    if tokenizer.chat_template == _CHATML:
        wanted += ["<|im_start|>", "<|im_end|>"]
    # A token that is only in the vocabulary may be broken up in a text; one that was added never is.
    vocabulary = tokenizer.added_tokens_encoder
    missing = [AddedToken(token, special=True, normalized=False) for token in wanted if token not in vocabulary]
    if missing:
        tokenizer.add_tokens(missing, special_tokens=True)
    if tokenizer.eos_token is None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end_ids(tokenizer)[0])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    ids = tokenizer(f"a{IMAGE_TOKEN}a", add_special_tokens=False)["input_ids"]
    if ids.count(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)) != 1:
        raise InputError(
            f"model.language: the tokenizer {tokenizer.name_or_path} does not keep the picture token {IMAGE_TOKEN} "
            "whole, so no picture has a place in a text; choose another tokenizer"
        )
    return tokenizer


def encode(conversation: Conversation, tokenizer: Any, picture_tokens: int) -> Encoded:
    """Token ids of a conversation about a picture, with loss on the answers and the tokens that end them.

    Each segment (what leads up to an answer; the answer with its end) is tokenized by itself and then joined, so the
    mask is exact. The picture's tokens stand before the first question. Special tokens written out in a text are
    broken up: they are text, not tokens. A conversation that is `text_only` has no picture's tokens.

    Of a conversation that is `apart`, the tokens up to the picture's last stand once, and behind them each turn as it
    would if it were the only one (Molmo, Deitke et al. 2024, section 4, on pictures with several annotations).

    Raises:
        InputError: the mask cannot be derived from the tokenizer's chat template.
        SluiceError: no token would carry loss.
    """
    chat = _chat(tokenizer, tokenizer.chat_template)
    input_ids: list[int] = []
    labels: list[int] = []
    position_ids: list[int] = []
    shared = 0
    turns = [(turn.question, turn.answer) for turn in conversation.turns]
    pictured = not conversation.text_only
    if conversation.apart:
        segments = [segment for turn in turns for segment in chat.segments([turn], pictured)]
    else:
        segments = chat.segments(turns, pictured)
    for number, (lead, answer) in enumerate(segments):
        shows = pictured and (number == 0 or conversation.apart)
        lead_ids = chat.with_picture(lead, picture_tokens) if shows else list(chat.tokens(lead))
        if conversation.apart and number:
            lead_ids = lead_ids[shared:]
            position_ids += range(shared, shared + len(lead_ids))
        else:
            shared = chat.shared(lead_ids) if conversation.apart and pictured else 0
            position_ids += range(len(position_ids), len(position_ids) + len(lead_ids))
        answer_ids = chat.tokens(answer)
        input_ids += [*lead_ids, *answer_ids]
        labels += [NO_LOSS] * len(lead_ids) + [*answer_ids]
        position_ids += range(position_ids[-1] + 1, position_ids[-1] + 1 + len(answer_ids))
    if not any(label != NO_LOSS for label in labels):
        raise SluiceError(f"conversation {conversation.conversation_id} has no token to learn from: it has no answer")
    return Encoded(input_ids, labels, position_ids)


def prompt_ids(question: str, tokenizer: Any, picture_tokens: int, with_picture: bool = True) -> list[int]:
    """Token ids of a question, up to where the answer begins: what `encode` makes of the same question."""
    chat = _chat(tokenizer, tokenizer.chat_template)
    text = chat.prompt(question, with_picture)
    return chat.with_picture(text, picture_tokens) if with_picture else list(chat.tokens(text))


def end_ids(tokenizer: Any) -> list[int]:
    """The tokens at which an answer ends: the template's end of turn first, then the tokenizer's end of text."""
    chat = _chat(tokenizer, tokenizer.chat_template)
    ids = [tokenizer.convert_tokens_to_ids(chat.end), tokenizer.eos_token_id]
    return [one for one in dict.fromkeys(ids) if one is not None]


def plain(text: str, tokenizer: Any) -> str:
    """`text` with every special token written out in it broken up by a space, so that it stays text."""
    return _chat(tokenizer, tokenizer.chat_template).plain(text)


def exported_template(tokenizer: Any) -> str:
    """The chat template for `LlavaProcessor`: the same prompts as `prompt_ids`, for messages in transformers' form.

    A message's content may be a text, or a list of `{"type": "image"}` and `{"type": "text", "text": ...}`.
    """
    chat = _chat(tokenizer, tokenizer.chat_template)
    system = "" if chat.system is None else (
        "{% if messages[0]['role'] != 'system' %}{% set ns.messages = [{'role': 'system', 'content': ''}] %}{% endif %}"
    )  # fmt: skip
    return (
        "{% set ns = namespace(messages=[], text='') %}" + system + "{% for message in messages %}"
        "{% if message['content'] is string %}{% set ns.text = message['content'] %}{% else %}{% set ns.text = '' %}"
        "{% for piece in message['content'] %}{% if piece['type'] == 'image' %}"
        "{% set ns.text = ns.text + '" + IMAGE_TOKEN + "' + '\\n' %}"
        "{% else %}{% set ns.text = ns.text + piece['text'] %}{% endif %}{% endfor %}{% endif %}"
        "{% set ns.messages = ns.messages + [{'role': message['role'], 'content': ns.text}] %}{% endfor %}"
        "{% set messages = ns.messages %}" + tokenizer.chat_template
    )


@lru_cache(_KEPT_CHATS)
def _chat(tokenizer: Any, template: str) -> _Chat:
    return _Chat(tokenizer)


class _Chat:
    """What a tokenizer's chat template turns messages into.

    Attributes:
        system: None, or "" where an empty system message is shorter than what the template puts in by itself.
        end: the special token that ends an answer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.picture_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        specials = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        specials |= {*tokenizer.all_special_tokens, IMAGE_TOKEN}
        self._special = re.compile("|".join(re.escape(token) for token in sorted(specials, key=len, reverse=True)))
        self.tokens = lru_cache(_KEPT_SEGMENTS)(self._tokens)
        self.system: str | None = ""
        with_system = self._prompt_length()
        self.system = None
        without_system = self._prompt_length()
        if without_system is None:
            raise self._unfit("it refuses a question without more")
        if with_system is not None and with_system < without_system:
            self.system = ""
        self.end = self._end()

    def plain(self, text: str) -> str:
        return self._special.sub(lambda found: f"{found.group()[0]} {found.group()[1:]}", text)

    def prompt(self, question: str, with_picture: bool) -> str:
        """Everything up to where the answer to the only question begins."""
        return self._render(self._messages([(self.plain(question), None)], with_picture))

    def segments(self, turns: Sequence[tuple[str, str]], with_picture: bool) -> list[tuple[str, str]]:
        """For each turn what leads up to the answer, and the answer with the token that ends it."""
        turns = [(self.plain(question), self.plain(answer)) for question, answer in turns]
        found: list[tuple[str, str]] = []
        done = ""
        for number, (question, answer) in enumerate(turns):
            before = self._render(self._messages([*turns[:number], (question, None)], with_picture))
            after = self._render(self._messages(turns[: number + 1], with_picture))
            if not before.startswith(done) or not after.startswith(before):
                raise self._unfit("a longer conversation does not begin with the shorter one")
            said = after[len(before) :]
            start = said.find(answer.strip())
            end = said.find(self.end, start + len(answer.strip())) + len(self.end)
            if start < 0 or end < len(self.end):
                raise self._unfit("an answer does not appear in it as it was given")
            found.append((before[len(done) :], said[:end]))
            done = before + said[:end]
        return found

    def with_picture(self, text: str, picture_tokens: int) -> list[int]:
        """Tokens of a text with one picture token in it, which becomes `picture_tokens` of them."""
        ids = self.tokens(text)
        if ids.count(self.picture_id) != 1:
            raise self._unfit("the first question's picture token does not appear in it once")
        at = ids.index(self.picture_id)
        return [*ids[:at], *[self.picture_id] * picture_tokens, *ids[at + 1 :]]

    def shared(self, ids: list[int]) -> int:
        """How many tokens of a prompt stand up to the picture's last; no question changes them."""
        return len(ids) - ids[::-1].index(self.picture_id)

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _messages(self, turns: Sequence[tuple[str, str | None]], with_picture: bool = True) -> list[dict[str, str]]:
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        for number, (question, answer) in enumerate(turns):
            content = _PICTURE + question if number == 0 and with_picture else question
            messages.append({"role": "user", "content": content})
            if answer is not None:
                messages.append({"role": "assistant", "content": answer})
        return messages

    def _render(self, messages: list[dict[str, str]]) -> str:
        asked = messages[-1]["role"] == "user"
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked)

    def _prompt_length(self) -> int | None:
        """Tokens of the shortest prompt; None where the template refuses it."""
        try:
            return len(self.tokens(self._render(self._messages([("q", None)]))))
        except TemplateError:
            return None

    def _end(self) -> str:
        """The special token that the template writes after an answer."""
        before, _, after = self._render(self._messages([("q", "answer")])).rpartition("answer")
        found = self._special.match(after.lstrip())
        if not before or not found:
            raise self._unfit("no special token ends an answer")
        return found.group()

    def _unfit(self, why: str) -> InputError:
        name = self.tokenizer.name_or_path or "this tokenizer"
        return InputError(
            f"model.language: the loss mask cannot be derived from the chat template of {name}: {why}; "
            f"set model.language.chat_template: chatml, or choose another model"
        )
