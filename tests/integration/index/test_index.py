"""What both engines promise: the same tests on either, readers and writers at once included."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from devtools.qdrant_process import QdrantServer
from p4r_qdrant import Persona, PersonaIndex, Settings, open_index
from p4r_qdrant.errors import (
    IndexMismatchError,
    IndexUnavailableError,
    InputError,
    PersonaError,
    VectorError,
)
from p4r_qdrant.index.payload import ItemVectors
from tests.support.background import in_background
from tests.support.engines import on_server, opened
from tests.support.index_data import USER, personas, rows
from tests.support.messages import sentence
from tests.support.oracle import (
    DIMENSION,
    Catalogue,
    assert_congruent,
    brute_force,
    persona,
)

# --- one item after another ----------------------------------------------------------------------


def test_an_item_is_written_read_replaced_and_deleted(index: PersonaIndex) -> None:
    assert index.get("a") == []
    assert index.hashes(["a"]) == {}
    assert list(index.items()) == []
    assert (index.stats().items, index.stats().personas) == (0, 0)

    assert index.replace_item("a", personas("old", 5), rows(1, 5), {"language": "en"})
    assert index.replace_item("b", personas("other", 2), rows(2, 2))
    found = index.get("a")
    assert [one.persona_id for one in found] == [f"old_P{slot}" for slot in range(5)]
    assert {one.item_id for one in found} == {"a"}
    assert found[0].name == "Name of old_P0"
    assert found[0].preference_rationale == "Reason text"
    assert found[0].fields["language"] == "en"
    assert (index.stats().items, index.stats().personas) == (2, 7)
    before = index.hashes(["a", "b", "c"])
    assert set(before) == {"a", "b"}

    assert index.replace_item("a", personas("new", 2), rows(3, 2))
    assert [one.persona_id for one in index.get("a")] == ["new_P0", "new_P1"]
    assert "language" not in index.get("a")[0].fields
    assert index.hashes(["a"])["a"] != before["a"]
    assert index.hashes(["b"])["b"] == before["b"]
    assert index.replace_item("a", personas("old", 5), rows(1, 5), {"language": "en"})
    assert index.hashes(["a"]) == {"a": before["a"]}, "the same content, the same hash"
    catalogue = Catalogue({"a": rows(1, 5), "b": rows(2, 2)})
    assert_congruent(index, catalogue, [USER], [["b", "c", "a"]])

    assert index.delete_item("a")
    assert not index.delete_item("a")
    assert index.get("a") == []
    assert [[one.item_id for one in item] for item in index.items()] == [["b", "b"]]
    (ranking,) = index.best_personas([USER], [["a", "b"]])
    assert [one.item_id for one in ranking] == ["b", "a"]
    assert ranking[1].score is None
    assert ranking[1].persona is None


def test_all_items_come_each_whole_and_once(index: PersonaIndex) -> None:
    catalogue = Catalogue({f"item-{n}": rows(n, 1 + n % 7) for n in range(700)})
    index.load(catalogue.rows())
    found = {item[0].item_id: [one.persona_id for one in item] for item in index.items()}
    assert len(list(index.items())) == 700
    assert found == {
        item_id: [f"{item_id}_P{slot}" for slot in range(len(own))]
        for item_id, own in catalogue.vectors.items()
    }
    assert len(index.hashes(list(catalogue.vectors))) == 700


def test_a_whole_batch_of_wide_vectors_is_written(index_settings: Settings) -> None:
    """256 items of 7 personas with 1024 dimensions are 40 MB of JSON; a request may have 32."""
    width = 1024
    unit = np.random.default_rng(1).standard_normal((256 * 7, width))
    catalogue = Catalogue({f"i{n}": unit[7 * n : 7 * n + 7] for n in range(256)})
    with opened(index_settings, width) as index:
        for _ in range(2):  # new items, and items that are there
            assert index.load(catalogue.rows()) == 256
        assert (index.stats().items, index.stats().personas) == (256, 256 * 7)
        assert_congruent(index, catalogue, unit[:2] + unit[9:11], [list(catalogue.vectors)] * 2)


def test_nothing_asked_is_nothing_answered(index: PersonaIndex) -> None:
    index.replace_item("a", personas("a", 2), rows(1, 2))
    assert index.hashes([]) == {}
    assert index.best_personas(np.zeros((0, DIMENSION)), []) == []
    assert index.best_personas([USER, USER], [[], ["a"]])[0] == []
    assert index.load([]) == 0
    assert index.explain([]) == []


def test_only_the_first_matches_are_explained_and_with_vectors_if_asked(
    index: PersonaIndex,
) -> None:
    catalogue = Catalogue({f"i{n}": rows(n, 3) for n in range(5)})
    index.load(catalogue.rows())
    (ranking,) = index.best_personas([USER], [list(catalogue.vectors)], explain=2)
    assert [one.persona is not None for one in ranking] == [True, True, False, False, False]
    (plain,) = index.best_personas([USER], [list(catalogue.vectors)], explain=0)
    assert [one.score for one in plain] == [one.score for one in ranking]
    (shown,) = index.best_personas([USER], [list(catalogue.vectors)], with_vectors=True)
    for match in shown:
        assert match.score is not None
        unit = USER / np.linalg.norm(USER)
        assert abs(float(match.vector @ unit) - match.score) < 1e-5
    assert index.explain(plain) == index.best_personas([USER], [list(catalogue.vectors)])[0]


# --- names and fields ----------------------------------------------------------------------------


WILD_IDS = [
    "🎻 émoji",
    "quote'\"\\",
    "{}[]*?",
    "a/b?c#d&e=f",
    "0",
    "null",
    "true",
    "-1",
    "x" * 512,
    "漢" * 512,
]


def test_any_text_can_be_an_item_id(index: PersonaIndex) -> None:
    for seed, item_id in enumerate(WILD_IDS):
        index.replace_item(item_id, personas(f"{seed}", 3), rows(seed, 3))
    (ranking,) = index.best_personas([USER], [WILD_IDS])
    catalogue = Catalogue({item_id: rows(seed, 3) for seed, item_id in enumerate(WILD_IDS)})
    truth = brute_force(catalogue, USER, WILD_IDS)
    assert {one.item_id: one.score for one in ranking} == {
        item_id: pytest.approx(max(scores), abs=2e-6) for item_id, scores in truth.items()
    }
    for left, item_id in reversed(list(enumerate(WILD_IDS))):
        assert {one.item_id for one in index.get(item_id)} == {item_id}
        assert index.delete_item(item_id)
        assert index.get(item_id) == []
        assert index.stats().items == left


def test_ids_that_look_alike_are_different_items(index: PersonaIndex) -> None:
    alike = ["1", "01", "1.0", "1e0", "+1", "\uff11", "a", "A", "á", "a\u0301", "1 1", "1  1"]
    catalogue = Catalogue({one: rows(seed, 2) for seed, one in enumerate(alike)})
    index.load(catalogue.rows())
    assert_congruent(index, catalogue, [USER], [alike])
    assert index.delete_item("01")
    assert len(index.get("1")) == 2
    assert index.stats().items == len(alike) - 1


def test_an_id_that_cannot_be_one_is_refused_as_item_and_unknown_as_candidate(
    index: PersonaIndex,
) -> None:
    index.replace_item("a", personas("a", 1), rows(1, 1))
    for wrong in ("x" * 10_000, "", " a", "a\n", "a\x00"):
        with pytest.raises(PersonaError) as caught:
            index.replace_item(wrong, personas("p", 1), rows(1, 1))
        assert "id" in sentence(caught)
        with pytest.raises(PersonaError):
            index.delete_item(wrong)
        assert index.get(wrong) == []
        (ranking,) = index.best_personas([USER], [["a", wrong]])
        assert [one.item_id for one in ranking] == ["a", wrong]
        assert ranking[1].score is None
    assert index.stats().items == 1


def test_what_is_no_text_is_refused_as_candidate(index: PersonaIndex) -> None:
    index.replace_item("1", personas("a", 1), rows(1, 1))
    wrong: Any
    for wrong in ("\ud800", 1, None, b"1"):
        with pytest.raises(InputError) as caught:
            index.best_personas([USER], [["1", wrong]])
        assert repr(wrong) in str(caught.value)
    for ids in ("1", ["1"]):
        with pytest.raises(InputError):
            index.best_personas([USER], ids)
    assert index.get("\ud800") == []
    assert index.hashes(["\ud800", "1"]).keys() == {"1"}


FIELDS: dict[str, Any] = {
    "z_last": "kept",
    "category": "crime",
    "price": 9.99,
    "stock": -3,
    "sale": True,
    "none": None,
    "tags": ["noir", "émoji 🎻"],
    "nested": {"b": [1, {"c": None}], "a": "x"},
    "item_title": "The Title",
    "2^53": 2**53,
}


def test_the_callers_fields_come_back_as_they_were(index: PersonaIndex) -> None:
    index.replace_item("a", personas("a", 2), rows(1, 2), FIELDS)
    for found in (*index.get("a"), index.best_personas([USER], [["a"]])[0][0].persona):
        assert found is not None
        assert {name: found.fields[name] for name in FIELDS} == FIELDS
        assert {name: type(found.fields[name]) for name in FIELDS} == {
            name: type(value) for name, value in FIELDS.items()
        }
        assert set(found.fields) - set(FIELDS) == {"evidence_count", "extractive", "updated_at"}


FILTERS: list[tuple[dict[str, Any], str]] = [
    ({"language": "en"}, "ac"),
    ({"language": ["de", "fr"]}, "b"),
    ({"language": {"not": "en"}}, "bd"),
    ({"stock": {"gt": 1}, "language": "en"}, "c"),
    ({"stock": {"gte": 1, "lt": 5}}, "ab"),
    ({"sale": True}, "a"),
    ({"sale": {"not": True}}, "bcd"),
    ({"tags": "noir"}, "ab"),
    ({"nobody": "has this"}, ""),
    ({"category": "crime"}, "d"),
    ({}, "abcd"),
]


def test_a_filter_keeps_candidates_and_leaves_the_others_without_a_score(
    index: PersonaIndex,
) -> None:
    fields: dict[str, dict[str, Any]] = {
        "a": {"language": "en", "stock": 1, "sale": True, "tags": ["noir", "war"]},
        "b": {"language": "de", "stock": 2, "sale": False, "tags": ["noir"]},
        "c": {"language": "en", "stock": 5},
        "d": {"category": "crime", "tags": []},
    }
    catalogue = Catalogue({one: rows(ord(one), 3) for one in "abcd"}, fields)
    index.load(catalogue.rows())
    for wanted, items in FILTERS:
        assert_congruent(index, catalogue, [USER], [list("abcd")], wanted)
        (ranking,) = index.best_personas([USER], [list("abcd")], wanted)
        assert {one.item_id for one in ranking if one.score is not None} == set(items), wanted


def test_declared_fields_stay_with_the_index(index_settings: Settings) -> None:
    """Who reads needs no setting; a field that nobody declared is refused, on both engines."""
    declared = Settings.load(
        qdrant=index_settings.qdrant.model_dump(), index={"fields": "year=integer,price=float"}
    )
    silent = Settings.load(qdrant=index_settings.qdrant.model_dump())
    catalogue = Catalogue({"a": rows(1, 2), "b": rows(2, 1)}, {"a": {"year": 1999, "price": 3}})
    with opened(silent) as index:
        index.load(catalogue.rows())
        with pytest.raises(InputError) as caught:
            index.best_personas([USER], [["a"]], {"year": 1999})
        assert "P4R_INDEX__FIELDS=year=integer" in sentence(caught)
    opened(declared).close()
    with open_index(silent) as index:
        matching: list[dict[str, Any]] = [{"year": 1999}, {"price": 3}, {"year": {"lt": 1999}}]
        for wanted in matching:
            assert_congruent(index, catalogue, [USER], [["a", "b"]], wanted)
        wrong: list[dict[str, Any]] = [{"yeer": 1}, {"price": "3"}, {"year": "2"}]
        for wanted in [*wrong, {"price": [3, 4]}]:
            with pytest.raises(InputError) as caught:
                index.best_personas([USER], [["a"]], wanted)
            assert str(next(iter(wanted))) in sentence(caught)
        assert "year (integer)" in index.stats().details["filters on"]
        with pytest.raises(PersonaError) as refused:
            index.replace_item("c", personas("c", 1), rows(3, 1), {"year": "soon"})
        assert "'year' of item 'c' is declared as integer" in sentence(refused)


def test_a_payload_opens_with_what_people_look_for(
    qdrant_server: QdrantServer, collection_name: str
) -> None:
    """The dashboard reads over REST and shows the keys in this order."""
    with opened(on_server(qdrant_server, collection_name)) as index:
        for number in range(3):  # a fresh one and one that was replaced
            index.replace_item("a", personas(f"v{number}", 2), rows(number, 2), FIELDS)
        rest = {one: value for one, value in FIELDS.items() if one != "item_title"}
        index.load([ItemVectors("b", personas("b", 2), rows(9, 2), rest)])
    path = f"/collections/{collection_name}/points/scroll"
    found = qdrant_server.request("POST", path, {"with_payload": True})["result"]["points"]
    by_item = {point["payload"]["item_id"]: list(point["payload"]) for point in found}
    assert len(found) == 4
    assert by_item["a"][:5] == [
        "name",
        "item_title",
        "category",
        "preference_rationale",
        "description",
    ]
    assert by_item["b"][:4] == ["name", "category", "preference_rationale", "description"]
    assert by_item["b"][4] == "z_last"
    assert all("unsettled" not in keys for keys in by_item.values())


# --- what is refused -----------------------------------------------------------------------------

NAN = [[float("nan"), *[1.0] * (DIMENSION - 1)]]


REFUSED: list[tuple[list[Persona], Any, str]] = [
    (personas("p", 1), NAN, "NaN"),
    (personas("p", 1), [[float("inf")] * DIMENSION], "infinity"),
    (personas("p", 2), [[1.0] * DIMENSION, [0.0] * DIMENSION], "vector 1"),
    (personas("p", 1), [[1.0] * (DIMENSION + 1)], str(DIMENSION + 1)),
    (personas("p", 1), [1.0] * DIMENSION, "shape"),
    (personas("p", 1), [["a"] * DIMENSION], "numbers"),
    (personas("p", 2), [[1.0] * DIMENSION, [1.0]], "width"),
    (personas("p", 2), [[1.0] * DIMENSION], "2 personas but 1 vectors"),
    ([], np.zeros((0, DIMENSION)), "no personas"),
    (personas("p", 8), rows(1, 8), "8 personas"),
    ([persona("same"), persona("same")], rows(1, 2), "'same' twice"),
]


class Refused:
    def __init__(self) -> None:
        self.what: list[tuple[str, type[InputError]]] = []

    def __call__(self, item: ItemVectors, error: InputError) -> None:
        self.what.append((item.item_id, type(error)))


def test_what_cannot_be_indexed_writes_nothing(index: PersonaIndex) -> None:
    catalogue = Catalogue({"a": rows(1, 3)})
    index.load(catalogue.rows())
    before = list(index.items())
    for written, vectors, words in REFUSED:
        with pytest.raises((VectorError, PersonaError)) as caught:
            index.replace_item("a", written, vectors)
        assert words in sentence(caught)
        assert "'a'" in str(caught.value)
        good = ItemVectors("good", personas("good", 1), rows(2, 1))
        bad = ItemVectors("bad", written, vectors)
        with pytest.raises((VectorError, PersonaError)):
            index.load([good, bad, good])
        assert list(index.items()) == before, "the good part of a refused call was written"
        assert_congruent(index, catalogue, [USER], [["a", "good", "bad"]])

        refused = Refused()
        assert index.load([good, bad], refused) == 1
        assert refused.what == [("bad", type(caught.value))]
        assert index.get("bad") == []
        assert index.delete_item("good")


def test_unwanted_personas_go_and_the_others_keep_their_vectors(index: PersonaIndex) -> None:
    own = rows(1, 5)
    names = ("x_P0", "a_P0", "a_P1", "x_P1", "a_P2")
    index.replace_item("a", [persona(one) for one in names], own, {"stock": 4})
    index.replace_item("b", personas("b", 2), rows(2, 2))
    dropped = index.drop_personas(
        ["a", "b", "nothing"], lambda one: not one.persona_id.startswith("a_")
    )
    assert dropped == 4
    assert [one.persona_id for one in index.get("a")] == ["a_P0", "a_P1", "a_P2"]
    assert index.get("a")[0].fields["stock"] == 4
    assert index.get("b") == []
    left = Catalogue({"a": own[[1, 2, 4]]})
    assert_congruent(index, left, [USER], [["a", "b"]])
    assert_congruent(index, left, [USER], [["a", "b"]], {})
    assert index.repair() == 0
    assert list(index.written()) == ["a"]


def test_fields_that_cannot_be_stored_write_nothing(index: PersonaIndex) -> None:
    fields: dict[str, Any]
    for fields in ({"name": "x"}, {"": 1}, {"x": {1, 2}}, {"x": float("nan")}, {"x": 2**64}):
        with pytest.raises(PersonaError) as caught:
            index.replace_item("a", personas("p", 1), rows(1, 1), fields)
        assert "'a'" in sentence(caught)
        assert index.get("a") == []


def test_a_user_vector_of_another_width_is_refused(index: PersonaIndex) -> None:
    for wrong in ([[1.0] * 3], [[0.0] * DIMENSION], NAN, [1.0] * DIMENSION):
        with pytest.raises(VectorError) as caught:
            index.best_personas(wrong, [["a"]])
        assert "users" in sentence(caught)
    with pytest.raises(InputError):
        index.best_personas([USER], [["a"], ["b"]])
    with pytest.raises(InputError) as too_many:
        index.best_personas([USER], [[str(number) for number in range(10_001)]])
    assert "10000" in sentence(too_many)


# --- opening -------------------------------------------------------------------------------------


def test_what_is_written_is_there_when_opened_again(index_settings: Settings) -> None:
    catalogue = Catalogue({f"i{n}": rows(n, 1 + n % 7) for n in range(50)})
    with opened(index_settings) as index:
        index.load(catalogue.rows())
        index.delete_item("i7")
        made = index.metadata
    del catalogue.vectors["i7"]
    with open_index(index_settings) as index:
        assert index.metadata == made
        assert made.fingerprint == "test"
        assert made.encoder == "by hand"
        assert_congruent(index, catalogue, [USER], [[f"i{n}" for n in range(52)]])
        assert index.stats().items == 49


def test_another_encoder_is_refused_and_both_are_named(index_settings: Settings) -> None:
    opened(index_settings).close()
    with pytest.raises(IndexMismatchError) as caught:
        open_index(index_settings, dimension=DIMENSION, fingerprint="another")
    assert "fingerprint test," in sentence(caught)
    assert "fingerprint another," in sentence(caught)
    with pytest.raises(IndexMismatchError):
        open_index(
            index_settings, dimension=DIMENSION, fingerprint="another", encoder="x", create=True
        )
    with pytest.raises(IndexMismatchError) as caught:
        opened(index_settings, DIMENSION + 1)
    assert f"{DIMENSION} dimensions" in sentence(caught)
    assert f"{DIMENSION + 1} dimensions" in sentence(caught)
    with opened(index_settings) as index:  # and none of this has left anything open or changed
        assert index.metadata.fingerprint == "test"


def test_an_index_that_is_not_there_is_not_made_by_reading(index_settings: Settings) -> None:
    for _ in range(2):
        with pytest.raises(IndexMismatchError) as caught:
            open_index(index_settings, dimension=DIMENSION, fingerprint="test")
        assert "p4r index" in sentence(caught)
    assert not index_settings.qdrant.path.exists()
    with pytest.raises(InputError):
        open_index(index_settings, create=True)


def test_closing_twice_is_fine_and_a_closed_index_says_so(index_settings: Settings) -> None:
    index = opened(index_settings)
    index.replace_item("a", personas("a", 2), rows(1, 2))
    index.close()
    index.close()
    attempts: list[Callable[[], object]] = [
        lambda: index.replace_item("a", personas("b", 1), rows(2, 1)),
        lambda: index.best_personas([USER], [["a"]]),
        lambda: index.get("a"),
        lambda: index.delete_item("a"),
        index.stats,
    ]
    for attempt in attempts:
        with pytest.raises(IndexUnavailableError) as caught:
            attempt()
        assert "closed" in sentence(caught)
    with opened(index_settings) as again:
        assert [one.persona_id for one in again.get("a")] == ["a_P0", "a_P1"]


# --- readers and writers at once -----------------------------------------------------------------


def test_a_reader_never_misses_an_item_that_is_being_replaced(index: PersonaIndex) -> None:
    """200 replacements by 1 to 7 personas; every answer is of a generation that was written."""
    versions = {f"v{n}": rows(n, 1 + n * 3 % 7) for n in range(200)}
    scores = {
        f"{name}_P{slot}": score
        for name, own in versions.items()
        for slot, score in enumerate(brute_force(Catalogue({name: own}), USER, [name])[name])
    }
    steady = Catalogue({"steady": rows(999, 3)})
    index.load(steady.rows())
    index.replace_item("moving", personas("v0", len(versions["v0"])), versions["v0"])
    known = np.array(sorted(scores.values()))

    def read() -> None:
        (ranking,) = index.best_personas([USER], [["moving", "missing", "steady"]])
        found = {one.item_id: one for one in ranking}
        assert found["missing"].score is None
        assert found["steady"].persona is not None
        moving = found["moving"]
        assert moving.score is not None, "an instant without personas"
        assert moving.persona is not None, "a persona without its texts"
        assert moving.persona.persona_id in scores
        assert np.abs(known - moving.score).min() < 2e-6, "a score nobody has written"
        texts = index.get("moving")
        assert texts, "an instant without personas"
        assert {one.persona_id for one in texts} <= set(scores)

    with in_background(read):
        for name, own in versions.items():
            assert index.replace_item("moving", personas(name, len(own)), own)
    last = Catalogue({"moving": versions["v199"]})
    (ranking,) = index.best_personas([USER], [["moving"]])
    assert ranking[0].persona is not None
    assert ranking[0].persona.persona_id.startswith("v199_")
    best = max(brute_force(last, USER, ["moving"])["moving"])
    assert ranking[0].score == pytest.approx(best, abs=2e-6)
    assert len(index.get("moving")) == len(versions["v199"])


def test_of_two_writers_of_an_item_one_stays_whole(index: PersonaIndex) -> None:
    """Which of them is later is decided by the index; what stays is one's, whole, and settled."""
    told: dict[str, bool] = {}
    barrier = threading.Barrier(2)

    def write(writer: str) -> None:
        for turn in range(40):
            barrier.wait()  # both at the same time, every time
            number = 1 + (turn * 5 + len(writer)) % 7
            name = f"{writer}{turn}"
            told[name] = index.replace_item("item", personas(name, number), rows(turn, number))
            barrier.wait()
            found = index.get("item")
            owners = {one.persona_id.partition("_")[0] for one in found}
            assert len(owners) == 1, f"a mixture of {owners}"
            (owner,) = owners
            assert told[owner], "the writer that stayed was told that it did not"
            assert index.hashes(["item"]), "not whole, or not settled"

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(write, "a"), pool.submit(write, "bb")]:
            future.result()
    assert index.repair() == 0
    assert {len(item) for item in index.items()} == {len(index.get("item"))}


def test_many_threads_at_once(index: PersonaIndex) -> None:
    catalogue = Catalogue(
        {f"{t}-{n}": rows(t * 100 + n, 1 + n % 7) for t in range(8) for n in range(12)}
    )
    steady = Catalogue({f"steady-{n}": rows(5000 + n, 3) for n in range(20)})
    index.load(steady.rows())

    def work(thread: int) -> None:
        own = {
            item_id: one for item_id, one in catalogue.vectors.items() if item_id[0] == str(thread)
        }
        for item_id, vectors in own.items():
            index.replace_item(item_id, personas("draft", 3), rows(thread, 3))
            assert_congruent(index, steady, [USER, -USER], [list(steady.vectors)] * 2)
            index.delete_item(item_id)
            row = next(one for one in Catalogue({item_id: vectors}).rows())
            assert index.replace_item(row.item_id, row.personas, row.vectors)
            assert len(index.get(item_id)) == len(vectors)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, thread) for thread in range(8)]:
            future.result()
    both = Catalogue(catalogue.vectors | steady.vectors)
    assert_congruent(index, both, [USER], [list(both.vectors)])
    assert index.stats().items == len(both.vectors)


def test_an_index_can_be_changed_while_it_is_listed(index: PersonaIndex) -> None:
    catalogue = Catalogue({f"item-{n}": rows(n, 2) for n in range(1500)})
    index.load(catalogue.rows())
    listed = set()
    for number, item in enumerate(index.items()):
        listed.add(item[0].item_id)
        if number % 100 == 0:
            index.delete_item(item[0].item_id)
            index.replace_item(f"new-{number}", personas("n", 1), rows(number, 1))
    assert listed >= set(catalogue.vectors)


# --- the whole catalogue -----------------------------------------------------------------------


def test_the_nearest_items_are_those_of_brute_force(index: PersonaIndex) -> None:
    random = np.random.default_rng(11)
    vectors = {f"i{n}": random.standard_normal((1 + n % 5, DIMENSION)) for n in range(60)}
    fields = {item_id: {"even": int(item_id[1:]) % 2 == 0} for item_id in vectors}
    index.load(Catalogue(vectors, fields).rows())
    unit = {
        item_id: own / np.linalg.norm(own, axis=1, keepdims=True)
        for item_id, own in vectors.items()
    }
    user = USER / np.linalg.norm(USER)
    scores = {item_id: float((own @ user).max()) for item_id, own in unit.items()}
    order = sorted(scores, key=lambda item_id: -scores[item_id])

    def nearest(limit: int, **more: Any) -> list[str]:
        found = index.nearest_items(USER, limit, **more)
        assert all(one.persona is not None and one.persona.item_id == one.item_id for one in found)
        assert [one.score for one in found] == pytest.approx(
            [scores[one.item_id] for one in found], abs=1e-5
        )
        return [one.item_id for one in found]

    assert nearest(7) == order[:7]
    assert nearest(1000) == order
    seen = order[:3]
    assert nearest(4, exclude=seen) == order[3:7]
    assert nearest(60, exclude=order) == []
    even = [one for one in order if int(one[1:]) % 2 == 0]
    assert nearest(5, filter={"even": True}) == even[:5]
    assert nearest(5, filter={"even": True}, exclude=even[:2]) == even[2:7]


def test_the_nearest_items_of_nothing(index: PersonaIndex) -> None:
    assert index.nearest_items(USER, 3) == []
    with pytest.raises(InputError, match="at least 1"):
        index.nearest_items(USER, 0)
    with pytest.raises(VectorError):
        index.nearest_items(USER[:2], 3)
