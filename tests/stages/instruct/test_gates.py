"""Gates: found by file name, each refuses what it is there for and lets the innocent pass."""

from __future__ import annotations

import pytest

from schemas.conversation import Turn
from schemas.errors import InputError
from stages.instruct import InstructSettings
from stages.instruct.context import Context, LabelledBox
from stages.instruct.gates import Said, find_gate, gate_names
from stages.instruct.gates.base import Scene, Verdict
from stages.instruct.judge import Judge
from stages.instruct.kinds import EndpointKind, find_kind
from stages.instruct.objects import lexicon, name_of

PICTURE = Context(
    "a" * 32,
    ["A red car and two dogs near a hot dog stand.", "A woman watches the automobile."],
    [LabelledBox("car", 0.1, 0.1, 0.3, 0.3), LabelledBox("carousel horse", 0.4, 0.1, 0.6, 0.3)],
    [LabelledBox("OPEN 24 HOURS", 0.0, 0.0, 0.1, 0.1)],
    ["knife"],
)
SCENE = Scene(PICTURE, frozenset(map(name_of, ("car", "carousel horse", "Zamboni"))))


def _kind(name: str) -> EndpointKind:
    kind = find_kind(name)()
    assert isinstance(kind, EndpointKind)
    return kind


def _verdict(
    gate: str, answer: str, question: str = "What is there?", kind: str = "conversation", **more: object
) -> Verdict | None:
    settings = InstructSettings(**({"languages": more.pop("languages")} if "languages" in more else {}))
    scene = Scene(more.pop("context"), frozenset()) if "context" in more else SCENE  # type: ignore[arg-type]
    said = Said(Turn(question, answer, kind), scene, _kind(kind), **more)  # type: ignore[arg-type]
    return find_gate(gate)(settings).verdict(said)


def test_gates_are_found_by_the_name_of_their_file_and_those_that_cost_requests_are_asked_last() -> None:
    assert set(gate_names()) == {"grounding", "leak", "refusal", "repetition", "language", "length", "broken_turns",
                                 "asked_twice", "not_visual"}  # fmt: skip
    assert gate_names()[-1] == "not_visual"
    with pytest.raises(InputError, match="unknown gate 'leaks'.*leak"):
        find_gate("leaks")


def test_a_recipe_changes_the_gates_that_it_names_and_no_others() -> None:
    settings = InstructSettings(gates={"leak": "conversation", "language": False})
    assert settings.gates["leak"] == "conversation" and settings.gates["grounding"] == "turn"
    assert "language" not in settings.chosen_gates() and "not_visual" not in settings.chosen_gates()


@pytest.mark.parametrize(
    "answer",
    [
        "A car is there.", "Two cars and a vehicle stand there.", "An automobile, parked near dogs.",
        "There is a puppy.", "An animal and a lady are there.", "A person looks at it.", "A horse on a carousel.",
        "There is a hot dog stand.", "It says open 24 hours.", "No cat is there.", "There are no cats, birds or trees.",
        "The dogs do not chase a cat.", "There is a dog but no cat.", "The kind of orange background.",
        "It is star-shaped.", "She can watch it.", "A dog instead of a cat.", "From a bird's-eye view.", "A knife.",
    ],
)  # fmt: skip
def test_what_is_supported_or_denied_is_grounded(answer: str) -> None:
    assert _verdict("grounding", answer) is None


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("A cat is there.", "cat"), ("Two dogs and a man.", "man"), ("By the car stand bicycles.", "bicycles"),
        ("There is no bird, but a cat.", "cat"), ("A truck.", "truck"), ("She holds a ring.", "ring"),
        ("A zamboni stands there.", "zamboni"), ("Not only a dog but also a kitten.", "kitten"),
    ],
)  # fmt: skip
def test_what_nothing_supports_is_ungrounded_and_named(answer: str, named: str) -> None:
    assert _verdict("grounding", answer) == ("ungrounded", named)


def test_the_words_of_a_name_that_stands_apart_support_nothing() -> None:
    assert _verdict("grounding", "A dog.", context=Context("a", ["A hot dog."])) == ("ungrounded", "dog")
    assert _verdict("grounding", "A dog.", context=Context("a", ["A hot dog and a dog."])) is None


@pytest.mark.parametrize(
    ("question", "answer", "refused"),
    [
        ("What colour is the cat?", "It is red.", True),
        ("What colour is the cat?", "There is no cat.", False),
        ("Is there a cat?", "Yes, there is one.", True),
        ("Is there a cat?", "No.", False),
        ("Do you see a car or a bus?", "A car.", False),
        ("What colour is the car?", "It is red.", False),
    ],
)
def test_a_question_that_takes_an_object_for_granted_is_said_too(question: str, answer: str, refused: bool) -> None:
    assert (_verdict("grounding", answer, question) is not None) == refused


def test_thought_may_go_beyond_sight_where_the_kind_is_for_it() -> None:
    thought = "The car stands near dogs. The woman might need an umbrella."
    assert _verdict("grounding", thought, "Why?", "reasoning") is None
    assert _verdict("grounding", thought, "Why?") is not None
    assert _verdict("grounding", "The woman holds an umbrella.", "Why?", "reasoning") is not None


def test_grounding_passes_what_it_cannot_judge() -> None:
    assert _verdict("grounding", "There is a cat.", context=Context("a", ["一只猫坐在垫子上看着窗外的鸟"])) is None
    assert _verdict("grounding", "Da sitzt eine Katze auf dem Auto und wartet.", "Was ist dort?") is None


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("The caption says it is red.", True), ("As the description mentions, it is red.", True),
        ("A car at [0.1, 0.2, 0.3, 0.4].", True), ("The dog is at (120, 45).", True),
        ("Its bounding box is small.", True),
        ("It starts at x=0.25.", True), ("The dog stands 0.35 from the left.", True),
        ("Its colour is not mentioned.", True),
        ("According to the text, it is red.", True), ("It is 20% from the left edge.", True),
        ("It costs $0.99.", False), ("There are 2 dogs.", False), ("It is mentioned by nobody", False),
        ("The sign reads open.", False), ("The clock shows 10:45.", False), ("It stands at the left.", False),
    ],
)  # fmt: skip
def test_leaks(answer: str, refused: bool) -> None:
    assert (_verdict("leak", answer) is not None) == refused


def test_a_word_of_the_captions_is_no_leak() -> None:
    context = Context("a", ["A map with coordinates on a wall."])
    assert _verdict("leak", "There are coordinates on a map.", context=context) is None
    assert _verdict("leak", "A map at [0.1, 0.2].", context=context) is not None


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("As an AI, I do not see pictures.", True), ("I'm sorry, but no.", True), ("Sure! Here is one.", True),
        ("I cannot see the picture.", True), ("It cannot be determined.", True),
        ("Let me know if you want more.", True),
        ("Sure-footed goats stand there.", False), ("The dog cannot reach the ball.", False),
        ("A woman who is sorry.", False),
    ],
)  # fmt: skip
def test_refusals(answer: str, refused: bool) -> None:
    assert (_verdict("refusal", answer) is not None) == refused


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("a dog sits on the grass and a dog sits on the grass again.", True),
        ("The dog is red. There is a car. The dog is red.", True),
        ("red red red red.", True), ("It is red and it is red and it is red and it is red.", True),
        (" ".join(["the dog runs along the road and then it barks at all of the cars"] * 2), True),
        ("One dog is to the left of the car and one is to the right of the car.", False),
        ("A very very old car.", False), ("Yes.", False),
    ],
)  # fmt: skip
def test_repetition(answer: str, refused: bool) -> None:
    assert (_verdict("repetition", answer) is not None) == refused


def test_the_answer_of_an_earlier_turn_is_repetition() -> None:
    earlier = [Turn("What?", "There is a red car here.", "conversation")]
    assert _verdict("repetition", "There is a red car here.", earlier=earlier) is not None
    assert _verdict("repetition", "Yes.", earlier=[Turn("What?", "Yes.", "conversation")]) is None


@pytest.mark.parametrize(
    ("answer", "languages", "refused"),
    [
        ("Es stehen zwei Hunde neben dem Auto.", ["en"], "de"), ("Es stehen zwei Hunde neben dem Auto.", ["en",
        "de"], None),
        ("一只狗在草地上", ["en"], "zh"), ("Two dogs stand next to the car.", ["en"], None), ("Yes.", ["en"], None),
        ("It says 東京.", ["en"], None), ("Two dogs stand next to the car.", ["de"], "en"),
    ],
)  # fmt: skip
def test_language(answer: str, languages: list[str], refused: str | None) -> None:
    verdict = _verdict("language", answer, languages=languages)
    assert (verdict is not None) == (refused is not None)
    assert verdict is None or verdict[0] == "answer_language"


@pytest.mark.parametrize(
    ("kind", "words", "refused"),
    [
        ("detail", 7, True),
        ("detail", 8, False),
        ("conversation", 1, False),
        ("conversation", 121, True),
        ("reasoning", 5, True),
    ],
)
def test_length(kind: str, words: int, refused: bool) -> None:
    assert (_verdict("length", " ".join(["word"] * words), kind=kind) is not None) == refused


@pytest.mark.parametrize(
    ("question", "answer", "refused"),
    [
        ("What?", "A dog. User: and?", True), ("What?", "<|im_end|>", True), ("", "A dog.", True), ("What?",
        "...", True),
        ("What is it?", "What is it?", True), ("The dog is red.", "Yes.", True), ("What?", "A dog and the", True),
        ("What?", '{"answer": "A dog."}', True), ("What?", "### A dog", True),
        ("Describe the car.", "A red car.", False), ("What is on?", "The lamp is on.", False),
        ("What does the sign say?", "Question authority", False),
        ("How many dogs?", "2", False),
    ],
)  # fmt: skip
def test_broken_turns(question: str, answer: str, refused: bool) -> None:
    assert (_verdict("broken_turns", answer, question) is not None) == refused


@pytest.mark.parametrize(
    ("question", "refused"),
    [
        ("what colour is the car", True),
        ("What colour is the car in the picture?", True),
        ("Which colour are the dogs?", False),
    ],
)
def test_asked_twice(question: str, refused: bool) -> None:
    earlier = [Turn("What colour is the car?", "Red.", "conversation")]
    assert (_verdict("asked_twice", "Red.", question, earlier=earlier) is not None) == refused


@pytest.mark.parametrize(
    ("answer", "blind", "refused"),
    [
        ("It is blue.", "The sky is blue.", True), ("Two.", "2", True), ("Yes.", "Yes, there is.", True),
        ("It is blue.", "It is green.", False), ("Yes.", "No.", False), ("There are two dogs.",
        "There are three dogs.", False),
        ("A dog.", None, False), ("A dog.", "", False),
    ],
)  # fmt: skip
def test_not_visual(answer: str, blind: str | None, refused: bool) -> None:
    assert (_verdict("not_visual", answer, blind=blind) is not None) == refused


def test_the_judge_drops_a_turn_or_the_whole_conversation_as_the_recipe_says() -> None:
    turns = [
        Turn("What is there?", "A car.", "conversation"),
        Turn("What else is there?", "A cat.", "conversation"),
        Turn("Who watches?", "A woman.", "conversation"),
    ]
    for scope, left in (("turn", [turns[0], turns[2]]), ("conversation", []), (False, turns)):
        passed, refused = Judge(InstructSettings(gates={"grounding": scope})).sift(turns, SCENE, _kind("conversation"))
        assert passed == left
        assert [(one.reason, one.detail, one.scope, one.question) for one in refused] == (
            [("ungrounded", "cat", scope, "What else is there?")] if scope else []
        )


def test_names_in_the_lexicon_are_plain_words() -> None:
    known = lexicon()
    assert len(known.objects) > 1500 and all(name and all(name) for name in known.objects)
    assert not known.objects & known.plain
