"""Texts that are longer than a model reads."""

from hypothesis import given
from hypothesis import strategies as st

from p4r_qdrant.encoder.lengths import Lengths, guessed_tokens

LIMIT = 30


def lengths() -> Lengths:
    """A tokenizer that makes a token of each word, and adds two."""
    return Lengths(LIMIT, lambda batch: [len(text.split()) + 2 for text in batch])


@given(
    summary=st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=80),
    words=st.lists(st.text("xyz", min_size=1, max_size=9), min_size=1, max_size=20),
)
def test_the_users_own_words_are_kept_whole(summary: list[str], words: list[str]) -> None:
    own = f"\nquality: {' '.join(words)}"
    counting = lengths()
    (read,) = counting.of_histories("query: ", [" ".join(summary) + own])
    assert read.startswith("query: ")
    assert read.endswith(own)
    assert len(read.split()) + 2 <= LIMIT
    kept = read.removeprefix("query: ").removesuffix(own).split()
    assert kept == summary[: len(kept)], "it ends with a whole word"
    is_long = len(summary) + len(words) + 4 > LIMIT
    assert counting.histories.long == is_long
    assert is_long or kept == summary


def test_own_words_that_are_too_long_alone_lose_the_summary_only() -> None:
    own = "\nquality: " + "salt " * 40
    assert lengths().of_histories("", [f"A novel.{own}"]) == [own]


def test_a_text_of_one_line_stays_for_the_model_to_cut() -> None:
    counting = lengths()
    assert counting.of_histories("", ["salt " * 40]) == ["salt " * 40]
    assert counting.histories.long == 1


def test_nothing_is_said_of_texts_that_fit() -> None:
    counting = lengths()
    counting.of_personas(["salt"])
    counting.of_histories("", ["salt"])
    assert counting.said() == []
    counting.of_personas(["salt " * 40])
    assert counting.said()[0].startswith("1 of 2 texts of personas are longer than the 30 tokens")
    assert counting.fresh().said() == []


def test_a_guess_is_more_than_there_are() -> None:
    assert guessed_tokens(["abc", "abcd", "海の本", ""]) == [1, 2, 3, 0]
