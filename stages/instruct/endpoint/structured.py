"""Questions and answers as JSON by a schema, for engines that can be held to one.

Prompts and parsers know one form, blocks of `Question:` and `Answer:`. Where an engine takes a schema, a request that
wants this form is put in JSON's terms, and its answer is put back, so that neither prompt nor parser need to know.
"""

from __future__ import annotations

import json
import re
from typing import Any

from stages.instruct.endpoint.answer import Messages

_TEXT = {"type": "string", "minLength": 1}
#: The answer's form.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "turns": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"question": _TEXT, "answer": _TEXT},
                "required": ["question", "answer"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["turns"],
    "additionalProperties": False,
}
_ORDER = 'Give the pairs as one JSON object and nothing else: {"turns": [{"question": "...", "answer": "..."}]}.'
_PAIR = re.compile(r"^Question:\s*(.+?)\s*^Answer:\s*(.+?)\s*(?=^Question:|\Z)", re.MULTILINE | re.DOTALL)


def wants_pairs(messages: Messages) -> bool:
    """Whether a request asks for questions and answers: its examples show them."""
    examples = [message["content"] for message in messages if message["role"] == "assistant"]
    return bool(examples) and examples[0].startswith("Question:")


def in_json(messages: Messages) -> Messages:
    """The request in JSON's terms: the order stands in the system message, and the examples are in the form."""
    changed = []
    for message in messages:
        content = message["content"]
        if message["role"] == "system":
            content = f"{content}\n{_ORDER}"
        elif message["role"] == "assistant" and (pairs := _PAIR.findall(content)):
            turns = [{"question": question, "answer": answer} for question, answer in pairs]
            content = json.dumps({"turns": turns}, ensure_ascii=False)
        changed.append({**message, "content": content})
    return changed


def from_json(text: str) -> str:
    """An answer in JSON as blocks of `Question:` and `Answer:`; what is not of the schema's form stays as it is."""
    try:
        turns = json.loads(text[text.index("{") : text.rindex("}") + 1])["turns"]
        pairs = [(turn["question"], turn["answer"]) for turn in turns]
        return "\n".join(f"Question: {_one_line(question)}\nAnswer: {_one_line(answer)}" for question, answer in pairs)
    except (ValueError, KeyError, TypeError, AttributeError):
        return text


def _one_line(text: str) -> str:
    return " ".join(text.split())
