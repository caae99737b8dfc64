"""Rules: what each measures, and what it drops."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.errors import InputError
from schemas.settings import explain
from schemas.tables import MASKED
from stages.select.candidates import Candidates
from stages.select.dedup import Verdicts
from stages.select.rules import RuleSettings, asked_rules, mask_captions
from stages.select.settings import SelectSettings


def apply_rules(samples: pa.Table, asked: RuleSettings) -> pa.Array:
    """The reason of the first rule that drops each row."""
    rows = Candidates(samples, {}, Verdicts(np.full(len(samples), None, object)))
    for rule, limit in asked_rules(asked):
        rows.measure(rule.measure, rule.measured(samples, limit))
        rows.ask(rule.name, rule.measure, rule.keeps, rule.bound(limit), rule.reason)
    return pa.array(rows.verdicts.reason, pa.string())


def _samples(*rows: tuple[str | None, int | None, int | None]) -> pa.Table:
    caption, width, height = zip(*rows, strict=True)
    return pa.table({"caption": pa.array(caption, pa.string()), "original_width": pa.array(width, pa.int32()), "original_height": pa.array(height, pa.int32())})  # fmt: skip # noqa: E501


def test_each_rule_drops_with_its_own_reason_and_the_first_one_counts() -> None:
    samples = _samples(
        ("a cat on a mat", 64, 64),
        ("a cat on a mat", 63, 200),
        ("a cat on a mat", 64, 193),
        ("cat", 64, 192),
        ("one two three four five six", 64, 64),
        ("IMG_1.jpg", 10, 10),
        (None, None, None),
    )
    asked = RuleSettings(min_side_px=64, max_aspect=3, min_caption_words=2, max_caption_words=5, boilerplate=True)
    assert apply_rules(samples, asked).to_pylist() == [
        None, "picture_too_small", "aspect_ratio", "caption_short", "caption_long", "picture_too_small", None,
    ]  # fmt: skip
    assert apply_rules(samples, RuleSettings()).null_count == 7


@pytest.mark.parametrize(
    "caption",
    ["IMG_1234.jpg", "DSC0042.JPG", "IMG_1234", "P1010001", "image", "Photo 1234", "a picture", "untitled",
     "stock photo",
     "https://example.com/12", "www.example.com", "4711", "12 / 2024", "thumbnail", "Screenshot 77", "image 3 of 10",
     "photo (2)", "Screenshot 2024-01-02", "cat.jpeg", "Featured image", "no caption", "Untitled-1", "N/A",
     "Click here to enlarge", "  image  "],
)  # fmt: skip
def test_boilerplate(caption: str) -> None:
    (reason,) = apply_rules(_samples((caption, 9, 9)), RuleSettings(boilerplate=True)).to_pylist()
    assert reason == "caption_boilerplate"


@pytest.mark.parametrize(
    "caption",
    ["a dog and two cats", "image of a dog", "photo album on a table", "cat", "3 cats", "stock photo of a red car",
     "Picture frame", "猫", "image 猫", "a logo of a bear", "https and http explained",
     "the default setting of a camera", "Icon park"],
)  # fmt: skip
def test_captions_that_say_something_pass(caption: str) -> None:
    assert apply_rules(_samples((caption, 9, 9)), RuleSettings(boilerplate=True)).to_pylist() == [None]


def _drops(samples: pa.Table, **rules) -> list[bool]:
    """What a rule by itself drops."""
    return [reason is not None for reason in apply_rules(samples, RuleSettings(**rules)).to_pylist()]


def test_area_is_held_between_two_limits() -> None:
    samples = _samples(("c", 10, 10), ("c", 33, 3), ("c", 101, 1), ("c", 50, 50), ("c", None, 9), ("c", 70_000, 70_000))
    assert _drops(samples, min_area_px=100) == [False, True, False, False, False, False]
    assert _drops(samples, max_area_px=100) == [False, False, True, True, False, True]
    both = RuleSettings(min_area_px=100, max_area_px=101)
    assert apply_rules(samples, both).to_pylist() == [None, "picture_too_small", None, "picture_too_large", None,
                                                      "picture_too_large"]  # fmt: skip


@pytest.mark.parametrize(
    ("caption", "foreign"),
    [("Der Hund sitzt auf dem Tisch vor dem Haus", True), ("le chat noir dort sur le lit", True),
     ("собака сидит на столе", True), ("狗坐在桌子上看着窗外的风景", True), ("un chien", True),
     ("a banana left of two green apples", False), ("A PHOTO OF A DOG", False), ("a cat", False), ("3 cats", False),
     ("Paris", False), ("dog\nand cat", False), ("", False), ("123 456", False), (None, False)],
)  # fmt: skip
def test_a_caption_that_is_clearly_in_another_language_is_dropped(caption: str | None, foreign: bool) -> None:
    assert _drops(_samples((caption, 9, 9)), languages=["en"]) == [foreign]


def test_any_of_the_languages_will_do() -> None:
    samples = _samples(
        ("Der Hund sitzt auf dem Tisch", 9, 9), ("the dog sits on the table", 9, 9), ("le chien est sur la table", 9, 9)
    )
    assert _drops(samples, languages=["en", "de"]) == [False, False, True]
    with pytest.raises(InputError, match="'qq' is none of the detector's languages: .*, en, .*"):
        _drops(samples, languages=["qq"])


def _beside(*rows: tuple[str | None, str | None, str | None]) -> pa.Table:
    """Of the bytes nothing is known: all are different."""
    caption, pixels, reason = (pa.array(column, pa.string()) for column in zip(*rows, strict=True))
    names = {"caption": caption, "pixels_sha256": pixels, "reason": reason}
    return pa.table(
        {**names, "sha256": [None if text is None else str(row) for row, text in enumerate(pixels.to_pylist())]}
    )


def test_a_caption_beside_more_than_so_many_different_pictures_is_dropped() -> None:
    samples = _beside(
        ("Summer sale!", "1", None), ("summer  SALE", "2", None), (" Summer-sale.", "3", None), ("a dog", "4", None),
        ("a dog", "4", None), ("a dog", "5", None), ("summer sale", None, "timeout"), (None, "6", None),
        ("!!", "7", None),
    )  # fmt: skip
    assert _drops(samples, max_caption_repeats=2) == [True, True, True, False, False, False, False, False, False]
    assert _drops(samples, max_caption_repeats=3) == [False] * 9
    assert _drops(samples, max_caption_repeats=1) == [True] * 3 + [True] * 3 + [False] * 3


def test_captions_beside_one_and_the_same_picture_are_no_repeats() -> None:
    samples = _beside(*[("a dog", "1", None)] * 50)
    assert _drops(samples, max_caption_repeats=1) == [False] * 50
    assert _drops(samples.slice(0, 0), max_caption_repeats=1) == []


def test_variety_counts_different_words_of_long_captions() -> None:
    samples = _samples(
        ("buy shoes buy shoes BUY shoes, buy!", 9, 9), ("one two three four five six", 9, 9), ("dog dog dog", 9, 9),
        ("a b a b c d", 9, 9), ("", 9, 9), (None, 9, 9),
    )  # fmt: skip
    assert _drops(samples, min_caption_variety=0.5) == [True, False, False, False, False, False]
    assert _drops(samples, min_caption_variety=0.7) == [True, False, False, True, False, False]
    assert _drops(_samples(("", 9, 9)), min_caption_variety=0.5) == [False]


PERSONAL = [
    ("write to jane.doe+x@mail.example.co.uk today", "write to [email] today"),
    ("Call +1 202-555-0143 now", "Call [telephone] now"),
    ("call (202) 555-0143", "call [telephone]"),
    ("Tel: 020 7946 0958", "Tel: [telephone]"),
    ("phone 2025550143", "phone [telephone]"),
    ("+49 30 901820, +91 98765 43210", "[telephone], [telephone]"),
    ("kontakt: 0171/1234567 oder a@b.de", "kontakt: [telephone] oder [email]"),
    ("☎ 01 42 68 53 00", "☎ [telephone]"),
    ("1-800-356-9377", "[telephone]"),
    ("sold by 212.555.0187", "sold by [telephone]"),
]
PLAIN = [
    "in 1914-1918", "1920x1080", "from 1999 to 2021-12-31", "IMG_20210304_123456", "2021-03-04 12:34:56",
    "ISBN 978-3-16-148410-0", "pack of 1000000 pieces", "$1,234,567.89", "item 1234567890", "3840 2160",
    "10 000 000 people", "192.168.100.200", "51.507351, -0.127758", "UPC 036000291452", "Photo 2025550143",
    "6.5 x 9.5 x 12.5 in", "1234 5678 9012 3456", "12.12.2012 - 13.12.2012", "2010 2011 2012 2013", "EAN 4006381333931",
    "Boeing 737-800 737-900", "#2025550143", "stock photo 202-5550-143", "icon@2x.png", "follow @handle", "me @ home",
    "", "a recall of item 2025550143",
]  # fmt: skip


def _captioned(captions: list[list[str]]) -> pa.Table:
    ids = [f"{row:032x}" for row in range(len(captions))]
    return pa.table({"sample_id": ids, "caption": [given[0] for given in captions], "captions": captions})


@pytest.mark.parametrize(("caption", "masked"), PERSONAL)
def test_personal_data_is_found_and_masked(caption: str, masked: str) -> None:
    samples = _captioned([["a dog", caption], ["a dog"]])
    assert _drops(samples, personal_data="drop") == [True, False]
    assert _drops(samples, personal_data="mask") == [False, False]
    (row,) = mask_captions(samples).to_pylist()
    assert row == {"sample_id": "0" * 32, "caption": "a dog", "captions": ["a dog", masked]}
    assert mask_captions(_captioned([[caption]]))["caption"].to_pylist() == [masked]


@pytest.mark.parametrize("caption", PLAIN)
def test_plain_numbers_and_signs_are_no_personal_data(caption: str) -> None:
    samples = _captioned([[caption]])
    assert _drops(samples, personal_data="drop") == [False]
    assert mask_captions(samples).schema == MASKED and mask_captions(samples).num_rows == 0


def test_a_row_that_lacks_captions_is_masked_as_far_as_it_has_them() -> None:
    types = {"sample_id": pa.string(), "caption": pa.string(), "captions": pa.list_(pa.string())}
    columns = {
        "sample_id": ["a", "b", "c"],
        "caption": ["x@y.org", None, None],
        "captions": [None, ["x@y.org", None], None],
    }
    samples = pa.table({name: pa.array(columns[name], kind) for name, kind in types.items()})
    told = [tuple(row.values()) for row in mask_captions(samples).to_pylist()]
    assert told == [("a", "[email]", None), ("b", None, ["[email]", None])]


_PIECES = st.sampled_from(["+1 202-555-0143", "2025550143", "020 7946 0958", "(415) 555-2671", "tel. ", "call me at ",
                           "a.b@c.org", "@", " ", ", ", "7", "-", ".", "+49", "x"]) | st.text(max_size=3)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(_PIECES, max_size=8), min_size=1, max_size=3))
def test_what_is_masked_holds_no_personal_data_any_more(captions: list[list[str]]) -> None:
    samples = _captioned([["".join(pieces) for pieces in captions]])
    masked = mask_captions(samples)
    assert (masked.num_rows == 1) == _drops(samples, personal_data="drop")[0]
    if masked.num_rows:
        assert _drops(masked, personal_data="drop") == [False]


def test_settings_refuse_what_is_not_there() -> None:
    for wrong, message in [
        ({"rules": {"min_side": 3}}, "unknown key 'rules.min_side'; did you mean 'min_side_px'"),
        ({"clip": {"keep": {"min": 0.1, "top": 0.2}}}, "give either 'min'"),
        ({"clip": {"keep": {"min": 0.1, "by": "language"}}}, "'by: language' goes with 'top'"),
        ({"rules": {"languages": ["English"]}}, "rules.languages.0"),
        ({"rules": {"personal_data": "hide"}}, "'drop' or 'mask'"),
        ({"dedup": {"semantic": {"min_cosine": 2}}}, "dedup.semantic.min_cosine"),
    ]:
        with pytest.raises(ValidationError) as caught:
            SelectSettings.model_validate(wrong)
        assert message in str(explain(caught.value, SelectSettings, "recipe.yaml"))
