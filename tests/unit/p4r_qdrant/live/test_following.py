"""Following a publish: switched to, or the old version stays and the pauses grow."""

import threading
from itertools import pairwise
from typing import Any

import pytest

from p4r_qdrant.errors import EncoderError, IndexMismatchError
from p4r_qdrant.live import following
from p4r_qdrant.live.following import LONGEST_WAIT_S, Following
from p4r_qdrant.live.hotswap import Current


class Versions:
    """Names the live version, as `index.versions.Versions` does."""

    def __init__(self) -> None:
        self.name: str | None = "a"
        self.closed = False
        self.asked = threading.Event()

    def live(self) -> str | None:
        self.asked.set()
        return self.name

    def missing(self) -> str:
        return "there is no index"

    def close(self) -> None:
        self.closed = True


class Opened:
    def __init__(self, version: str) -> None:
        self.version = version
        self._closed = False
        self.reads = 0

    def reread(self) -> None:
        self.reads += 1

    def close(self) -> None:
        self._closed = True

    def is_closed(self) -> bool:
        return self._closed


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def versions() -> Versions:
    return Versions()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(following, "time", clock)
    return clock


def made(versions: Any, opened: Any = None, every_s: float = 0.0) -> Following[Opened]:
    own = opened or (lambda name, _: Opened(name))
    return Following(versions, Current(Opened("a")), own, every_s)


def test_a_new_version_replaces_the_old_one(versions: Versions) -> None:
    one = made(versions)
    old = one._current.now
    assert not one.refresh()
    assert old.reads == 1
    versions.name = "b"
    with one._current.in_use() as used:
        assert one.refresh()
        assert used is old
        assert not old.is_closed()
    assert old.is_closed()
    assert one._current.now.version == "b"
    one.close()
    assert one._current.now.is_closed()
    assert versions.closed


def test_what_cannot_be_opened_leaves_the_old_version(versions: Versions) -> None:
    errors = [EncoderError("no encoder")]

    def opened(name: str, _: Opened) -> Opened:
        if errors:
            raise errors.pop()
        return Opened(name)

    one = made(versions, opened)
    versions.name = "b"
    with pytest.raises(EncoderError):
        one.refresh()
    assert (one.problem, one._current.now.version) == ("no encoder", "a")
    assert not one._current.now.is_closed()
    assert one.refresh()
    assert one.problem == ""
    versions.name = None
    with pytest.raises(IndexMismatchError, match="there is no index any more; publish it again"):
        one.refresh()


def test_after_failures_the_pauses_grow_and_a_problem_is_logged_once(
    versions: Versions, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = []

    def opened(_: str, __: Opened) -> Opened:
        attempts.append(clock.now)
        raise EncoderError("no encoder")

    one = made(versions, opened, every_s=10.0)
    versions.name = "b"
    for _ in range(400):
        one.follow()
        clock.now += 1
    pauses = [second - first for first, second in pairwise(attempts)]
    assert pauses[:4] == [20, 40, LONGEST_WAIT_S, LONGEST_WAIT_S]
    assert attempts[0] == 1010
    assert [one.getMessage() for one in caplog.records] == ["version a stays live here: no encoder"]


def test_without_an_interval_it_never_looks(versions: Versions, clock: Clock) -> None:
    one = made(versions)
    clock.now += 1e9
    one.follow()
    assert not versions.asked.is_set()


def test_its_own_thread_looks_until_it_is_closed(versions: Versions) -> None:
    moved = threading.Event()

    def opened(name: str, _: Opened) -> Opened:
        moved.set()
        return Opened(name)

    one = made(versions, opened, every_s=0.01)
    one.start()
    versions.name = "b"
    assert moved.wait(60)
    one.close()
    one.close()
    versions.name = "c"
    assert not one.refresh(), "closed"
