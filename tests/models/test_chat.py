"""Conversations as tokens: the mask is exact, and asking and learning see the same prompt."""

import models.compat  # noqa: F401

# isort: split
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from models.chat import NO_LOSS, TEMPLATES, encode, end_ids, exported_template, plain, prepare_tokenizer, prompt_ids
from schemas.conversation import IMAGE_TOKEN, Conversation, Turn
from schemas.errors import InputError, SluiceError
from tests.models.conftest import SYSTEM, TEMPLATE, make_tokenizer


def _conversation(*turns: tuple[str, str]) -> Conversation:
    return Conversation("id-0", "id", "template", "template", [Turn(*turn, kind="count") for turn in turns])


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Any:
    return prepare_tokenizer(AutoTokenizer.from_pretrained(tokenizer_folder))


TURNS = [("How many cats?", "There are two."), ("Where?", "in the picture"), ("How many dogs?", "None at all.\nNone.")]


def test_loss_stands_on_the_answers_and_their_ends_alone(tokenizer: Any) -> None:
    encoded = encode(_conversation(*TURNS), tokenizer, 5)
    assert len(encoded.input_ids) == len(encoded.labels)
    said: list[list[int]] = []
    learning = False
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        if label != NO_LOSS:
            assert label == token
            said = said if learning else [*said, []]
            said[-1].append(token)
        learning = label != NO_LOSS
    assert [tokenizer.decode(ids) for ids in said] == [f"{answer}<|im_end|>" for _, answer in TURNS]


def test_the_token_that_ends_an_answer_is_learned(tokenizer: Any) -> None:
    encoded = encode(_conversation(("Where?", "There.")), tokenizer, 2)
    assert encoded.input_ids[-1] == encoded.labels[-1] == end_ids(tokenizer)[0]
    assert encoded.labels[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_joined_segments_read_as_the_template_writes_them(tokenizer: Any) -> None:
    encoded = encode(_conversation(*TURNS), tokenizer, 1)
    messages = [{"role": "system", "content": ""}]
    for number, (question, answer) in enumerate(TURNS):
        messages.append({"role": "user", "content": f"{IMAGE_TOKEN}\n{question}" if number == 0 else question})
        messages.append({"role": "assistant", "content": answer})
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(encoded.input_ids) == whole.rstrip("\n")


def test_a_prompt_is_what_learning_saw_before_the_answer(tokenizer: Any) -> None:
    encoded = encode(_conversation(("How many cats?", "two")), tokenizer, 7)
    prompt = prompt_ids("How many cats?", tokenizer, 7)
    assert encoded.input_ids[: len(prompt)] == prompt
    assert set(encoded.labels[: len(prompt)]) == {NO_LOSS}
    assert NO_LOSS not in encoded.labels[len(prompt) :]
    picture = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert prompt.count(picture) == 7
    assert picture not in prompt_ids("How many cats?", tokenizer, 7, with_picture=False)


def test_a_long_default_system_message_is_left_out(tokenizer: Any) -> None:
    assert SYSTEM not in tokenizer.decode(prompt_ids("Where?", tokenizer, 1))


def test_special_tokens_written_out_in_texts_stay_text(tokenizer: Any) -> None:
    texts = ("<image> <|im_end|> Where?", "a <|im_start|>user\n <image> there")
    encoded = encode(_conversation(texts), tokenizer, 4)
    picture, end = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN), end_ids(tokenizer)[0]
    assert encoded.input_ids.count(picture) == 4
    assert [token for token in encoded.labels if token == end] == [end]
    assert plain("a < b", tokenizer) == "a < b"


def test_a_picture_token_that_is_only_in_the_vocabulary_is_kept_whole(tmp_path: Path) -> None:
    folder = make_tokenizer(tmp_path, TEMPLATE)
    file = json.loads((folder / "tokenizer.json").read_text())
    file["model"]["vocab"][IMAGE_TOKEN] = 900
    (folder / "tokenizer.json").write_text(json.dumps(file))
    loaded = AutoTokenizer.from_pretrained(folder)
    assert len(loaded(IMAGE_TOKEN)["input_ids"]) > 1
    whole = prepare_tokenizer(loaded)
    assert whole(f"a{IMAGE_TOKEN}a")["input_ids"].count(900) == 1
    assert encode(_conversation(*TURNS), whole, 5).input_ids.count(900) == 5


def test_a_tokenizer_that_takes_no_picture_token_is_refused(tokenizer_folder: Path) -> None:
    class Closed(PreTrainedTokenizerFast):
        def _add_tokens(self, *given: Any, **more: Any) -> int:
            return 0

    closed = Closed.from_pretrained(tokenizer_folder)
    with pytest.raises(InputError, match="does not keep the picture token <image> whole.*choose another tokenizer"):
        prepare_tokenizer(closed)


def test_a_conversation_without_answers_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(SluiceError, match="id-0 has no token to learn from"):
        encode(_conversation(), tokenizer, 4)


def test_a_tokenizer_without_a_template_gets_chatml(tmp_path: Path) -> None:
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(make_tokenizer(tmp_path, None)))
    assert tokenizer.chat_template == TEMPLATES["chatml"]
    encoded = encode(_conversation(("Where?", "There.")), tokenizer, 1)
    assert tokenizer.decode(encoded.input_ids) == (
        "<|im_start|>user\n<image>\nWhere?<|im_end|>\n<|im_start|>assistant\nThere.<|im_end|>"
    )
    assert [tokenizer.convert_ids_to_tokens(one) for one in end_ids(tokenizer)] == ["<|im_end|>", "<|endoftext|>"]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for message in messages|reverse %}" + TEMPLATE.split("%}", 1)[1], "does not begin with the shorter"),
        (TEMPLATE.replace("message['content']", "message['content'] | upper"), "no special token ends an answer"),
        ("{% for message in messages %}{{ message['content'] }} {% endfor %}", "no special token ends an answer"),
        ("{{ raise_exception('not for you') }}", "refuses a question"),
    ],
)
def test_a_template_without_an_exact_mask_is_refused(tokenizer_folder: Path, template: str, why: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=why):
        encode(_conversation(("Where?", "There."), ("When?", "Now.")), prepare_tokenizer(tokenizer), 1)


def test_the_bare_template_spends_the_fewest_tokens(tokenizer_folder: Path) -> None:
    bare = prepare_tokenizer(AutoTokenizer.from_pretrained(tokenizer_folder), "bare")
    encoded = encode(_conversation(("Where?", "There."), ("When?", "Now.")), bare, 1)
    assert bare.decode(encoded.input_ids) == "<image>\nWhere?\nThere.<|im_end|>When?\nNow.<|im_end|>"
    learned = [label for label in encoded.labels if label != NO_LOSS]
    assert bare.decode(learned) == "There.<|im_end|>Now.<|im_end|>"


@pytest.mark.parametrize("name", [None, *TEMPLATES])
def test_the_exported_template_gives_the_same_prompt(tokenizer_folder: Path, name: str | None) -> None:
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(tokenizer_folder), name)
    content = [{"type": "image"}, {"type": "text", "text": "Where?"}]
    for message, with_picture in [(content, True), ("Where?", False)]:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": message}],
            chat_template=exported_template(tokenizer),
            add_generation_prompt=True,
            return_dict=False,
        )
        assert ids == prompt_ids("Where?", tokenizer, 1, with_picture)


def test_turns_apart_stand_behind_the_picture_as_each_would_alone(tokenizer: Any) -> None:
    encoded = encode(replace(_conversation(*TURNS), apart=True), tokenizer, 5)
    picture = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    shared = len(encoded.input_ids) - encoded.input_ids[::-1].index(picture)
    begins = [at for at in range(shared, len(encoded.position_ids)) if encoded.position_ids[at] == shared]
    assert len(begins) == len(TURNS) and encoded.input_ids.count(picture) == 5
    for turn, begin, end in zip(TURNS, begins, [*begins[1:], len(encoded.input_ids)], strict=True):
        alone = encode(_conversation(turn), tokenizer, 5)
        assert encoded.input_ids[:shared] + encoded.input_ids[begin:end] == alone.input_ids
        assert encoded.labels[:shared] + encoded.labels[begin:end] == alone.labels
        assert encoded.position_ids[:shared] + encoded.position_ids[begin:end] == alone.position_ids
        assert alone.position_ids == list(range(len(alone.input_ids)))


def test_turns_apart_without_a_picture_share_nothing(tokenizer: Any) -> None:
    encoded = encode(replace(_conversation(*TURNS), apart=True, text_only=True), tokenizer, 5)
    assert encoded.position_ids.count(0) == len(TURNS)
