"""Malformed answers: each is still a whole order, with the number of repairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.peers.reading import read_order

WHOLE = "[3] > [1] > [5] > [2] > [4]"
CASES = [
    (WHOLE, "31524", 0),
    ("[3]>[1]>[5]>[2]>[4]", "31524", 0),
    ("[3] [1] [5] [2] [4]", "31524", 0),
    ("[3], [1], [5], [2], [4]", "31524", 0),
    ("[3] → [1] → [5] → [2] → [4]", "31524", 0),
    ("[3]\n[1]\n[5]\n[2]\n[4]", "31524", 0),
    ("[ 3 ] > [ 1 ] > [ 5 ] > [2] > [4]", "31524", 0),
    ("[#3] > [#1] > [#5] > [#2] > [#4]", "31524", 0),
    ("3 > 1 > 5 > 2 > 4", "31524", 0),
    ("[3, 1, 5, 2, 4]", "31524", 0),
    (f"Here is the order you asked for: {WHOLE}. I hope that it helps!", "31524", 0),
    (f"I read [1] and [2] first. {WHOLE}", "31524", 0),
    (f"{WHOLE}\nThat is: [3] suits best and [4] least.", "31524", 0),
    (f"[1] Ash\n[2] Birch\n[3] Cedar\n[4] Dogwood\n[5] Elm\n\n{WHOLE}", "31524", 0),
    ("1. [3] Nineteen 84\n2. [1] Room 5\n3. [5] X\n4. [2] Y\n5. [4] Z", "31524", 0),
    ("[3] Catch-22 > [1] Apollo [4] > [5] 2001 > [2] 1984 > [4] Fahrenheit 451", "31524", 0),
    ("[3] (a novel of 1984) > [1] > [5] > [2] > [4]", "31524", 0),
    ("**[3]** > **[1]** > **[5]** > **[2]** > **[4]**", "31524", 0),
    ("```\n[3] > [1] > [5] > [2] > [4]\n```", "31524", 0),
    ("[3] > [1]", "31245", 3),
    ("[3] > [1] > ...", "31245", 3),
    ("[2] > [1] > ...\n[3] > [1] > [5] > [2] > [4]", "31524", 0),
    ("[3] > [3] > [1] > [1] > [5] > [2] > [4]", "31524", 2),
    ("[3] > [9] > [1] > [0] > [5] > [2] > [4]", "31524", 2),
    ("[3] > [1] > [5] > [2]", "31524", 1),
    ("The best one is [4].", "41235", 4),
    ("[4]", "41235", 4),
    ("[1] > [2] > [3] > [4] > [5] > [1] > [2] > [3] > [4] > [5]", "12345", 5),
    ("[3] > [1] > [5] > [2] > [4] > [3] > [1] > [", "31524", 2),
    ("[30] > [3] > [1] > [1984] > [5] > [2] > [4]", "31524", 2),
    (f"Die Reihenfolge der 5 Bücher lautet: {WHOLE}. Band [2] kennt er schon.", "31524", 0),
    (
        "\u9806\u4f4d\uff1a\uff3b\uff13\uff3d\uff1e\uff3b\uff11\uff3d\uff1e\uff3b\uff15\uff3d\uff1e\uff3b\uff12\uff3d\uff1e\uff3b\uff14\uff3d",
        "31524",
        0,
    ),
    (
        "\u30103\u3011\u3001\u30101\u3011\u3001\u30105\u3011\u3001\u30102\u3011\u3001\u30104\u3011",
        "31524",
        0,
    ),
    ("[\u0663] > [\u0661] > [\u0665] > [\u0662] > [\u0664]", "31524", 0),
    ("Order: [3]>[1]>[5]>[2]>[4] (of 5 books, 2 of them from 1984)", "31524", 0),
]


@pytest.mark.parametrize(("answer", "expected", "repairs"), CASES)
def test_an_answer_becomes_a_whole_order(answer: str, expected: str, repairs: int) -> None:
    found = read_order(answer, 5)
    assert found is not None
    assert "".join(str(place + 1) for place in found.places) == expected
    assert found.repairs == repairs


@pytest.mark.parametrize(
    "answer",
    [
        *("", "no", "I cannot say.", "[9] > [8]", "[0]", "Of 1984 I know nothing.", "1984, 2001"),
        "The list has 5 books.",
        "[three] > [one]",
        "Das dritte Buch passt am besten, dann das erste.",
        "Here are 4.5, 3.2 and 1.1 stars",
    ],
)
def test_an_answer_without_a_candidate_is_none(answer: str) -> None:
    assert read_order(answer, 5) is None


@given(st.text(alphabet="[]>0123456789 ,\na", max_size=60), st.integers(1, 30))
def test_whatever_is_read_is_a_permutation(answer: str, count: int) -> None:
    found = read_order(answer, count)
    if found is not None:
        assert sorted(found.places) == list(range(count))
        assert found.repairs >= 0
