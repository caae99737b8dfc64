"""What a kind of conversation is: a template that needs no model, or a prompt for a text-only language model."""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from functools import cached_property
from importlib.resources import files
from typing import Any

import yaml

from schemas.conversation import Turn
from stages.instruct.context import Context


class Rejected(Exception):
    """An answer of the endpoint that cannot be used; the message is the reason that is counted."""


class Kind:
    """A kind of conversation. `exact` kinds have answers that can be compared word for word."""

    exact = False

    @property
    def name(self) -> str:
        """The name of the file that the kind stands in."""
        return type(self).__module__.rsplit(".", 1)[-1]


class TemplateKind(Kind, ABC):
    """Turns that follow from captions and boxes. Those of one picture are joined into one conversation."""

    #: False where the kind makes a conversation of its own.
    joined = True

    @abstractmethod
    def turns_of(self, contexts: list[Context], chances: list[random.Random]) -> list[list[Turn]]:
        """The turns for each picture of one part of the data; none where a context does not carry the kind.

        Args:
            chances: for each picture, where the chance for it comes from.
        """

    def turn(self, rng: random.Random, phrasings: tuple[str, ...], answer: str, **words: str) -> Turn:
        return Turn(rng.choice(phrasings).format(**words), answer, self.name)


class PictureKind(TemplateKind):
    """Turns that follow from one picture's captions and boxes, whatever other pictures show."""

    @abstractmethod
    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        """The turns for one picture; none where the context does not carry the kind."""

    def turns_of(self, contexts: list[Context], chances: list[random.Random]) -> list[list[Turn]]:
        return [self.turns(context, rng) for context, rng in zip(contexts, chances, strict=True)]


class EndpointKind(Kind, ABC):
    """Turns that a language model writes from the context (LLaVA, Liu et al. 2023, section 3 and appendix).

    The prompt lies in `prompts/<name>.yaml`: `version`, `system`, and `examples` of context and response.
    """

    #: Whether the context shows boxes beside the captions.
    sees_boxes = True

    @cached_property
    def prompt(self) -> dict[str, Any]:
        return yaml.safe_load((files("stages.instruct") / "prompts" / f"{self.name}.yaml").read_text())

    @property
    def version(self) -> str:
        return f"{self.name}-{self.prompt['version']}"

    def messages(self, context: Context) -> list[dict[str, str]]:
        """The request: system message, examples, and this picture's context."""
        messages = [{"role": "system", "content": self.prompt["system"].strip()}]
        for example in self.prompt["examples"]:
            messages.append({"role": "user", "content": example["context"].strip()})
            messages.append({"role": "assistant", "content": example["response"].strip()})
        return [*messages, {"role": "user", "content": self.describe(context)}]

    def describe(self, context: Context) -> str:
        """The context in words: captions, then `label: [x1, y1, x2, y2]` lines where the kind sees boxes."""
        lines = list(context.captions)
        if self.sees_boxes:
            lines += [f"{b.label}: [{b.x1:.3f}, {b.y1:.3f}, {b.x2:.3f}, {b.y2:.3f}]" for b in context.boxes]
        return "\n".join(lines)

    @abstractmethod
    def read(self, text: str, context: Context, rng: random.Random) -> list[Turn]:
        """The turns in the model's answer.

        Raises:
            Rejected: the answer has not the form that was asked for, or gives its source away.
        """

    def pairs(self, text: str) -> list[Turn]:
        """Reads `Question:` and `Answer:` blocks in turn.

        A small model often goes on until it is cut off: an unfinished last pair is left out, and a question that was
        asked before ends the conversation.

        Raises:
            Rejected: there is no whole pair, the blocks are out of turn, or a turn cannot be used.
        """
        blocks = re.split(r"^\s*(Question|Answer)\s*:\s*", text.strip(), flags=re.MULTILINE)[1:]
        names, contents = blocks[0::2], [content.strip() for content in blocks[1::2]]
        if names and (len(names) % 2 or not contents[-1].endswith((".", "!", "?"))):
            names, contents = names[: (len(names) - 1) // 2 * 2], contents[: (len(names) - 1) // 2 * 2]
        if not names or names != ["Question", "Answer"] * (len(names) // 2) or not all(contents):
            raise Rejected("broken_turns")
        turns: list[Turn] = []
        for question, answer in zip(contents[0::2], contents[1::2], strict=True):
            if any(question.lower() == turn.question.lower() for turn in turns):
                break
            check_answer(question)
            check_answer(answer)
            turns.append(Turn(question, answer, self.name))
        return turns


_LEAK = re.compile(r"\b(captions?|bounding box(es)?|coordinates?|descriptions? (says?|mentions?))\b|\[\s*0?\.\d", re.I)
_REFUSAL = re.compile(r"\b(as an ai|i (can ?not|can't|am unable)|i'm sorry|i don't have access)\b", re.I)


def check_answer(text: str) -> None:
    """Refuses what gives its source away, refuses to answer, or goes round in circles.

    Raises:
        Rejected: with the reason.
    """
    if _LEAK.search(text):
        raise Rejected("leak")
    if _REFUSAL.search(text):
        raise Rejected("refusal")
    words = text.split()
    grams = [tuple(words[place : place + 6]) for place in range(len(words) - 5)]
    if len(set(grams)) < len(grams):
        raise Rejected("repetition")
