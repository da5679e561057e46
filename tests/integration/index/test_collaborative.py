"""The collaborative part on both engines against the sums by hand, over wild B."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from devtools.qdrant_process import QdrantServer
from p4r_qdrant import PersonaIndex, Settings, open_index
from p4r_qdrant.errors import IndexMismatchError, InputError
from p4r_qdrant.index.columns import Weights
from p4r_qdrant.index.edge.columns import EdgeColumns
from p4r_qdrant.index.server import columns
from p4r_qdrant.index.server.columns import ServerColumns
from tests.support.columns import WildB, check_large, column, histories, part, wild_b
from tests.support.engines import on_server, opened
from tests.support.index_data import personas, rows
from tests.support.oracle import ITEM_IDS

SUITE = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NEAR = 1e-5


def check(index: PersonaIndex, data: st.DataObject) -> None:
    b = data.draw(wild_b())
    written = b.columns()
    index.write_collaborative(part(written), written)
    assert index.item_numbers() == b.numbers
    users = [data.draw(histories(b)) for _ in range(3)]
    some = st.one_of(st.sampled_from([*b.entries, "missing"]), ITEM_IDS)
    asked = [data.draw(st.lists(some, max_size=12)) for _ in users]
    for history, item_ids, found in zip(
        users, asked, index.collaborative_scores(users, asked), strict=True
    ):
        wanted = {one: b.score(history, one) for one in item_ids}
        assert found.keys() <= wanted.keys()
        assert found == pytest.approx({one: wanted[one] for one in found}, abs=NEAR), "a wrong sum"
        assert all(abs(wanted[one]) < NEAR for one in wanted.keys() - found.keys()), "one is lost"
        check_shares(index, b, history, item_ids)
        check_nearest(index, b, history, data)


def check_shares(
    index: PersonaIndex, b: WildB, history: dict[str, float], item_ids: list[str]
) -> None:
    shares = index.collaborative_shares(history, item_ids)
    for one in item_ids:
        own = {j: w * b.entries.get(one, {}).get(j, 0.0) for j, w in history.items()}
        wanted = sorted(((j, s) for j, s in own.items() if s), key=lambda s: (-s[1], s[0]))
        assert shares.get(one, []) == wanted


def check_nearest(
    index: PersonaIndex, b: WildB, history: dict[str, float], data: st.DataObject
) -> None:
    limit = data.draw(st.integers(1, 4))
    exclude = data.draw(st.lists(st.sampled_from([*b.entries, "missing"]), max_size=4))
    found = index.collaborative_nearest(history, limit, exclude)
    scores = {one: b.score(history, one) for one in b.entries if one not in exclude}
    above = sorted((score for score in scores.values() if score > NEAR), reverse=True)
    assert [score for _, score in found] == pytest.approx(above[:limit], abs=NEAR)
    assert all(scores[one] == pytest.approx(score, abs=NEAR) for one, score in found)
    assert found == sorted(found, key=lambda one: (-one[1], one[0]))


@SUITE
@given(data=st.data())
def test_sums_shares_and_the_whole_catalogue(index: PersonaIndex, data: st.DataObject) -> None:
    check(index, data)


def forget_an_entry(right: Callable[..., Weights]) -> Callable[..., Weights]:
    """The last item of a history is lost."""

    def broken(*given: object) -> Weights:
        found = right(*given)
        return Weights(found.places[:-1], found.values[:-1])

    return broken


def test_a_broken_sum_fails_the_same_suite(
    index: PersonaIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Weights, "of", forget_an_entry(Weights.of))

    @settings(SUITE, report_multiple_bugs=False, database=None, phases=[Phase.generate])
    @given(data=st.data())
    def suite(data: st.DataObject) -> None:
        check(index, data)

    with pytest.raises(AssertionError):
        suite()


def test_a_larger_catalogue(index: PersonaIndex) -> None:
    """More items than a request holds, more candidates than a query takes."""
    check_large(index, 1200)


def test_without_a_collaborative_part(index: PersonaIndex) -> None:
    assert index.collaborative is None
    assert index.item_numbers() == {}
    for ask in (
        lambda: index.collaborative_scores([{"a": 1.0}], [["b"]]),
        lambda: index.collaborative_nearest({"a": 1.0}, 3),
        lambda: index.collaborative_shares({"a": 1.0}, ["b"]),
    ):
        with pytest.raises(IndexMismatchError, match="`p4r publish --artifacts DIR` adds it"):
            ask()
    with pytest.raises(InputError, match="at least 1, not 0"):
        index.collaborative_nearest({"a": 1.0}, 0)
    with pytest.raises(InputError, match="1 histories but 0 candidate lists"):
        index.collaborative_scores([{"a": 1.0}], [])


def test_a_reader_asks_a_server_once_for_the_number_of_an_item(
    qdrant_server: QdrantServer, collection_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of one that has none; no more of them are kept than MOST_CACHED."""
    monkeypatch.setattr(columns, "MOST_CACHED", 3)
    asked: list[list[str]] = []
    right = ServerColumns._read_numbers

    def noted(self: ServerColumns, item_ids: list[str]) -> dict[str, int]:
        asked.append(item_ids)
        return right(self, item_ids)

    monkeypatch.setattr(ServerColumns, "_read_numbers", noted)
    with opened(on_server(qdrant_server, collection_name)) as index:
        index.write_collaborative(part(TWO), TWO)
        for _ in range(2):
            assert index.collaborative_nearest({"a": 1.0, "nobody": 1.0}, 9) == [("b", 0.25)]
        assert asked == [["a", "nobody"]]
        assert index.collaborative_nearest({"b": 1.0, "x": 1.0}, 9) == [("a", 0.5)]
        assert index.collaborative_nearest({"a": 1.0}, 9) == [("b", 0.25)]
        assert asked == [["a", "nobody"], ["b", "x"], ["a"]]


def test_a_reader_asks_a_server_once_for_a_column_that_only_gives_reasons(
    qdrant_server: QdrantServer, collection_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    right = ServerColumns._columns

    def noted(self: ServerColumns, item_ids: list[str]) -> dict[str, Any]:
        asked.append(item_ids)
        return right(self, item_ids)

    monkeypatch.setattr(columns, "MOST_COLUMNS", 1)
    monkeypatch.setattr(ServerColumns, "_columns", noted)
    with opened(on_server(qdrant_server, collection_name)) as index:
        index.write_collaborative(part(TWO), TWO)
        for _ in range(2):
            assert index.collaborative_shares({"a": 2.0}, ["b", "x"]) == {"b": [("a", 0.5)]}
        assert asked == [["b", "x"], ["x"]], "one that is not there may be added"
        assert index.collaborative_columns(["b"])["b"].places.tolist() == [0]
        assert asked[2:] == [["b"]], "now"
        index.remove_columns(["b"])
        assert index.collaborative_shares({"a": 2.0}, ["b"]) == {}
        assert index.collaborative_shares({"b": 2.0}, ["a"]) == {"a": [("b", 1.0)]}
        assert index.collaborative_shares({"b": 2.0}, ["a"]) == {"a": [("b", 1.0)]}
        assert asked[-2:] == [["b"], ["a"]]


TWO = [column("a", 0, {1: 0.5}), column("b", 1, {0: 0.25}), column("gone", 2, {})]


def test_a_refit_is_followed(index_settings: Settings) -> None:
    """A reader that was opened before goes on, with the old set, until it has read the metadata
    again, or until its set is deleted."""
    with opened(index_settings) as index:
        index.write_collaborative(part(TWO, l2=5), TWO)
        assert index.collaborative is not None
        assert (index.collaborative.set, index.collaborative.settings) == (1, {"l2": 5})
        reader = index
        if index_settings.qdrant.url is not None:
            reader = open_index(index_settings)
        with reader:
            assert reader.collaborative_nearest({"a": 1.0, "gone": 3.0}, 9) == [("b", 0.25)]
            again = [column("a", 0, {1: 1.0}), column("b", 1, {0: 2.0}), column("c", 3, {0: 1.0})]
            index.write_collaborative(part(again), again)
            if reader is not index:
                assert reader.collaborative_nearest({"a": 1.0}, 9) == [("b", 0.25)]
            index.write_collaborative(part(again), again)
            assert reader.collaborative_nearest({"a": 1.0}, 9) == [("b", 2.0), ("c", 1.0)]
            assert reader.collaborative is not None
            assert reader.collaborative.set == 3
            index.drop_collaborative()
            reader.refresh()
            assert reader.collaborative is None


def test_the_part_stays_with_the_index(index_settings: Settings) -> None:
    with opened(index_settings) as index:
        index.write_collaborative(part(TWO), TWO)
        index.put_provisional([column("new", None, {0: 0.75}), column("a", None, {0: 9.0})])
        index.remove_columns(["b", "nobody"])
    with open_index(index_settings) as index:
        assert index.collaborative_nearest({"a": 1.0, "b": 1.0}, 9) == [("new", 0.75), ("a", 0.5)]
        assert index.collaborative_scores([{"a": 1.0}], [["b", "new"]]) == [{"new": 0.75}]
        assert index.collaborative_shares({"a": 2.0}, ["new"]) == {"new": [("a", 1.5)]}
        assert index.item_numbers() == {"a": 0, "b": 1, "gone": 2}
        index.put_provisional([column("b", None, {0: 0.5})])
        assert index.collaborative_columns(["b"])["b"].number == 1, "it keeps its number"
        index.remove_columns(["new", "b"])
    with open_index(index_settings) as index:
        assert index.collaborative_nearest({"a": 1.0, "b": 1.0}, 9) == [("a", 0.5)]


def test_an_item_that_is_deleted_is_not_recommended(index: PersonaIndex) -> None:
    for name in ("a", "b"):
        index.replace_item(name, personas(name, 1), rows(1, 1))
    index.write_collaborative(part(TWO), TWO)
    assert index.delete_item("b")
    assert index.collaborative_nearest({"a": 1.0, "b": 1.0}, 9) == [("a", 0.5)]
    index.delete_unchanged({"a": index.written()["a"]})
    assert index.collaborative_nearest({"a": 1.0, "b": 1.0}, 9) == []


def test_half_a_set_is_replaced(index: PersonaIndex) -> None:
    """A process was killed while it wrote."""

    def killed() -> object:
        yield column("old", 7, {0: 1.0})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.write_collaborative(part(TWO), killed())  # type: ignore[arg-type]
    assert index.collaborative is None
    index.write_collaborative(part(TWO), TWO)
    assert index.item_numbers() == {"a": 0, "b": 1, "gone": 2}
    assert isinstance(index.engine.columns.open(1), EdgeColumns | ServerColumns)
    index.drop_columns_before()
    assert index.collaborative_nearest({"a": 1.0}, 9) == [("b", 0.25)]
