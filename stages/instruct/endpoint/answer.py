"""What is asked and what comes back."""

from __future__ import annotations

from dataclasses import dataclass

#: A chat: `{"role": "system" | "user" | "assistant", "content": TEXT}` in turn.
Messages = list[dict[str, str]]

#: Characters of English text for each token, as tokenizers of 2023 and later have it. Only estimates use it.
_CHARACTERS_PER_TOKEN = 4.0
#: What a chat template adds to each message.
_TOKENS_PER_MESSAGE = 6


@dataclass(frozen=True)
class Answer:
    """What came back for one request, and the tokens it took."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Usage:
    """Requests answered, and their tokens."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def plus(self, answer: Answer) -> Usage:
        return Usage(
            self.requests + 1, self.input_tokens + answer.input_tokens, self.output_tokens + answer.output_tokens
        )


def estimate_tokens(messages: Messages) -> int:
    """About how many tokens a request takes, from its characters."""
    return sum(_TOKENS_PER_MESSAGE + text_tokens(message["content"]) for message in messages)


def text_tokens(text: str) -> int:
    """About how many tokens a text takes."""
    return round(len(text) / _CHARACTERS_PER_TOKEN)
