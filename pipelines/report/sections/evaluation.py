"""What the model can do."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from pipelines.report.material import Material
from stages.evaluate import step_results

_QUESTIONS = 9
_ANSWERERS = {
    "model": "the trained model, with the picture",
    "majority": "always the most frequent answer of the kind in the training data",
    "blank": "the trained model, with one plain colour for a picture",
    "shuffled": "the trained model, with the picture of another sample",
}


def evaluation(material: Material) -> dict[str, Any] | None:
    """Accuracy by kind beside the blind baselines, after each step, and some questions with what was answered."""
    result = material.evaluated
    if result is None:
        return None
    known = [name for name in _ANSWERERS if name in result["accuracy"]]
    names = known + sorted(name for name in result["accuracy"] if name not in known)
    lines = [{"kind": kind, **found} for kind, found in [("all", result), *sorted(result["kinds"].items())]]
    asked = _telling_questions(result["examples"])
    shown = material.rows.show(example["sample_id"] for example in asked) if material.has_ledger else {}
    return {
        **result,
        "names": names,
        "meanings": {name: _ANSWERERS.get(name, "") for name in names},
        "lines": lines,
        "steps": step_results(material.run, material.recipe),
        "asked": [{**example, "row": shown.get(example["sample_id"])} for example in asked],
    }


def _telling_questions(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Right and wrong answers of every kind in turn, each about another picture where there are enough."""
    by_sort: dict[tuple[str, bool], list[dict[str, Any]]] = defaultdict(list)
    for example in sorted(examples, key=lambda example: (example["sample_id"], example["question"])):
        by_sort[example["kind"], example["right"]].append(example)
    chosen: list[dict[str, Any]] = []
    pictures: set[str] = set()
    while len(chosen) < min(_QUESTIONS, len(examples)):
        before = len(chosen)
        for sort in sorted(by_sort, key=lambda sort: (not sort[1], sort[0])):
            found = [each for each in by_sort[sort] if each["sample_id"] not in pictures]
            if found and len(chosen) < _QUESTIONS:
                chosen.append(found[0])
                pictures.add(found[0]["sample_id"])
        if len(chosen) == before:
            break
    return sorted(chosen, key=lambda example: (example["kind"], not example["right"]))
