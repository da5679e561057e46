"""How an item is replaced: no gap, one generation, the later writer; kills at every step."""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p4r_qdrant import ItemVectors
from p4r_qdrant.index import replacing
from p4r_qdrant.index.batching import whole_items
from p4r_qdrant.index.payload import Point
from p4r_qdrant.records import StoredPersona
from tests.support.memory_index import MemoryIndex
from tests.support.oracle import DIMENSION, persona

STEPS = ["payloads", "upsert", "delete", "clear_mark"]
OWN_STEPS = 5  # of a writer whom nobody disturbs: payloads, upsert, delete, payloads, clear_mark


def write(index: MemoryIndex, name: str, personas: int) -> bool:
    made = [persona(f"{name}{number}") for number in range(personas)]
    return index.replace_item("item", made, np.ones((personas, DIMENSION)))


def names(index: MemoryIndex) -> list[str]:
    return [one.persona_id for one in index.get("item")]


def expected(name: str, personas: int) -> list[str]:
    return [f"{name}{number}" for number in range(personas)]


def generations(index: MemoryIndex) -> set[int]:
    return {one.payload["generation"] for one in index.points.values()}


def is_marked(index: MemoryIndex) -> bool:
    return any("unsettled" in one.payload for one in index.points.values())


class Watched(MemoryIndex):
    """Before each of its steps it shows what a reader would see to `watch`."""

    watch: Callable[[str], None] | None = None

    def _step(self, name: str) -> None:
        super()._step(name)
        if self.watch is not None:
            watch, self.watch = self.watch, None
            try:
                watch(name)
            finally:
                self.watch = watch


# --- one writer, killed ------------------------------------------------------------------------


@pytest.mark.parametrize("before", [1, 3, 7])
@pytest.mark.parametrize("after", [1, 3, 7])
def test_a_reader_never_sees_an_item_without_personas(before: int, after: int) -> None:
    index = Watched()
    write(index, "old", before)
    seen = []
    index.watch = lambda _: seen.append(names(index))
    assert write(index, "new", after)
    assert len(seen) == OWN_STEPS
    assert all(seen)
    index.watch = None
    assert names(index) == expected("new", after)
    assert len(generations(index)) == 1
    assert not is_marked(index)


class KilledAt(MemoryIndex):
    """Dies before the `fatal`-th step it takes."""

    fatal = -1

    def _step(self, name: str) -> None:
        super()._step(name)
        self.fatal -= 1
        if self.fatal == 0:
            raise KeyboardInterrupt(f"killed before {name}")


@pytest.mark.parametrize("step", range(1, OWN_STEPS + 1))
@pytest.mark.parametrize(("before", "after"), [(5, 2), (2, 5), (3, 3), (0, 4)])
@pytest.mark.parametrize("then", ["repair", "write", "load"])
def test_a_kill_before_any_step_is_put_right(before: int, after: int, step: int, then: str) -> None:
    index = KilledAt()
    if before:
        write(index, "old", before)
    index.fatal = step
    with pytest.raises(KeyboardInterrupt):
        write(index, "new", after)
    assert names(index) or not before
    if then == "repair":
        index.repair()
        whole = [expected("old", before), expected("new", after)]
        assert names(index) in whole
        assert index.repair() == 0
    elif then == "write":
        assert write(index, "next", 3)
        assert names(index) == expected("next", 3)
    else:
        rows = ItemVectors("item", [persona("next0")], np.ones((1, DIMENSION)))
        assert index.load([rows]) == 1
        assert names(index) == ["next0"]
    assert len(generations(index)) <= 1
    assert not is_marked(index)
    assert set(index.hashes(["item"])) == ({"item"} if names(index) else set())


@pytest.mark.parametrize("step", STEPS)
def test_an_item_in_between_has_no_hash_so_that_it_is_written_again(step: str) -> None:
    index = MemoryIndex()
    write(index, "old", 4)
    index.fail_before = step
    with pytest.raises(KeyboardInterrupt):
        write(index, "new", 2)
    index.fail_before = ""
    assert bool(index.hashes(["item"])) == (step in ("payloads", "upsert"))


def test_a_kill_amid_a_load_leaves_every_item_old_or_new() -> None:
    index = KilledAt()
    items = [
        ItemVectors(f"item{one}", [persona("old0"), persona("old1")], np.ones((2, DIMENSION)))
        for one in range(20)
    ]
    index.load(items)
    index.fatal = 4
    with pytest.raises(KeyboardInterrupt):
        index.load(
            ItemVectors(one.item_id, [persona("new0")], np.ones((1, DIMENSION))) for one in items
        )
    assert index.repair() == 20
    assert all([one.persona_id for one in found] == ["new0"] for found in index.items())


def test_repair_leaves_other_items_alone() -> None:
    index = MemoryIndex()
    write(index, "old", 4)
    index.replace_item("other", [persona("a")], np.ones((1, DIMENSION)))
    before = index.points[next(one for one, p in index.points.items() if p.payload["slot"] == 3)]
    index.fail_before = "delete"
    with pytest.raises(KeyboardInterrupt):
        write(index, "new", 2)
    index.fail_before = ""
    other = index.get("other")
    assert before.id in index.points
    assert index.repair() == 1
    assert before.id not in index.points
    assert index.get("other") == other


@given(sizes=st.lists(st.integers(1, 9), max_size=30), size=st.integers(1, 12))
def test_an_item_is_never_written_by_two_requests(sizes: list[int], size: int) -> None:
    points = [
        Point(f"{item}-{slot}", np.ones(2, np.float32), {"item_id": f"{item}"})
        for item, count in enumerate(sizes)
        for slot in range(count)
    ]
    parts = list(whole_items(points, size))
    assert [point for part in parts for point in part] == points
    owners = [{point.payload["item_id"] for point in part} for part in parts]
    assert sum(map(len, owners)) == len(sizes), "an item in two parts"
    assert all(len(part) <= size or len(own) == 1 for part, own in zip(parts, owners, strict=True))


# --- clocks ------------------------------------------------------------------------------------


def test_a_lagging_clock_does_not_lose_a_later_write(monkeypatch: pytest.MonkeyPatch) -> None:
    index = MemoryIndex()
    monkeypatch.setattr(replacing, "now", lambda: 2_000_000)
    assert write(index, "old", 5)
    monkeypatch.setattr(replacing, "now", lambda: 1_000_000)
    assert write(index, "new", 2)
    assert names(index) == expected("new", 2)
    assert generations(index) == {2_000_002}


def test_a_clock_that_stands_still_does_not_lose_a_later_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = MemoryIndex()
    monkeypatch.setattr(replacing, "now", lambda: 1_000_000)
    for personas in (3, 1, 7):
        assert write(index, f"v{personas}-", personas)
        assert names(index) == expected(f"v{personas}-", personas)


@pytest.mark.parametrize("clock", [1, 2_000_000, 2**50])
def test_only_what_nobody_wrote_since_is_deleted_whatever_the_clocks(
    clock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = MemoryIndex()
    monkeypatch.setattr(replacing, "now", lambda: 2_000_000)
    for item_id in ("stranger", "rewritten"):
        index.replace_item(item_id, [persona("p")], np.ones((1, DIMENSION)))
    before = index.written()
    monkeypatch.setattr(replacing, "now", lambda: clock)  # of another machine
    index.replace_item("rewritten", [persona("q")], np.ones((1, DIMENSION)))
    index.replace_item("new", [persona("q")], np.ones((1, DIMENSION)))
    index.delete_unchanged(before)
    assert set(index.written()) == {"rewritten", "new"}


def test_dropped_personas_do_not_overwrite_what_somebody_wrote_meanwhile() -> None:
    index = MemoryIndex()
    write(index, "old-", 3)

    def unwanted(one: StoredPersona) -> bool:
        if one.persona_id == "old-1":
            write(index, "new-", 2)
        return one.persona_id == "old-1"

    assert index.drop_personas(["item"], unwanted) == 1
    assert names(index) == expected("new-", 2)
    assert index.drop_personas(["item"], lambda _: True) == 2
    assert names(index) == []


# --- several writers, every interleaving ---------------------------------------------------------


class Gated(MemoryIndex):
    """Each writer's thread waits before every step until `run` gives it a turn."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[int, tuple[threading.Semaphore, threading.Semaphore]] = {}
        self.doomed: dict[int, int] = {}

    def _step(self, name: str) -> None:
        me = threading.get_ident()
        if me in self.gates:
            arrived, go = self.gates[me]
            arrived.release()
            go.acquire()
            if me in self.doomed:
                self.doomed[me] -= 1
                if self.doomed[me] < 0:
                    raise KeyboardInterrupt(f"killed before {name}")


class Writer:
    """One `replace_item` in a thread of its own; `turn` lets it take one step."""

    def __init__(
        self, index: Gated, name: str, personas: int, killed_at: int | None = None
    ) -> None:
        self.name, self.personas = name, personas
        self.may_be_empty = False
        self.result: bool | None = None
        self.error: BaseException | None = None
        self.started = self.finished = False
        self._index, self._killed_at = index, killed_at
        self._arrived, self._go = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        me = threading.get_ident()
        self._index.gates[me] = (self._arrived, self._go)
        if self._killed_at is not None:
            self._index.doomed[me] = self._killed_at
        try:
            self.result = self._write()
        except BaseException as error:
            self.error = error
        finally:
            del self._index.gates[me]
            self._index.doomed.pop(me, None)
            self.finished = True
            self._arrived.release()

    def _write(self) -> bool:
        return write(self._index, self.name, self.personas)

    def turn(self) -> None:
        if not self.started:
            self.started = True
            self._thread.start()
            self._arrived.acquire()
        self._go.release()
        self._arrived.acquire()
        if self.finished:
            self._thread.join()


def run(index: Gated, writers: Sequence[Writer], order: Iterator[int]) -> list[tuple[str, str]]:
    """Let the writers step in this order, then each to its end; returns (earlier, later) pairs
    of writers of whom one had finished when the other began."""
    one_after_another = []
    while not all(one.finished for one in writers):
        writer = writers[next(order, 0)]
        if writer.finished:
            writer = next(one for one in writers if not one.finished)
        if not writer.started:
            one_after_another += [(one.name, writer.name) for one in writers if one.finished]
        writer.turn()
        assert names(index) or any(one.may_be_empty for one in writers), "no personas"
    return one_after_another


def check_settled(index: Gated, writers: Sequence[Writer], pairs: list[tuple[str, str]]) -> None:
    for one in writers:
        assert one.error is None or isinstance(one.error, KeyboardInterrupt), one.error
    assert len(generations(index)) == 1, "two generations"
    assert not is_marked(index)
    contents = {one.name: expected(one.name, one.personas) for one in writers}
    contents["old"] = expected("old", 3)
    found = names(index)
    assert found in contents.values(), "a mixture"
    winner = next(name for name, content in contents.items() if content == found)
    results = {one.name: one.result for one in writers}
    if results.get(winner) is False:
        pytest.fail("the writer that stayed was told that it did not")
    for earlier, later in pairs:
        if results[later] is not None:
            assert winner != earlier, "the earlier of two writers stayed"
    if any(result is not None for result in results.values()):
        assert winner != "old"


@pytest.mark.parametrize("counts", [(5, 2), (2, 5), (4, 4)])
@pytest.mark.parametrize("clock", ["runs", "stands still"])
def test_two_writers_settle_on_the_later_whatever_the_interleaving(
    counts: tuple[int, int], clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if clock == "stands still":  # the same generation for both, unless one sees the other's
        monkeypatch.setattr(replacing, "now", lambda: 1_000_000)
    for turns_of_a in combinations(range(2 * OWN_STEPS), OWN_STEPS):
        index = Gated()
        write(index, "old", 3)
        writers = [Writer(index, "a", counts[0]), Writer(index, "b", counts[1])]
        order = iter([0 if turn in turns_of_a else 1 for turn in range(2 * OWN_STEPS)])
        pairs = run(index, writers, order)
        check_settled(index, writers, pairs)
        assert True in {one.result for one in writers}


def test_the_overtaken_writer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(1)
    monkeypatch.setattr(replacing, "now", lambda: next(clock))
    index = Gated()
    write(index, "old", 3)
    slow, fast = Writer(index, "slow", 5), Writer(index, "fast", 2)
    slow.turn()  # has read the generations and the clock
    for _ in range(OWN_STEPS):
        fast.turn()
    assert fast.result is True
    while not slow.finished:
        slow.turn()
    assert slow.result is False
    assert names(index) == expected("fast", 2)
    assert not is_marked(index)


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(1, 7), min_size=2, max_size=4),
    kills=st.lists(st.none() | st.integers(0, 6), min_size=4, max_size=4),
    order=st.lists(st.integers(0, 3), max_size=30),
    readings=st.lists(st.integers(1, 5), min_size=1, max_size=8),
)
def test_writers_kills_and_clocks_in_any_order_leave_one_generation_after_repair(
    counts: list[int], kills: list[int | None], order: list[int], readings: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = {"at": 0}

        def now() -> int:
            clock["at"] += 1
            return readings[clock["at"] % len(readings)]

        patch.setattr(replacing, "now", now)
        index = Gated()
        write(index, "old", 3)
        writers = [
            Writer(index, f"w{number}-", personas, kills[number])
            for number, personas in enumerate(counts)
        ]
        pairs = run(index, writers, iter([turn % len(writers) for turn in order]))
        index.repair()
        if all(one.error is None for one in writers) or index.hashes(["item"]):
            check_settled(index, writers, pairs)
        # else one was killed that had read the same generation and the same time as another: a
        # mixture, for which `hashes` has nothing, so that it is written again
        assert write(index, "last", 2)
        assert names(index) == expected("last", 2)


class Loader(Writer):
    """A `load`; with `known` it gives way to whoever has written since that was read."""

    def __init__(
        self, index: Gated, name: str, personas: int, known: dict[str, int] | None = None
    ) -> None:
        super().__init__(index, name, personas)
        self._known = known

    def _write(self) -> bool:
        made = [persona(f"{self.name}{number}") for number in range(self.personas)]
        item = ItemVectors("item", made, np.ones((self.personas, DIMENSION)))
        return self._index.load([item], known=self._known) == 1


@pytest.mark.parametrize("other", [Writer, Loader])
@pytest.mark.parametrize("old", [True, False], ids=["replaced", "new"])
@pytest.mark.parametrize("clock", [2, 1_000_001])
def test_a_publisher_loses_against_every_writer_since_it_began(
    clock: int, old: bool, other: type[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = OWN_STEPS + 1
    for turns_of_a in combinations(range(2 * turns), turns):
        index = Gated()
        with monkeypatch.context() as patch:
            patch.setattr(replacing, "now", lambda: 1_000_000)
            if old:
                write(index, "old", 3)
        with monkeypatch.context() as patch:
            patch.setattr(replacing, "now", lambda: clock)
            writers = [Loader(index, "p", 5, index.written()), other(index, "b", 2)]
            order = iter([0 if turn in turns_of_a else 1 for turn in range(2 * turns)])
            for writer in writers:
                writer.may_be_empty = not old
            run(index, writers, order)
        for one in writers:
            assert one.error is None, one.error
        assert names(index) == expected("b", 2)
        assert not is_marked(index)


def test_what_was_deleted_since_is_not_written_again() -> None:
    index = MemoryIndex()
    write(index, "old", 3)
    known = index.written()
    index.delete_item("item")
    kept: list[str] = []
    item = ItemVectors("item", [persona("p")], np.ones((1, DIMENSION)))
    assert index.load([item], known=known, kept=kept.append) == 0
    assert (kept, names(index)) == (["item"], [])


def test_a_load_that_meets_another_writer_leaves_one_generation() -> None:
    """Between its look whether the item is there and its write, somebody else brings it."""
    index = MemoryIndex(dimension=2)
    upsert = index.engine.upsert
    met: list[str] = []

    def meanwhile(points: Sequence[Point], older_than: int | None = None) -> None:
        if not met:
            met.append("another writer")
            three = [persona(f"other_P{number}") for number in range(3)]
            index.replace_item("a", three, np.eye(3, 2) + 1)
        upsert(points, older_than)

    index.engine.upsert = meanwhile  # type: ignore[method-assign]
    index.load([ItemVectors("a", [persona("mine_P0")], np.ones((1, 2)))])
    assert [one.persona_id for one in index.get("a")] == ["mine_P0"]
    assert index.repair() == 0
    assert len({point.payload["generation"] for point in index.points.values()}) == 1
