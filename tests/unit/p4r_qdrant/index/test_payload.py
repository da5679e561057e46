"""Points: their ids for good, their payload in order, and what is refused before a write."""

import json
import math
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p4r_qdrant.errors import InputError, PersonaError, VectorError
from p4r_qdrant.index.payload import (
    MAX_DEPTH,
    OWN_FIELDS,
    ItemVectors,
    Point,
    check_vectors,
    content_hash,
    make_points,
    point_id,
    point_prefix,
    stored_persona,
)
from p4r_qdrant.records import Persona
from tests.support.oracle import ITEM_IDS, persona

DIMENSION = 3
GENERATION = 1_700_000_000_123_456


def points(
    personas: list[Persona] | None = None, vectors: Any = None, item_id: str = "a", **fields: Any
) -> list[Point]:
    personas = [persona("p1"), persona("p2")] if personas is None else personas
    vectors = np.eye(8, DIMENSION)[: len(personas)] + 0.5 if vectors is None else vectors
    return make_points(
        ItemVectors(item_id, personas, vectors, fields),
        generation=GENERATION,
        dimension=DIMENSION,
        max_personas=7,
    )


def with_fields(fields: dict[Any, Any]) -> list[Point]:
    item = ItemVectors("a", [persona("p")], [[1, 0, 0]], fields)
    return make_points(item, generation=1, dimension=3, max_personas=7)


# --- ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item_id", "prefix"),
    [
        ("salt-orchard", "9cf66665-5fb6-8221-85f2-d2d530a545"),
        ("17", "06f54429-b18d-83f7-827d-438f1554dc"),
        ("émoji 🎻", "ed101c38-1202-89ba-86ad-ee1099e9a5"),
    ],
)
def test_point_ids_never_change(item_id: str, prefix: str) -> None:
    """Pinned: another value would leave every stored index with points that nobody finds."""
    assert point_prefix(item_id) == prefix
    assert point_id(item_id, 0) == f"{prefix}00"
    assert point_id(item_id, 255) == f"{prefix}ff"


@given(item_id=ITEM_IDS, slot=st.integers(0, 255))
def test_a_point_id_is_a_uuid_that_names_its_item(item_id: str, slot: int) -> None:
    name = point_id(item_id, slot)
    assert str(uuid.UUID(name)) == name
    assert uuid.UUID(name).version == 8
    assert uuid.UUID(name).variant == uuid.RFC_4122
    assert name[:-2] == point_prefix(item_id)
    assert int(name[-2:], 16) == slot


@given(item_ids=st.lists(ITEM_IDS, unique=True))
def test_different_items_have_different_points(item_ids: list[str]) -> None:
    assert len({point_prefix(item_id) for item_id in item_ids}) == len(item_ids)


# --- payload -----------------------------------------------------------------------------------


def test_the_payload_is_in_the_order_people_read_it() -> None:
    one = points(
        price=9.5, summary="S", author={"name": "x"}, item_title="T", category="c", domain="d"
    )
    assert list(one[0].payload) == [
        "name",
        "item_title",
        "category",
        "summary",
        "domain",
        "preference_rationale",
        "description",
        "price",
        "author",
        "item_id",
        "persona_id",
        "evidence_count",
        "extractive",
        "slot",
        "generation",
        "updated_at",
        "content_hash",
    ]


def test_an_extractive_persona_says_so_also_where_it_was_stored_without() -> None:
    told = Persona(persona_id="a_P1", name="N", description="D.", preference_rationale="R.")
    quoted = told.model_copy(update={"extractive": True})
    [point], [other] = points([quoted]), points([told])
    assert point.payload["extractive"] is stored_persona(point.payload).extractive is True
    assert stored_persona(point.payload).label == "N (extractive)"
    assert content_hash([quoted], {}) != content_hash([told], {})
    del other.payload["extractive"]  # as an earlier version wrote it
    assert not stored_persona(other.payload).extractive
    assert stored_persona(other.payload).label == "N"


def test_the_payload_is_what_the_persona_says() -> None:
    told = Persona(
        persona_id="a_P1",
        name="N",
        description="D.",
        preference_rationale="This persona appreciates this item because it is short.",
        evidence=["u1", "u2"],
    )
    [point] = points([told], language="en")
    assert point.payload == {
        "name": "N",
        "preference_rationale": "It is short.",
        "description": "D.",
        "language": "en",
        "item_id": "a",
        "persona_id": "a_P1",
        "evidence_count": 2,
        "extractive": False,
        "slot": 0,
        "generation": GENERATION,
        "updated_at": "2023-11-14T22:13:20+00:00",
        "content_hash": content_hash([told], {"language": "en"}),
    }
    back = stored_persona(point.payload)
    assert (back.item_id, back.persona_id, back.name) == ("a", "a_P1", "N")
    assert back.preference_rationale == "It is short."
    assert back.fields == {
        "language": "en",
        "evidence_count": 2,
        "extractive": False,
        "updated_at": "2023-11-14T22:13:20+00:00",
    }


def test_points_are_numbered_and_normalised() -> None:
    made = points(vectors=[[3, 0, 4], [0, 1e-5, 0]])
    assert [point.id for point in made] == [point_id("a", 0), point_id("a", 1)]
    assert [point.payload["slot"] for point in made] == [0, 1]
    assert made[0].vector.dtype == np.float32
    np.testing.assert_allclose(made[0].vector, [0.6, 0, 0.8], atol=1e-7)
    np.testing.assert_allclose(made[1].vector, [0, 1, 0], atol=1e-7)


@pytest.mark.parametrize("count", [1, 7])
def test_one_to_seven_personas(count: int) -> None:
    assert len(points([persona(f"p{number}") for number in range(count)])) == count


@pytest.mark.parametrize("count", [8, 50])
def test_too_many_personas(count: int) -> None:
    with pytest.raises(PersonaError, match=f"item 'a' has {count} personas, at most 7"):
        points([persona(f"p{number}") for number in range(count)], np.ones((count, DIMENSION)))


def test_no_personas() -> None:
    with pytest.raises(PersonaError, match=r"item 'a' has no personas; .* remove it"):
        points([], np.ones((0, DIMENSION)))


def test_a_persona_id_twice() -> None:
    with pytest.raises(PersonaError, match="item 'a' has the persona id 'p' twice"):
        points([persona("p"), persona("q"), persona("p")])


@pytest.mark.parametrize("item_id", ["", "a\nb", " a", "\ud800", "x" * 10_000])
def test_an_item_id_that_is_none(item_id: str) -> None:
    with pytest.raises(PersonaError, match="item id refused: "):
        points(item_id=item_id)


# --- vectors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.ones((3, DIMENSION)), "has 2 personas but 3 vectors"),
        (np.ones((1, DIMENSION)), "has 2 personas but 1 vectors"),
        (np.ones((2, 4)), r"have the shape \(2, 4\), the index needs \(n, 3\)"),
        (np.ones(DIMENSION), r"have the shape \(3,\)"),
        (np.ones((2, DIMENSION, 1)), "have the shape"),
        ([], "have the shape"),
        ([[1, 0, 0], [1, 0]], "not rows of numbers of one width"),
        ([["a", "b", "c"], ["d", "e", "f"]], "not rows of numbers"),
        ([[1, 0, 0], [0, 0, 0]], "vector 1 of item 'a' is zero"),
        ([[1, 0, 0], [1e-30, 0, 0]], "vector 1 of item 'a' is zero"),
        ([[math.nan, 0, 0], [1, 0, 0]], "vector 0 of item 'a' holds NaN or infinity"),
        ([[1, 0, 0], [1, math.inf, 0]], "vector 1 of item 'a' holds NaN or infinity"),
        ([[1, 0, 0], [1, None, 0]], "vector 1 of item 'a' holds NaN or infinity"),
        ([[1, 0, 0], [1e39, 0, 0]], "vector 1 of item 'a' holds NaN or infinity"),
        (np.array([[1, 0, 0], [1e300, 0, 0]]), "vector 1 of item 'a' holds NaN or infinity"),
    ],
)
def test_vectors_that_cannot_be_compared(vectors: Any, said: str) -> None:
    with pytest.raises(VectorError, match=said):
        points(vectors=vectors)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int8", "bool"])
def test_any_kind_of_number_will_do(kind: str) -> None:
    rows = np.array([[1, 0, 0], [0, 1, 1]]).astype(kind)
    unit = check_vectors(rows, DIMENSION, "x")
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)


@given(
    rows=st.lists(
        st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=3, max_size=3), max_size=4
    )
)
def test_vectors_come_out_with_length_one_or_not_at_all(rows: list[list[float]]) -> None:
    try:
        unit = check_vectors(rows, DIMENSION, "x")
    except VectorError:
        return
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)


def test_the_callers_vectors_stay_as_they_are() -> None:
    rows = np.array([[3.0, 0, 4], [0, 2, 0]], dtype=np.float32)
    before = rows.copy()
    points(vectors=rows)
    np.testing.assert_array_equal(rows, before)


# --- fields of the caller's own ----------------------------------------------------------------


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize("name", sorted(OWN_FIELDS))
def test_reserved_names(name: str) -> None:
    with pytest.raises(PersonaError, match=f"the field '{name}' of item 'a' is one the index"):
        with_fields({name: 1})


@pytest.mark.parametrize("name", ["", 5, None])
def test_names_that_are_none(name: Any) -> None:
    with pytest.raises(PersonaError, match="give it another name"):
        with_fields({name: 1})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "not JSON"),
        ([1, {"x": -math.inf}], "not JSON"),
        (b"bytes", "not JSON"),
        ({1, 2}, "not JSON"),
        (object(), "not JSON"),
        (np.float32(1), "not JSON"),
        ("\ud800", "not JSON"),
        ({"\udcff": 1}, "not JSON"),
        (nested(10_000), "not JSON"),
        (nested(MAX_DEPTH + 1), "'field' of item 'a' is nested deeper than 16 levels"),
        (2**63, "'field' of item 'a' holds a number of more than 64 bits"),
        ([{"x": -(2**63) - 1}], "'field' of item 'a' holds a number of more than 64 bits"),
    ],
)
def test_values_that_cannot_be_stored(value: Any, said: str) -> None:
    with pytest.raises(PersonaError, match=said):
        points(field=value)


def test_a_list_that_holds_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(PersonaError, match="not JSON"):
        points(field=endless)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ((1, 2), [1, 2]),
        ({1: "x"}, {"1": "x"}),
        (True, True),
        (None, None),
        (-(2**63), -(2**63)),
        (0.1, 0.1),
        ("a\x00b 🎻", "a\x00b 🎻"),
        (nested(MAX_DEPTH), nested(MAX_DEPTH)),
    ],
)
def test_values_are_stored_as_plain_json(value: Any, stored: Any) -> None:
    [first, _] = points(field=value)
    assert first.payload["field"] == stored
    assert type(first.payload["field"]) is type(stored)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(codec=None))
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(fields=st.dictionaries(st.text(max_size=6), JSON, max_size=4))
def test_any_fields_are_stored_as_they_are_or_refused(fields: dict[str, Any]) -> None:
    try:
        [point] = with_fields(fields)
    except InputError as refusal:
        assert "item 'a'" in str(refusal)  # noqa: PT017 - either outcome is checked
        return
    assert {name: point.payload[name] for name in fields} == fields
    json.dumps(point.payload, allow_nan=False).encode()


# --- content hash ------------------------------------------------------------------------------


def test_the_content_hash_never_changes() -> None:
    """Pinned: another value would have every item of every index encoded and written again."""
    assert content_hash([persona("p")], {"language": "en", "price": 9.5}) == "1-6d69445e5693fd5e"


def test_the_content_hash_follows_what_is_stored() -> None:
    base = persona("p")
    hashes = {
        content_hash([base], {}),
        content_hash([base], {"x": 1}),
        content_hash([base], {"x": 2}),
        content_hash([base], {"x": "1"}),
        content_hash([base, persona("q")], {}),
        content_hash([persona("q"), base], {}),
        *(
            content_hash([base.model_copy(update={name: value})], {})
            for name, value in {
                "persona_id": "other",
                "name": "other",
                "description": "other",
                "preference_rationale": "other",
                "evidence": ["u"],
            }.items()
        ),
    }
    assert len(hashes) == 11


def test_the_order_of_fields_does_not_count() -> None:
    assert content_hash([persona("p")], {"a": 1, "b": {"c": 1, "d": 2}}) == content_hash(
        [persona("p")], {"b": {"d": 2, "c": 1}, "a": 1}
    )


def test_the_content_hash_tells_the_number_of_points() -> None:
    """By it `PersonaIndex.hashes` knows an item that is not there whole."""
    for count in (1, 7):
        digest = content_hash([persona(f"p{number}") for number in range(count)], {})
        assert digest.startswith(f"{count}-")


def test_points_carry_the_hash_of_the_artifact() -> None:
    """What `publish` computes from the file is what the index holds: else nothing is skipped."""
    fields = json.loads('{"price": 1e2, "tags": ["a"], "n": {"x": null}, "big": 1e300}')
    personas = [persona("p1"), persona("p2")]
    assert points(personas, **fields)[0].payload["content_hash"] == content_hash(personas, fields)
