"""Which sentences may be quoted: bounded, cleaned, and nothing is left out in silence."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.reasoning.extractive.sentences import (
    LENGTH,
    MOST_OF_A_REVIEW,
    evenly,
    first_words,
    metadata_sentences,
    review_sentences,
    sentences,
)
from p4r_qdrant.records import Item, Review
from tests.support.injections import INJECTIONS, WANTED


def cut(text: str) -> list[str]:
    return sentences(text, Counter())


def review(title: str, text: str) -> Review:
    return Review(user_id="u", item_id="i", rating=5, timestamp=1, title=title, text=text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It holds the tune. My son likes it!", ["It holds the tune.", "My son likes it!"]),
        ("Dr. Smith plays it, e.g. at home.", ["Dr. Smith plays it, e.g. at home."]),
        ("Costs $5.99 or so. Worth every cent.", ["Costs $5.99 or so.", "Worth every cent."]),
        ("a list of things\nand another of them", ["a list of things", "and another of them"]),
        ("The &#34;best&#34; <b>strap</b> there is.", ['The "best" strap there is.']),
        ("音がとても良いです。また買います。", ["音がとても良いです。", "また買います。"]),
        ("Said so twice. Said so twice.", ["Said so twice."]),
    ],
)
def test_a_text_is_cut_into_sentences(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


def test_what_is_left_out_is_counted_by_reason() -> None:
    left_out: Counter[str] = Counter()
    text = "Great! See www.cheap-straps.com for more. It keeps my bass in place. {{name}} is here."
    assert sentences(text, left_out) == ["It keeps my bass in place."]
    assert +left_out == {
        "sentences of fewer than 3 words": 1,
        "sentences with an address or markup": 2,
    }


@pytest.mark.parametrize("order", INJECTIONS)
def test_no_order_to_a_model_is_quoted(order: str) -> None:
    left_out: Counter[str] = Counter()
    found = " ".join(sentences(f"The strap is wide. {order}", left_out))
    assert "OWNED" not in found
    assert not any(one in found for one in WANTED)
    assert left_out.total() >= 1


def test_a_long_sentence_is_cut_between_words() -> None:
    found = cut("and then " * 200)
    assert len(found) > 1
    assert all(len(one) <= LENGTH and one.split()[-1] in ("and", "then") for one in found)


def test_a_long_review_is_sampled_from_its_first_to_its_last_sentence() -> None:
    left_out: Counter[str] = Counter()
    text = " ".join(f"This is sentence number {number}." for number in range(40))
    found = review_sentences(review("A good title it is", text), left_out)
    assert len(found) == MOST_OF_A_REVIEW
    assert found[0] == "A good title it is"
    assert found[-1] == "This is sentence number 39."
    assert left_out["sentences of long reviews"] == 41 - MOST_OF_A_REVIEW


def test_metadata_says_nothing_in_numbers_and_codes() -> None:
    item = Item.model_validate(
        {
            "item_id": "i",
            "title": "Wide Strap",
            "brand": "Acme",
            "categories": ["Music", "Straps"],
            "description": "A strap of leather. It is five centimetres wide.",
            "price": 12.5,
            "language": "en",
            "maker": "A small workshop",
        }
    )
    assert metadata_sentences(item, Counter()) == [
        "Wide Strap.",
        "By: Acme.",
        "Categories: Music, Straps.",
        "Maker: A small workshop.",
        "A strap of leather.",
        "It is five centimetres wide.",
    ]


def test_the_first_words_are_whole_sentences() -> None:
    texts = ["one two three", "four five", "six"]
    assert first_words(texts, 5) == texts[:2]
    assert first_words(texts, 1) == texts[:1]
    assert first_words([], 5) == []


@given(st.text(max_size=400))
def test_any_text_is_cut_into_bounded_distinct_sentences(text: str) -> None:
    found = cut(text)
    assert len(found) == len(set(found))
    assert all(0 < len(one) <= LENGTH and one == one.strip() for one in found)


@given(st.lists(st.text(), max_size=50), st.integers(2, 20))
def test_evenly_spaced_texts_keep_their_order_and_ends(texts: list[str], most: int) -> None:
    found = evenly(texts, most)
    assert len(found) == min(len(texts), most)
    if texts:
        assert (found[0], found[-1]) == (texts[0], texts[-1])
