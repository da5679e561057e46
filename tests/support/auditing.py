"""A small catalogue whose audit can be computed by hand."""

from typing import Any

from tests.support.artifact_rows import aligned, aspect_tuple, persona
from tests.support.word_encoder import WordEncoder

Files = dict[str, list[Any]]


def catalogue() -> Files:
    return {
        "items": [{"item_id": one, "title": one.upper()} for one in "abc"],
        "aspects": [
            aspect_tuple("a", "u1", taste="tea", place=None),
            aspect_tuple("a", "u2", taste="book", place="sugar"),
            aspect_tuple("a", "u3", taste=None, place=" "),
            aspect_tuple("a", "u4", taste="tea"),
            aspect_tuple("b", "u1", taste="salt", place=None),
            aspect_tuple("b", "u2", taste="salt"),
            aspect_tuple("b", "u5", taste="salt"),
        ],
        "personas": [
            {
                "item_id": "a",
                "personas": [
                    persona("a_P1", "Tea Lover", ("tea", "tea"), "u1"),
                    persona("a_P2", "Book Lover", ("book", "book"), "u2", "u9", "u4"),
                ],
            },
            {
                "item_id": "b",
                "personas": [
                    persona("b_P1", "Salt Fan", ("salt", "salt")),
                    persona("b_P2", "tea  lover", ("salt tea", "salt"), "u1"),
                ],
            },
        ],
        "alignments": [
            aligned("u1", "a", "a_P1"),
            aligned("u2", "a", "a_P2", ""),
            aligned("u4", "a", "a_P1"),
            aligned("u1", "b", "b_P9"),
            aligned("u2", "b", "b_P1"),
            aligned("u5", "b", "b_P2"),
        ],
        "splits": [{"user_id": "u4", "test_item": "a", "valid_item": "z"}],
    }


def words() -> WordEncoder:
    return WordEncoder("tea", "book", "salt", "sugar")
