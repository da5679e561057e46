"""The ledger: nothing received is lost, nothing broken is believed."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import portalocker
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from indexer.ledger import Ledger, LedgerLockedError, request_key
from p4r_qdrant.errors import InputError, StorageFullError

STEP = "aspects"


def key(number: int) -> str:
    return request_key(template="t", content=number, model="m")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger") as opened:
        yield opened


def test_what_is_put_is_there(ledger: Ledger) -> None:
    record = {"answer": {"slot": "Zoë \u2028 \x00 😀", "none": None}, "cost": 0.25}
    ledger.put(STEP, key(1), record)
    assert ledger.has(STEP, key(1))
    assert ledger.get(STEP, key(1)) == record
    assert not ledger.has(STEP, key(2))
    assert ledger.get(STEP, key(2)) is None
    assert not ledger.has("personas", key(1))


def test_a_person_can_read_it(ledger: Ledger) -> None:
    ledger.put(STEP, key(1), {"answer": "Zoë"})
    text = (ledger.folder / "aspects.jsonl").read_text()
    assert text == f'{{"key": "{key(1)}", "ok": true, "answer": "Zoë"}}\n'


def test_it_outlives_the_process(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.put(STEP, key(1), {"answer": 1})
        ledger.put(STEP, key(2), {"problems": ["no"]}, ok=False)
        ledger.put("personas", key(1), {"answer": 2})
    with Ledger(tmp_path) as ledger:
        assert ledger.get(STEP, key(1)) == {"answer": 1}
        assert ledger.get("personas", key(1)) == {"answer": 2}
        assert ledger.count(STEP) == (1, 1)
        assert ledger.steps() == ["aspects", "personas"]


def test_failed_is_not_answered(ledger: Ledger) -> None:
    ledger.put(STEP, key(1), {"try": 1}, ok=False)
    ledger.put(STEP, key(1), {"try": 2}, ok=False)
    assert not ledger.has(STEP, key(1))
    assert ledger.get(STEP, key(1)) is None
    assert [entry["try"] for entry in ledger.entries(STEP)] == [2]
    ledger.put(STEP, key(1), {"answer": 3})
    assert ledger.count(STEP) == (1, 0)
    assert [entry["ok"] for entry in ledger.entries(STEP)] == [True]


def test_the_first_answer_stays(ledger: Ledger) -> None:
    ledger.put(STEP, key(1), {"answer": 1})
    ledger.put(STEP, key(1), {"answer": 2})
    ledger.put(STEP, key(1), {}, ok=False)
    assert ledger.get(STEP, key(1)) == {"answer": 1}
    assert len((ledger.folder / "aspects.jsonl").read_bytes().splitlines()) == 1


def test_entries_come_in_their_order(ledger: Ledger) -> None:
    for number in range(5):
        ledger.put(STEP, key(number), {"n": number})
    assert [entry["n"] for entry in ledger.entries(STEP)] == list(range(5))
    assert list(ledger.entries("personas")) == []


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"template": "t"}, {"template": "u"}),
        ({"content": ["ab", "c"]}, {"content": ["a", "bc"]}),
        ({"model": "m"}, {"model": "n"}),
        ({"parameters": {"temperature": 0}}, {"parameters": {"temperature": 0.5}}),
        ({"template": "tm", "model": ""}, {"template": "t", "model": "m"}),
    ],
)
def test_whatever_differs_makes_another_key(a: dict[str, str], b: dict[str, str]) -> None:
    whole: dict[str, str] = {"template": "t", "content": "c", "model": "m"}
    assert request_key(**{**whole, **a}) != request_key(**{**whole, **b})  # type: ignore[arg-type]
    assert request_key(**{**whole, **a}) == request_key(**{**whole, **a})  # type: ignore[arg-type]


def test_a_key_takes_any_text() -> None:
    assert len(request_key(template="", content="\ud800\x00", model="")) == 32


@pytest.mark.parametrize("bad", ["", "a" * 31, "G" * 32, "../" + "a" * 29])
def test_other_keys_are_refused(ledger: Ledger, bad: str) -> None:
    with pytest.raises(ValueError, match="request_key"):
        ledger.put(STEP, bad, {})


@pytest.mark.parametrize("bad", ["", "../x", "A", "a/b"])
def test_other_steps_are_refused(ledger: Ledger, bad: str) -> None:
    with pytest.raises(ValueError, match="is not a valid name for a step"):
        ledger.put(bad, key(1), {})


@pytest.mark.parametrize("bad", [{"key": 1}, {"ok": 1}, {"x": float("nan")}, {"x": "\ud800"}])
def test_a_record_that_could_not_be_read_again(ledger: Ledger, bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"key|JSON|encode"):
        ledger.put(STEP, key(1), bad)
    assert not ledger.has(STEP, key(1))


# -- kill -9 and worse ---------------------------------------------------------------------------


def lines(count: int) -> bytes:
    entries = ({"key": key(n), "ok": n % 5 != 4, "answer": f"é{n}" * n} for n in range(count))
    return b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in entries)


MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where a sync costs nothing: these tests open hundreds of ledgers."""
WHOLE = lines(12)
ENDS = [place + 1 for place, byte in enumerate(WHOLE) if byte == 10]


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(0, len(WHOLE)))
@example(cut=ENDS[3] - 1)
def test_a_torn_end_costs_nothing_else(cut: int) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Path(name)
        (folder / "aspects.jsonl").write_bytes(WHOLE[:cut])
        # The line is whole when its brace is there; the line break does not matter.
        kept = sum(end - 1 <= cut for end in ENDS)
        with Ledger(folder, read_only=True) as ledger:
            assert sum(ledger.count(STEP)) == kept
        assert (folder / "aspects.jsonl").read_bytes() == WHOLE[:cut]
        with Ledger(folder) as ledger:
            assert sum(ledger.count(STEP)) == kept
            for n in range(12):
                assert ledger.has(STEP, key(n)) == (n < kept and n % 5 != 4)
            ledger.put(STEP, key(99), {"answer": 99})
            assert ledger.get(STEP, key(99)) == {"answer": 99}, "in this run already"
        with Ledger(folder) as ledger:
            assert ledger.get(STEP, key(99)) == {"answer": 99}
            assert sum(ledger.count(STEP)) == kept + 1


@settings(deadline=None, max_examples=60)
@given(place=st.integers(0, len(WHOLE) - 1), junk=st.binary(min_size=1, max_size=80))
def test_damage_costs_what_it_hit_and_no_more(place: int, junk: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Path(name)
        damaged = WHOLE[:place] + junk + WHOLE[place + len(junk) :]
        (folder / "aspects.jsonl").write_bytes(damaged)
        untouched = [
            n
            for n, end in enumerate(ENDS)
            if end <= place or (n and place + len(junk) < ENDS[n - 1])
        ]
        with Ledger(folder) as ledger:
            for n in untouched:
                assert ledger.has(STEP, key(n)) == (n % 5 != 4)
            for entry in ledger.entries(STEP):
                assert isinstance(entry["ok"], bool)
            ledger.put(STEP, key(99), {"answer": 99})
        with Ledger(folder) as ledger:
            assert ledger.get(STEP, key(99)) == {"answer": 99}


def test_broken_lines_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "aspects.jsonl").write_bytes(b"\x00\x00\n{}\n[]\n" + WHOLE)
    with caplog.at_level(logging.WARNING), Ledger(tmp_path) as ledger:
        assert sum(ledger.count(STEP)) == 12
    assert "3 broken lines" in caplog.text


def test_another_program_changed_it(ledger: Ledger) -> None:
    ledger.put(STEP, key(1), {"answer": 1})
    (ledger.folder / "aspects.jsonl").write_bytes(b"x" * 100 + b"\n")
    with pytest.raises(InputError, match="changed by another program"):
        ledger.get(STEP, key(1))


FILLING = """
import resource, sys
from pathlib import Path
from indexer.ledger import Ledger, request_key
from p4r_qdrant.errors import StorageFullError
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
with Ledger(Path(sys.argv[1])) as ledger:
    for n in range(100):
        try:
            ledger.put("aspects", request_key(template="", content=n, model=""), {"x": "y" * 700})
        except StorageFullError as error:
            print(n)
            assert "no space left" in str(error)
            break
    ledger.put("aspects", request_key(template="", content="small", model=""), {})
"""


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """A bound on the file's size is met as a full disk is: by a short write, then an error."""
    run = subprocess.run(
        [sys.executable, "-c", FILLING, str(tmp_path)], capture_output=True, text=True, check=True
    )
    written = int(run.stdout)
    assert written > 3
    with Ledger(tmp_path) as ledger:
        assert ledger.count(STEP) == (written + 1, 0)
    for line in (tmp_path / "aspects.jsonl").read_bytes().splitlines():
        json.loads(line)


# -- one writer ----------------------------------------------------------------------------------


def test_two_runs_are_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerLockedError) as refusal:
        Ledger(ledger.folder)
    assert str(refusal.value) == (
        f"another run is writing to {ledger.folder}; wait until it ends, or stop it"
    )
    assert refusal.value.exit_code == 2
    ledger.close()
    Ledger(ledger.folder).close()


def test_a_folder_that_goes_away_while_it_is_opened_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unused ledger takes its folder away when it is closed; the lock of the next one counts."""
    unused = Ledger(tmp_path / "ledger")
    lock = portalocker.lock

    def after_the_other_is_closed(*args: Any) -> None:
        unused.close()
        lock(*args)

    monkeypatch.setattr(portalocker, "lock", after_the_other_is_closed)
    with Ledger(tmp_path / "ledger") as ledger:
        ledger.put(STEP, key(1), {})
        with pytest.raises(LedgerLockedError):
            Ledger(tmp_path / "ledger")


def test_looking_on_while_another_writes(ledger: Ledger) -> None:
    ledger.put(STEP, key(1), {"answer": 1})
    with Ledger(ledger.folder, read_only=True) as other:
        assert other.get(STEP, key(1)) == {"answer": 1}
        assert other.count("personas") == (0, 0)
        with pytest.raises(ValueError, match="this ledger is read-only"):
            other.put(STEP, key(2), {})
        with pytest.raises(ValueError, match="this ledger is read-only"):
            other.erase(STEP, [key(1)])
    assert ledger.steps() == [STEP]


def test_looking_creates_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path / "none", read_only=True) as ledger:
        assert not ledger.has(STEP, key(1))
        assert list(ledger.entries(STEP)) == []
        assert ledger.steps() == []
    assert list(tmp_path.iterdir()) == []


def test_closed_is_closed(ledger: Ledger) -> None:
    ledger.close()
    ledger.close()
    with pytest.raises(ValueError, match="closed"):
        ledger.put(STEP, key(1), {})


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be used"):
        Ledger(tmp_path / "file" / "ledger")


def test_sync_while_writing(ledger: Ledger) -> None:
    import threading

    done = threading.Event()

    def sync() -> None:
        while not done.is_set():
            ledger.sync()

    thread = threading.Thread(target=sync)
    thread.start()
    for n in range(200):
        ledger.put(STEP, key(n), {"n": n})
    ledger.erase(STEP, [key(1)])
    done.set()
    thread.join()
    assert ledger.count(STEP) == (199, 0)


# -- erasure -------------------------------------------------------------------------------------


def test_erased_is_gone(ledger: Ledger) -> None:
    ledger.put(STEP, key(1), {"completion": "secret one"}, ok=False)
    for n in range(4):
        ledger.put(STEP, key(n), {"answer": f"secret {n}"})
    assert ledger.erase(STEP, [key(1), key(3), key(77)]) == 2
    text = (ledger.folder / "aspects.jsonl").read_text()
    assert "secret one" not in text
    assert "secret 1" not in text
    assert "secret 3" not in text
    assert [ledger.has(STEP, key(n)) for n in range(4)] == [True, False, True, False]
    ledger.put(STEP, key(1), {"answer": "new"})
    assert ledger.get(STEP, key(2)) == {"answer": "secret 2"}
    assert ledger.get(STEP, key(1)) == {"answer": "new"}
    ledger.close()
    with Ledger(ledger.folder) as again:
        assert again.count(STEP) == (3, 0)


def test_an_erasure_that_fails_changes_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.put(STEP, key(1), {"answer": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ledger.put(STEP, key(2), {"answer": "x" * 100_000})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        with pytest.raises((StorageFullError, InputError)):
            ledger.erase(STEP, [key(1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ledger.get(STEP, key(1)) == {"answer": 1}
    assert not list(ledger.folder.glob(".*.unfinished"))


def test_a_killed_erasure_leaves_nothing_behind(tmp_path: Path) -> None:
    left = tmp_path / f".aspects.jsonl.{os.getpid()}.unfinished"
    left.write_text("somebody's words")
    with Ledger(tmp_path):
        assert not left.exists()
