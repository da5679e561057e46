"""Who may write alone: the living keep it, the dead lose it, and two at once do not both get it."""

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from socket import gethostname

import pytest

from p4r_qdrant.errors import IndexLockedError, IndexUnavailableError
from p4r_qdrant.index.processes import space
from p4r_qdrant.index.server import lease


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    monkeypatch.setattr(lease, "DEAD_AFTER_S", 0.6)
    monkeypatch.setattr(lease, "SETTLE_S", 0.05)


class Note:
    """The text that all can read and write."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.seen: list[str] = []

    def read(self) -> str:
        return self.text

    def write(self, text: str) -> None:
        self.text = text
        self.seen.append(text)

    @contextmanager
    def held(self) -> Iterator[None]:
        with lease.held(self.read, self.write, "the thing"):
            yield


def test_it_is_held_shown_and_given_back() -> None:
    note = Note()
    with note.held():
        name = note.text.rpartition(" ")[0]
        assert name.startswith(f"{gethostname()} {os.getpid()} ")
        time.sleep(0.3)
        assert note.text.startswith(f"{name} ")
        assert len(set(note.seen)) > 2, "no sign of life"
    assert note.text == ""
    with note.held():
        pass


def test_it_is_given_back_after_an_error() -> None:
    note = Note()
    with pytest.raises(ValueError, match="x"), note.held():
        raise ValueError("x")
    assert note.text == ""


def test_a_second_one_is_refused_while_the_first_lives() -> None:
    note = Note()
    with note.held():
        with pytest.raises(IndexLockedError) as caught, note.held():
            pass
        assert f"process {os.getpid()} on {gethostname()}" in str(caught.value)
        assert note.text


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder counts as dead only after a time that no test has."""
    monkeypatch.setattr(lease, "DEAD_AFTER_S", 3600)


@pytest.mark.usefixtures("patient")
def test_a_process_of_this_machine_that_is_no_more_is_not_waited_for() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], check=True, capture_output=True
    )
    with Note(f"{gethostname()} {int(ended.stdout)} {space()} abcd 7").held():
        pass


def test_a_process_id_of_another_container_says_nothing() -> None:
    """The same host name and no such process here, but it shows that it lives."""
    numbers = itertools.count()
    with (
        pytest.raises(IndexLockedError),
        lease.held(
            lambda: f"{gethostname()} {2**22 + 1} elsewhere/1 abcd {next(numbers)}",
            lambda _: pytest.fail("taken over"),
            "the thing",
        ),
    ):
        pass


def test_of_two_who_hold_it_the_overwritten_one_ends_with_an_error() -> None:
    note = Note()
    with pytest.raises(IndexLockedError) as caught, note.held():
        note.text = "elsewhere 7 - abcd 0"
    assert "process 7 on elsewhere" in str(caught.value)
    assert note.text == "elsewhere 7 - abcd 0"


@pytest.mark.parametrize(
    "holder", ["elsewhere 1 abcd 3", f"{gethostname()} {os.getppid()} ab 3", "?"]
)
def test_one_that_shows_no_life_is_taken_for_dead(holder: str) -> None:
    begin = time.monotonic()
    with Note(holder).held():
        assert time.monotonic() - begin > 0.6


@pytest.mark.usefixtures("patient")
def test_one_that_ends_meanwhile_is_followed_at_once() -> None:
    note = Note("elsewhere 1 abcd 3")
    threading.Timer(0.1, note.write, [""]).start()
    with note.held():
        pass


def test_of_two_who_come_at_the_same_time_one_stays() -> None:
    note, barrier = Note(), threading.Barrier(2)
    got: list[int] = []

    def come() -> None:
        barrier.wait()
        try:
            with note.held():
                got.append(1)
                time.sleep(0.3)
        except IndexLockedError:
            pass

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(come) for _ in range(2)]:
            future.result()
    assert len(got) == 1


def test_a_sign_of_life_that_does_not_arrive_is_made_up_for() -> None:
    note = Note()
    fails: list[int] = []

    def write(text: str) -> None:
        if note.text and not fails:
            fails.append(1)
            raise IndexUnavailableError("away")
        note.write(text)

    with lease.held(note.read, write, "the thing"):
        time.sleep(0.3)
        assert fails
        assert not note.text.endswith(" 0")
    assert note.text == ""
