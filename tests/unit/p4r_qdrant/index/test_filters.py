"""The filter notation: what is understood, and what is said of the rest."""

import math
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge
from hypothesis import given
from hypothesis import strategies as st

from p4r_qdrant.errors import InputError, PersonaError
from p4r_qdrant.index.filters import Condition, check_types, indexed, parse
from tests.support.messages import sentence


@pytest.mark.parametrize(
    ("wanted", "conditions"),
    [
        (None, []),
        ({}, []),
        ({"language": "en"}, [Condition("language", ("en",))]),
        ({"stock": 0}, [Condition("stock", (0,))]),
        ({"sale": False}, [Condition("sale", (False,))]),
        ({"empty": ""}, [Condition("empty", ("",))]),
        ({"genre": ["crime", "noir"]}, [Condition("genre", ("crime", "noir"))]),
        ({"genre": ("crime",)}, [Condition("genre", ("crime",))]),
        ({"stock": {"gt": 0}}, [Condition("stock", gt=0.0)]),
        ({"price": {"gte": 1, "lt": 2.5}}, [Condition("price", gte=1.0, lt=2.5)]),
        ({"price": {"lte": np.float64(3)}}, [Condition("price", lte=3.0)]),
        ({"tenant": {"not": "b"}}, [Condition("tenant", ("b",), negated=True)]),
        ({"stock": {"not": [1, 2]}}, [Condition("stock", (1, 2), negated=True)]),
        (
            {"stock": {"not": 3, "gt": 0}},
            [Condition("stock", (3,), negated=True), Condition("stock", gt=0.0)],
        ),
        (
            {"a": "x", "b": {"lt": 1}},
            [Condition("a", ("x",)), Condition("b", lt=1.0)],
        ),
        ({"author.name": "x"}, [Condition("author.name", ("x",))]),
        ({"tags[]": "x"}, [Condition("tags[]", ("x",))]),
        ({"größe-2_x": 1}, [Condition("größe-2_x", (1,))]),
        ({"big": 2**63 - 1}, [Condition("big", (2**63 - 1,))]),
    ],
)
def test_what_is_understood(wanted: dict[str, Any] | None, conditions: list[Condition]) -> None:
    assert parse(wanted) == conditions
    assert [one.is_range for one in parse(wanted)] == [not one.any_of for one in conditions]


@pytest.mark.parametrize(
    "wild", [[["x" * 99] * 9] * 9, [{str(n): {"y" * 99: n} for n in range(9)}]]
)
def test_a_value_is_shown_in_part(wild: Any) -> None:
    for wanted in ({"x": wild}, {"x": {"gt": wild}}, {"x": {"not": wild}}):
        with pytest.raises(InputError) as caught:
            parse(wanted)
        sentence(caught)


def test_a_set_means_any_of_these() -> None:
    assert set(parse({"genre": {"crime", "noir"}})[0].any_of) == {"crime", "noir"}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"x": None}, "None is no text, whole number or truth value"),
        ({"x": 1.5}, "compare fractions with gte and lte"),
        ({"x": b"en"}, "is no text"),
        ({"x": []}, "an empty list matches nothing"),
        ({"x": {"not": []}}, "an empty list matches nothing"),
        ({"x": ["a", 1]}, "all texts or all numbers"),
        ({"x": [1, True]}, "all texts or all numbers"),
        ({"x": [True, False]}, "all texts or all numbers"),
        ({"x": [["a"]]}, "['a'] is no text"),
        ({"x": {}}, "nothing given, known are gt, gte, lt, lte and not"),
        ({"x": {"eq": 1}}, "['eq'] given, known are gt"),
        ({"x": {1: 2, "z": 3}}, "['1', 'z'] given, known are gt"),
        ({"x": {"gt": "1"}}, "'1' is no number"),
        ({"x": {"gt": None}}, "None is no number"),
        ({"x": {"gt": True}}, "True is no number"),
        ({"x": {"gt": math.nan}}, "nan is no number"),
        ({"x": {"lt": math.inf}}, "inf is no number"),
        ({"x": {"gt": 10**400}}, "is no number"),
        ({"x": {"not": {"gt": 1}}}, "is no text"),
        ({"x": 2**63}, "more than 64 bits"),
        ({"x": [1, -(2**63) - 1]}, "more than 64 bits"),
        ({"x": "\ud800"}, "not valid Unicode"),
    ],
)
def test_what_is_not_understood_is_told_with_its_field(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse(wanted)
    assert str(refusal.value).startswith("filter on 'x': ")
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "field",
    [
        "",
        " ",
        "a b",
        "a[",
        "a[x]",
        ".a",
        "a.",
        "a..b",
        "a/b",
        'a"b',
        "a\n",
        "🎻",
        "\ud800",
        5,
        None,
    ],
)
def test_a_field_that_qdrant_cannot_find(field: Any) -> None:
    with pytest.raises(InputError, match="letters, digits, _ and -"):
        parse({field: "x"})


@pytest.mark.parametrize("wanted", [[("language", "en")], "language", 5, ["language"]])
def test_what_is_no_filter_at_all(wanted: Any) -> None:
    with pytest.raises(InputError, match="a filter names fields"):
        parse(wanted)


@given(field=st.one_of(st.text(max_size=8), st.text("ab.[]0-_\"' é", max_size=8)))
def test_a_field_that_is_understood_is_one_for_qdrant(field: str) -> None:
    try:
        [condition] = parse({field: "x"})
    except InputError:
        return
    edge.FieldCondition(condition.field, match=edge.MatchValue("x"))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=2)
)
WANTED = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["gt", "gte", "lt", "lte", "not", "x"]), st.integers(0, 1)),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=5,
)


@given(wanted=WANTED)
def test_whatever_is_asked_is_understood_or_refused(wanted: Any) -> None:
    try:
        conditions = parse({"x": wanted})
    except InputError as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017 - either outcome is checked
        return
    assert conditions
    for condition in conditions:
        bounds = [condition.gt, condition.gte, condition.lt, condition.lte]
        assert condition.is_range == any(bound is not None for bound in bounds)
        assert len({type(value) for value in condition.any_of}) <= 1


# --- declared fields -----------------------------------------------------------------------------

DECLARED = {
    "genre": "keyword",
    "stock": "integer",
    "price": "float",
    "sale": "bool",
    "name": "text",
}


@pytest.mark.parametrize(
    "wanted",
    [
        {"genre": "crime"},
        {"genre": ["crime", "noir"]},
        {"genre": {"not": "crime"}},
        {"stock": 3},
        {"stock": [1, 2]},
        {"stock": {"gt": 0, "not": 3}},
        {"price": {"lte": 9.5}},
        {"sale": True},
    ],
)
def test_conditions_that_fit_declared_fields(wanted: dict[str, Any]) -> None:
    assert indexed(parse(wanted), DECLARED) == parse(wanted)


def test_a_whole_number_of_a_declared_fraction() -> None:
    assert indexed(parse({"price": 10}), DECLARED) == [Condition("price", gte=10.0, lte=10.0)]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"colour": "red"}, "P4R_INDEX__FIELDS=colour=keyword and run `p4r index`"),
        ({"pages": {"gt": 3}}, "P4R_INDEX__FIELDS=pages=float"),
        ({"new": True}, "P4R_INDEX__FIELDS=new=bool"),
        ({"name": "x"}, "P4R_INDEX__FIELDS=name=keyword"),
        ({"genre": 3}, "declared as keyword, which the value 3 cannot match"),
        ({"genre": {"lt": 3}}, "declared as keyword, which a comparison cannot match"),
        ({"stock": "3"}, "declared as integer, which the value '3' cannot match"),
        ({"price": [1, 2]}, "compare fractions with gte and lte"),
        ({"sale": 1}, "declared as bool"),
    ],
)
def test_conditions_that_do_not_fit(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        indexed(parse(wanted), DECLARED)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "payload",
    [
        {"genre": 3},
        {"genre": ["crime", 3]},
        {"stock": 3.5},
        {"stock": True},
        {"price": "9.99"},
        {"sale": 1},
    ],
)
def test_values_of_another_type_than_is_declared(payload: dict[str, Any]) -> None:
    with pytest.raises(PersonaError) as caught:
        check_types("item-1", payload, DECLARED)
    assert f"the field {next(iter(payload))!r} of item 'item-1' is declared as" in str(caught.value)


def test_values_that_are_as_declared() -> None:
    payload = {"genre": ["crime", None], "stock": None, "price": 3, "sale": False, "name": 3}
    check_types("item-1", payload, DECLARED)
    nested = {"offers": [{"price": "x"}, {"price": 3}]}
    with pytest.raises(PersonaError):
        check_types("item-1", nested, {"offers[].price": "float"})


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({".".join("a" * 1_000_000): 1}, "of 1000 characters at most"),
        ({"a" * 1001: 1}, "of 1000 characters at most"),
        ({f"n{number}": 1 for number in range(65)}, "64 fields, this one names 65"),
        ({"a": list(range(10_001))}, "10000 values, this one has 10001"),
        ({"a": {"not": ["x"] * 10_001}}, "10000 values"),
        ({"a": "x" * 1001}, "1000 characters, this one has 1001"),
        ({"a": ["x", "x" * 100_000]}, "1000 characters"),
        ({"a": {"x" * 100_000: 1}}, "known are gt"),
        ({"a": {"gt": "x" * 100_000}}, "is no number"),
        ({"a": [[1] * 100_000]}, "is no text"),
        (["x" * 100_000], "names fields"),
    ],
)
def test_a_filter_has_limits_and_its_refusal_is_short(wanted: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        parse(wanted)
    assert len(str(raised.value)) < 1200
