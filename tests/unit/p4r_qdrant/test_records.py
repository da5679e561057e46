"""Ids and texts as catalogues really hold them."""

import json
import math
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from p4r_qdrant.records import (
    MAX_ID_LENGTH,
    Aspects,
    Candidate,
    Item,
    ItemPersonas,
    Persona,
    Review,
    Split,
    Summary,
    check_domain,
    check_id,
    clean_text,
)
from p4r_qdrant.schemas.items import ItemBody, ReviewBody
from p4r_qdrant.schemas.reranking import CandidateBody, InlineInteraction
from p4r_qdrant.schemas.users import InteractionBody

ANYTHING = st.text(st.characters(codec=None), max_size=40)

GOOD_IDS = [
    "a",
    "0",
    "-1",
    "null",
    "x" * MAX_ID_LENGTH,
    "🎻👩🏽‍🚀",
    "quote'\"\\`",
    "with space inside",
    "a/b?c=d&e#f;g",
    "../../etc/passwd",
    "<b>&amp;</b>",
    "[bold]",
    "é" + "e\u0301",
    "عربي",
    "%s{0}$x",
]
BAD_IDS = {
    "": "empty",
    "x" * (MAX_ID_LENGTH + 1): "513",
    "x" * 10_000: "10000",
    "a\nb": "control character",
    "a\r": "control character",
    "a\x00b": "control character",
    "\x1b[31mred": "control character",
    "a\x7f": "control character",
    "a\x85b": "control character",
    "a\u2028b": "control character",
    " a": "white space",
    "a\u3000": "white space",
    "a\ufeff": "invisible character",
    "\u200ba": "invisible character",
    " ": "white space",
    "\ud800": "Unicode",
    "\ud83d\ude00": "Unicode",
    "a\udcff": "Unicode",
}


@pytest.mark.parametrize("value", GOOD_IDS)
def test_an_id_stays_as_it_is(value: str) -> None:
    assert check_id(value) == value
    stored = Item(item_id=value).model_dump_json()
    assert Item.model_validate_json(stored).item_id == value


@pytest.mark.parametrize(("value", "told"), BAD_IDS.items())
def test_what_cannot_be_an_id_is_refused_in_one_line(value: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as refusal:
        check_id(value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 200
    with pytest.raises(ValidationError):
        Item(item_id=value)


@given(value=ANYTHING)
def test_an_id_is_taken_as_it_is_or_refused(value: str) -> None:
    try:
        assert check_id(value) == value
    except ValueError as refusal:
        assert str(refusal).isprintable()  # noqa: PT017 - either outcome is checked
    else:
        assert value == value.strip()
        assert value.encode().decode() == value
        assert "\n" not in value


@pytest.mark.parametrize(
    ("number", "text"), [(17, "17"), (0, "0"), (-3, "-3"), (10**30, "1" + "0" * 30)]
)
def test_numbers_are_ids(number: int, text: str) -> None:
    assert Item.model_validate_json(json.dumps({"item_id": number})).item_id == text


@pytest.mark.parametrize("value", [True, 1.5, None, ["a"], {"a": 1}])
def test_other_things_are_no_ids(value: Any) -> None:
    with pytest.raises(ValidationError):
        Item.model_validate_json(json.dumps({"item_id": value}))


def test_an_id_may_be_escaped_in_json() -> None:
    assert Item.model_validate_json(r'{"item_id": "\ud83d\ude00"}').item_id == "😀"
    with pytest.raises(ValidationError):
        Item.model_validate_json(r'{"item_id": "\ud83d"}')


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  two  words \n", "two  words"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("bell\x07 and \x1b[31mred\x1b[0m", "bell and red"),
        ("half \ud83d pair", "half  pair"),
        ("\x00\x01", ""),
        ("windows\r\nline", "windows\nline"),
        ("🎻 é", "🎻 é"),
    ],
)
def test_clean_text(text: str, clean: str) -> None:
    assert clean_text(text) == clean


@given(text=ANYTHING)
def test_clean_text_is_clean(text: str) -> None:
    clean = clean_text(text)
    assert clean_text(clean) == clean
    assert clean.encode().decode() == clean
    assert not any(ord(letter) < 32 and letter not in "\t\n" for letter in clean)


@given(text=st.text(st.characters(exclude_categories=["C", "Z"])))
def test_clean_text_keeps_every_visible_letter(text: str) -> None:
    assert clean_text(text) == text


def test_null_texts_are_empty_ones() -> None:
    item = Item.model_validate({"item_id": "a", "title": None, "brand": None, "price": 3.5})
    assert (item.title, item.brand) == ("", "")
    assert item.model_extra == {"price": 3.5}


@pytest.mark.parametrize("text", ["", "  ", "\x00 \x01", None])
def test_a_persona_needs_its_texts(text: str | None) -> None:
    whole = {"persona_id": "p", "name": "n", "description": "d", "preference_rationale": "r"}
    assert Persona.model_validate(whole).evidence == []
    for name in ("name", "description", "preference_rationale"):
        with pytest.raises(ValidationError):
            Persona.model_validate(whole | {name: text})
    with pytest.raises(ValidationError):
        Summary.model_validate({"item_id": "a", "summary": text})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, "many", None])
def test_numbers_are_finite(number: Any) -> None:
    review = {"user_id": "u", "item_id": "a", "rating": 4, "timestamp": 1_600_000_000}
    assert Review.model_validate(review).rating == 4.0
    with pytest.raises(ValidationError):
        Review.model_validate(review | {"rating": number})
    with pytest.raises(ValidationError):
        Review.model_validate(review | {"timestamp": number})
    if number is not None:
        with pytest.raises(ValidationError):
            Candidate.model_validate({"item_id": "a", "score": number})


NOW = int(time.time())
ABOUT = {"user_id": "u", "item_id": "a", "rating": 4, "timestamp": NOW}
OF_A_REVIEW: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (Review, ABOUT),
    (Aspects, ABOUT | {"aspects": {"quality": "good"}}),
    (InteractionBody, {"item_id": "a", "rating": 4, "timestamp": NOW}),
    (ReviewBody, {"user_id": "u", "rating": 4, "timestamp": NOW}),
]
BAD_TIMES = {
    "milliseconds": (1000 * NOW, "is in the future: give seconds since 1970; it looks like milli"),
    "future": (NOW + 86_400, "is in the future: give seconds since 1970"),
    "far future": (253_402_300_799, "is in the future"),
    "huge": (10**400, "is in the future"),
    "negative": (-1, "greater than or equal to 0"),
    "true": (True, "true is no number"),
    "fraction": (1.5, "valid integer"),
}


@pytest.mark.parametrize(("wrong", "said"), BAD_TIMES.values(), ids=BAD_TIMES)
def test_a_time_that_cannot_be_is_refused_everywhere(wrong: Any, said: str) -> None:
    cases: list[tuple[type[BaseModel], dict[str, Any]]] = [
        *OF_A_REVIEW,
        (InlineInteraction, {"item_id": "a", "timestamp": NOW}),
    ]
    for model, row in cases:
        model.model_validate(row)
        model.model_validate(row | {"timestamp": NOW + 3600})  # a local time taken for UTC
        with pytest.raises(ValidationError, match=re.escape(said)):
            model.model_validate(row | {"timestamp": wrong})


@pytest.mark.parametrize("wrong", [900, -1, True, 100.1, math.inf])
def test_a_rating_that_cannot_be_is_refused_everywhere(wrong: float) -> None:
    for model, row in OF_A_REVIEW:
        model.model_validate(row | {"rating": 100})
        with pytest.raises(ValidationError, match="rating"):
            model.model_validate(row | {"rating": wrong})


def test_a_score_is_a_number_everywhere() -> None:
    models: list[type[BaseModel]] = [Candidate, CandidateBody]
    for model in models:
        for score in (-1.5, 900, "0.5", None):
            model.model_validate({"item_id": "a", "score": score})
        for wrong in (True, "high", math.nan, math.inf):
            with pytest.raises(ValidationError, match="score"):
                model.model_validate({"item_id": "a", "score": wrong})


@pytest.mark.parametrize("wrong", ["", " ", "a\nb", "a\x00", "x" * 101])
def test_a_domain_is_a_line(wrong: str) -> None:
    assert check_domain(" board games ") == "board games"
    with pytest.raises(ValueError, match="is no name of a domain"):
        check_domain(wrong)
    with pytest.raises(ValidationError, match="is no name of a domain"):
        ItemBody(personas=None, domain=wrong)


def test_records_do_not_change() -> None:
    personas = ItemPersonas(item_id="a", personas=[])
    with pytest.raises(ValidationError):
        personas.item_id = "b"  # type: ignore[misc]


def test_a_split_without_validation_says_so() -> None:
    assert Split(user_id="u", test_item="a", valid_item=None).valid_item is None
