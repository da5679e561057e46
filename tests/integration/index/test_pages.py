"""Pages of the catalogue, on both engines, against a list in memory."""

from typing import Any

import pytest

from p4r_qdrant import PersonaIndex
from p4r_qdrant.errors import InputError
from tests.support.index_data import personas, rows
from tests.support.oracle import matches

TITLES = ("Night Trains, across the Alps", "Alpine ROSES", "Épices et thé", "night-train", "")
ITEMS: dict[str, dict[str, Any]] = {
    f"item {number}": {
        "item_title": TITLES[number % len(TITLES)],
        "category": f"shelf-{number % 3}",
        "sale": bool(number % 2),
        "n": number,
    }
    for number in range(23)
}


@pytest.fixture
def filled(index: PersonaIndex) -> PersonaIndex:
    for number, (item_id, fields) in enumerate(ITEMS.items()):
        count = 1 + number % 3
        index.replace_item(item_id, personas(item_id, count), rows(number, count), fields)
    return index


def all_pages(index: PersonaIndex, limit: int, **wanted: Any) -> list[str]:
    """The item ids of all pages, each page checked on the way."""
    found: list[str] = []
    start = None
    while True:
        page = index.page(limit, start, **wanted)
        assert len(page.items) <= limit
        for item in page.items:
            assert [one.persona_id for one in item] == [
                one.persona_id for one in index.get(item[0].item_id)
            ]
        found += [item[0].item_id for item in page.items]
        if page.next is None:
            return found
        start = page.next


FILTERS: list[dict[str, Any] | None] = [
    None,
    {"category": "shelf-1"},
    {"category": ["shelf-1", "shelf-2"], "n": {"gt": 4}},
    {"category": {"not": "shelf-0"}},
    {"sale": True},
    {"sale": {"not": True}, "n": {"lte": 20}},
    {"category": "nowhere"},
    {"item_id": "item 7"},
]
WORDS: dict[str, set[int]] = {
    "NIGHT": {0, 3},
    "alps night": {0},
    "roses": {1},
    "THÉ": {2},
    "train": {3},
    "rains": set(),
    "   ": {0, 1, 2, 3, 4},
}
WRONG: list[tuple[int, str | None, str, str]] = [
    (0, None, "", "1 to 1000"),
    (1001, None, "", "1 to 1000"),
    (5, "17", "", "no point id"),
    (5, "' or 1=1", "", "no point id"),
    (5, None, "\ud800", "valid Unicode"),
]


def test_the_pages_hold_each_matching_item_once(filled: PersonaIndex) -> None:
    for wanted in FILTERS:
        right = [
            one for one, fields in ITEMS.items() if matches({"item_id": one, **fields}, wanted)
        ]
        for limit in (4, 23, 100):
            found = all_pages(filled, limit, filter=wanted)
            assert sorted(found) == sorted(right), wanted
        assert all_pages(filled, 5, filter=wanted) == found, "the order stays the same"
    for words, titles in WORDS.items():
        right = [one for number, one in enumerate(ITEMS) if number % len(TITLES) in titles]
        assert sorted(all_pages(filled, 6, words=words)) == sorted(right), words
    for limit, start, words, said in WRONG:
        with pytest.raises(InputError, match=said):
            filled.page(limit, start, words=words)


def test_an_item_that_goes_between_two_pages(filled: PersonaIndex) -> None:
    page = filled.page(5)
    for item in page.items:
        filled.delete_item(item[0].item_id)
    rest = filled.page(1000, page.next)
    assert len(rest.items) == len(ITEMS) - 5
    filled.delete_item(rest.items[0][0].item_id)  # the very one at which the page begins
    assert len(filled.page(1000, page.next).items) == len(ITEMS) - 6
