"""Asks the trained model held-out questions that have exact answers, and measures it against blind baselines."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from pydantic import Field, field_validator

from models.answer import answer
from models.full import ModelSettings, build_model
from schemas.conversation import Turn
from schemas.errors import InputError
from schemas.settings import Settings
from stages.feed.reader import PackReader
from stages.feed.split import whole_id
from stages.instruct.kinds import exact_kinds
from stages.render import renderer_names
from stages.run_folder import WHOLE, RunFolder, work_key
from stages.train.settings import TrainStep
from stages.train.weights import load_trained, trained_digests

log = logging.getLogger("sluice")

STAGE = "evaluate"
VERSION = 2
FILE = "eval.json"
#: Answers questions about pictures: (questions, pictures) -> answers.
Answer = Callable[[Sequence[str], Sequence[Image.Image]], list[str]]


def asked_kinds() -> list[str]:
    """Kinds with exact answers: those of the instruct stage, and those of rendered pictures."""
    return [*exact_kinds(), *renderer_names()]


class EvaluateSettings(Settings):
    """Which held-out questions the trained model is asked."""

    questions: int = Field(1000, ge=1, description="most questions, drawn at random from the held-out ones")
    kinds: list[str] = Field(
        default_factory=asked_kinds, min_length=1, description="kinds of turn that are asked; their answers are exact"
    )
    max_new_tokens: int = Field(12, ge=1, description="longest answer, tokens")
    batch_size: int = Field(32, ge=1, description="questions asked at once")
    resamples: int = Field(1000, ge=100, description="bootstrap resamples for the 95 % interval")
    every_step: bool = Field(False, description="ask after every training step, not after the last alone")

    @field_validator("kinds")
    @classmethod
    def _exact(cls, kinds: list[str]) -> list[str]:
        for name in kinds:
            if name not in asked_kinds():
                raise ValueError(f"'{name}' has no exact answers; kinds that have: {', '.join(asked_kinds())}")
        return kinds


@dataclass(frozen=True)
class Question:
    """One held-out question, asked by itself."""

    sample_id: str
    kind: str
    question: str
    expected: str


class EvaluateRecipe(Protocol):
    """What evaluation reads of a recipe."""

    @property
    def seed(self) -> int: ...
    @property
    def model(self) -> ModelSettings | None: ...
    @property
    def train(self) -> list[TrainStep]: ...
    @property
    def evaluate(self) -> EvaluateSettings | None: ...


def normalize(text: str) -> str:
    """What two answers are compared by: lower case, single spaces, no punctuation at the ends."""
    return re.sub(r"\s+", " ", text).strip(" .,;:!?\"'").casefold()


def held_out_questions(reader: PackReader, kinds: Sequence[str], most: int, seed: int) -> list[Question]:
    """At most `most` questions of `kinds` about the reader's samples, drawn by `seed`, in the order of the samples.

    Raises:
        InputError: there is none.
    """
    found: list[Question] = []
    for record in reader.map(reader.record, range(len(reader))):
        turns = [Turn(**turn) for said in record["conversations"] if not said["text_only"] for turn in said["turns"]]
        found += [
            Question(record["sample_id"], turn.kind, turn.question, turn.answer) for turn in turns if turn.kind in kinds
        ]
    if not found:
        raise InputError(
            f"evaluate.kinds: no held-out question of the kinds {', '.join(kinds)}; raise feed.holdout, "
            "or name kinds with exact answers that instruct makes"
        )
    chosen = np.random.default_rng(seed).permutation(len(found))[:most]
    return [found[place] for place in sorted(chosen)]


def majority_answers(turns: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Kind -> the most frequent answer among (kind, answer), the first in the alphabet where several are."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, text in turns:
        counts[kind][normalize(text)] += 1
    return {kind: min(answers, key=lambda text: (-answers[text], text)) for kind, answers in counts.items()}


def derange(items: Sequence[str], seed: int) -> dict[str, str]:
    """Maps every item to another one, each to a different one, at random.

    Raises:
        InputError: there are not two distinct items.
    """
    distinct = sorted(set(items))
    if len(distinct) < 2:
        raise InputError("evaluate: pictures can only be shuffled where at least two are held out; raise feed.holdout")
    order = np.random.default_rng(seed).permutation(len(distinct))
    return {distinct[order[place]]: distinct[order[place - 1]] for place in range(len(order))}


def score(questions: Sequence[Question], answers: dict[str, list[str]], resamples: int, seed: int) -> dict[str, Any]:
    """Accuracy of each answerer, and how far `model` is ahead of the best of the others, over all and by kind.

    Args:
        answers: answerer -> one answer a question. `model` is the trained model, all others are blind baselines.
        resamples: bootstrap resamples of the questions. In each one the best baseline is chosen anew.

    Returns:
        `questions`, `accuracy` (answerer -> share right), `best_baseline`, `margin` (accuracy of the model less that of
        the best baseline), `interval` (95 %, percentiles of the margin), and `kinds` (kind -> all these of its own).
    """
    right = {
        name: np.array([normalize(a) == normalize(q.expected) for a, q in zip(given, questions, strict=True)])
        for name, given in answers.items()
    }
    kinds = np.array([question.kind for question in questions])
    by_kind = {
        str(kind): _compare({name: marks[kinds == kind] for name, marks in right.items()}, resamples, seed)
        for kind in np.unique(kinds)
    }
    return {**_compare(right, resamples, seed), "kinds": by_kind}


def evaluate(run: RunFolder, ask: Answer, settings: EvaluateSettings, seed: int) -> dict[str, Any]:
    """Asks the held-out questions: with their pictures, with pictures of one colour and the same size, shuffled.

    Returns:
        What `score` returns, and `examples`: for each question its sample, kind, expected and given answers.

    Raises:
        InputError: there is no held-out question.
    """
    reader = PackReader(run, ["val"])
    questions = held_out_questions(reader, settings.kinds, settings.questions, seed)
    majority = majority_answers(_train_turns(run, settings.kinds))
    other = derange([question.sample_id for question in questions], seed)
    pictures = {sample.sample_id: sample.picture for sample in reader.map(reader.read, other)}
    grey = np.mean([np.asarray(picture).mean((0, 1)) for picture in pictures.values()], axis=0)
    colour = tuple(int(value) for value in grey.round())
    blanks = {size: Image.new("RGB", size, colour) for size in {picture.size for picture in pictures.values()}}
    asked = [question.question for question in questions]
    answers = {"model": ask(asked, [pictures[question.sample_id] for question in questions])}
    log.info("evaluate: %d questions asked; now the blind baselines", len(asked))
    answers["majority"] = [majority.get(question.kind, "") for question in questions]
    answers["blank"] = ask(asked, [blanks[pictures[question.sample_id].size] for question in questions])
    answers["shuffled"] = ask(asked, [pictures[other[question.sample_id]] for question in questions])
    examples = [
        {
            "sample_id": question.sample_id,
            "kind": question.kind,
            "question": question.question,
            "expected": question.expected,
            "answer": answers["model"][place],
            "right": normalize(answers["model"][place]) == normalize(question.expected),
        }
        for place, question in enumerate(questions)
    ]
    return {**score(questions, answers, settings.resamples, seed), "majority": majority, "examples": examples}


def evaluate_run(run: RunFolder, recipe: EvaluateRecipe) -> dict[str, Any]:
    """Evaluates the trained model and commits RUN/eval.json, and what `every_step` asks for, unless that is done.

    Returns:
        `questions`, `model`, the best baseline's name and accuracy, `margin` and its interval.
    """
    assert recipe.evaluate is not None
    if recipe.evaluate.every_step:
        for done in range(1, len(recipe.train)):
            evaluate_step(run, recipe, done)
    result = evaluate_step(run, recipe, len(recipe.train))
    return {
        "questions": result["questions"],
        **result["accuracy"],
        "best_baseline": result["best_baseline"],
        "margin": result["margin"],
        "interval_low": result["interval"][0],
        "interval_high": result["interval"][1],
    }


def evaluate_step(run: RunFolder, recipe: EvaluateRecipe, done: int) -> dict[str, Any]:
    """Evaluates the model as it is after the first `done` training steps, unless that is done; what `evaluate` returns.

    It stands in RUN/eval.json after the last step, and in RUN/eval/<step>.json after the others.
    """
    assert recipe.evaluate is not None
    settings, seed, names = recipe.evaluate, recipe.seed, [step.name for step in recipe.train[:done]]
    last = done == len(recipe.train)
    file, part = (FILE, WHOLE) if last else (step_file(names[-1]), f"after-{names[-1]}")
    how = [settings.model_dump(exclude={"batch_size", "every_step"}), seed]
    fed = [run.output_digest("feed", each) for each in run.parts()]
    key = work_key(STAGE, VERSION, how, [*fed, *trained_digests(run, names)])
    if not run.is_done(STAGE, part, key):
        log.info("evaluate: the model after step %s", names[-1])
        result = evaluate(run, _trained_answer(run, recipe, settings, names), settings, seed)
        counts = {"questions": result["questions"], "right": sum(example["right"] for example in result["examples"])}
        text = json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False)
        run.commit(STAGE, part, key, {file: text.encode()}, counts, version=VERSION)
    return json.loads(run.path(file).read_text())


def step_file(step_name: str) -> str:
    """The path in the run folder of what was measured after a step that is not the last."""
    return f"eval/{step_name}.json"


def step_results(run: RunFolder, recipe: EvaluateRecipe) -> dict[str, dict[str, Any]]:
    """Step -> what was measured after it, as far as it is there, in order; nothing without `every_step`."""
    if recipe.evaluate is None or not recipe.evaluate.every_step or not recipe.train:
        return {}
    names = [step.name for step in recipe.train]
    files = {name: run.path(step_file(name)) for name in names[:-1]} | {names[-1]: run.path(FILE)}
    return {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}


def _compare(right: dict[str, np.ndarray], resamples: int, seed: int) -> dict[str, Any]:
    """What `score` says of some questions, from answerer -> bool [questions]."""
    number = len(right["model"])
    blind = sorted(name for name in right if name != "model")
    best = max(blind, key=lambda name: right[name].mean())
    drawn = np.random.default_rng(seed).integers(0, number, (resamples, number))
    margins = right["model"][drawn].mean(1) - np.max([right[name][drawn].mean(1) for name in blind], axis=0)
    low, high = np.percentile(margins, [2.5, 97.5])
    return {
        "questions": number,
        "accuracy": {name: float(marks.mean()) for name, marks in right.items()},
        "best_baseline": best,
        "margin": float(right["model"].mean() - right[best].mean()),
        "interval": [float(low), float(high)],
    }


def _trained_answer(run: RunFolder, recipe: EvaluateRecipe, settings: EvaluateSettings, steps: Sequence[str]) -> Answer:
    assert recipe.model is not None
    model, tokenizer = build_model(recipe.model, recipe.seed, trained=True)
    load_trained(model, run, steps)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def answer_all(questions: Sequence[str], pictures: Sequence[Image.Image]) -> list[str]:
        return answer(model, tokenizer, questions, pictures, settings.max_new_tokens, settings.batch_size)

    return answer_all


def _train_turns(run: RunFolder, kinds: Sequence[str]) -> list[tuple[str, str]]:
    """(kind, answer) of the training split's turns."""
    lengths = run.read_table("lengths", columns=["conversation_id", "split"]).to_pylist()
    used = {whole_id(row["conversation_id"]) for row in lengths if row["split"] == "train"}
    said = run.read_table("conversations", columns=["conversation_id", "turns"]).to_pylist()
    turns = [turn for row in said if row["conversation_id"] in used for turn in row["turns"]]
    return [(turn["kind"], turn["answer"]) for turn in turns if turn["kind"] in kinds]
