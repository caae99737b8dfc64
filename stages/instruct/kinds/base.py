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
from schemas.vocabulary import Reason
from stages.instruct.context import Context, LabelledBox


class Rejected(Exception):
    """An answer of the endpoint that cannot be read."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


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
    #: Most turns about one picture; 0 where that cannot be chosen.
    most = 0

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

    The prompt lies in `prompts/<name>.yaml`: `version`, `system`, `turns` (the least and the most pairs that it asks
    for) and `examples` of context and response. What is known of a picture stands in it as data, never as an order.
    """

    #: Whether the context shows boxes beside the captions.
    sees_boxes = True
    #: The least and the most words of an answer.
    answer_words = (1, 120)
    #: Whether sentences of thought ("might", "suggests") may name what cannot be seen.
    beyond_sight = False

    @cached_property
    def prompt(self) -> dict[str, Any]:
        return read_prompt(self.name)

    @property
    def version(self) -> str:
        return f"{self.name}-{self.prompt['version']}"

    def messages(self, context: Context) -> list[dict[str, str]]:
        """The request: system message, examples, and this picture's context."""
        messages = [{"role": "system", "content": self.prompt["system"].strip()}]
        for example in self.prompt["examples"]:
            boxes = [LabelledBox(label, *corners) for label, *corners in example.get("boxes", [])]
            shown = self.describe(Context("", example["captions"], boxes))
            messages.append({"role": "user", "content": shown})
            messages.append({"role": "assistant", "content": example["response"].strip()})
        return [*messages, {"role": "user", "content": self.describe(context)}]

    def describe(self, context: Context) -> str:
        """The context in words: captions, then `label: [x1, y1, x2, y2]` lines where the kind sees boxes.

        Boxes are shown, too, where there are no captions. Each fact is one line of its own, and nothing in it can
        look like a mark of the prompt.
        """
        lines = [f"- {_plain(caption)}" for caption in context.captions]
        if self.sees_boxes or not lines:
            lines += [f"- {_plain(box.label)}: {box.corners}" for box in context.boxes]
            lines += [f'- written "{_plain(box.label)}": {box.corners}' for box in context.texts]
        return "\n".join(["<picture>", *lines, "</picture>"])

    @abstractmethod
    def read(self, text: str, context: Context, rng: random.Random) -> list[Turn]:
        """The turns in the model's answer.

        Raises:
            Rejected: the answer has not the form that was asked for.
        """

    def pairs(self, text: str) -> list[Turn]:
        """Reads `Question:` and `Answer:` blocks in turn; a last pair that was cut off is left out.

        Raises:
            Rejected: there is no whole pair, the blocks are out of turn, or there are not as many as were asked for.
        """
        blocks = _BLOCK.split(text.strip())[1:]
        names, contents = [name.title() for name in blocks[0::2]], [content.strip() for content in blocks[1::2]]
        if names and (len(names) % 2 or not contents[-1].endswith((".", "!", "?"))):
            names, contents = names[: (len(names) - 1) // 2 * 2], contents[: (len(names) - 1) // 2 * 2]
        if not names or names != ["Question", "Answer"] * (len(names) // 2):
            raise Rejected(Reason.BROKEN_TURNS, "no questions and answers in turn" if text.strip() else "empty")
        if not all(contents):
            raise Rejected(Reason.BROKEN_TURNS, "an empty question or answer")
        least, most = self.prompt["turns"]
        if not least <= len(names) // 2 <= most:
            asked = str(least) if least == most else f"{least} to {most}"
            raise Rejected(Reason.BROKEN_TURNS, f"{len(names) // 2} turns where {asked} were asked for")
        return [Turn(*pair, self.name) for pair in zip(contents[0::2], contents[1::2], strict=True)]


def read_prompt(name: str) -> dict[str, Any]:
    """The packaged prompt `prompts/<name>.yaml`."""
    return yaml.safe_load((files("stages.instruct") / "prompts" / f"{name}.yaml").read_text())


_BLOCK = re.compile(r"^[\s*#\d.)-]*(Question|Answer)\s*\d*\s*:[\s*]*", re.MULTILINE | re.IGNORECASE)


def _plain(text: str) -> str:
    """`text` on one line, without the brackets that marks and tags are made of."""
    return re.sub(r"[<>{}|]+|\[/?INST\]", " ", " ".join(text.split())).strip()
