"""Columns for an index against EASE by its formula, and what they depend on."""

import dataclasses
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from indexer.artifacts.lines import Refusals
from indexer.collaborative import fitting
from indexer.collaborative.finished import finished_parts
from indexer.collaborative.fitting import Inputs, extended, fitted_columns, method_for
from indexer.collaborative.hypothetical import PersonaVectors
from indexer.collaborative.weights import neighbourhood_columns
from indexer.evaluation.interactions import interactions_in
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.columns import Column
from p4r_qdrant.settings import CollaborativeSettings
from tests.support.damage import flip
from tests.support.messages import sentence
from tests.support.publishing import write_reviews

ITEMS = [f"i{number}" for number in range(9)]
PAIRS = [(f"u{user}", ITEMS[(user + step * step) % 7]) for user in range(12) for step in (1, 2, 3)]
"""No user has i7 or i8: they are cold."""


def personas(items: list[str]) -> PersonaVectors:
    rows = np.random.default_rng(1).standard_normal((2 * len(items), 6)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return PersonaVectors(items, unit, np.arange(0, len(unit) + 1, 2))


def inputs(tmp_path: Path, pairs: list[tuple[str, str]] = PAIRS, **settings: Any) -> Inputs:
    write_reviews(tmp_path, pairs)
    found = interactions_in([tmp_path / "reviews.jsonl"], set(), Refusals())
    own = personas(ITEMS[1:])
    numbers = {one: 30 - 3 * place for place, one in enumerate(ITEMS)}
    chosen = CollaborativeSettings.model_validate({"l2": 5.0, "share": 0.7, "keep": 5} | settings)
    return Inputs(found.with_items(ITEMS), own, numbers, set(ITEMS), chosen)


def by_formula(given: Inputs) -> npt.NDArray[np.float64]:
    rows = extended(given).toarray().astype(np.float64)
    inverse = np.linalg.inv(rows.T @ rows + given.settings.l2 * np.eye(rows.shape[1]))
    b: npt.NDArray[np.float64] = -inverse / np.diag(inverse)
    np.fill_diagonal(b, 0)
    return b


def dense(given: Inputs) -> npt.NDArray[np.float64]:
    found = np.zeros((len(ITEMS), len(ITEMS)))
    item_of = {number: ITEMS.index(one) for one, number in given.numbers.items() if one in ITEMS}
    for column in fitted_columns(given):
        if column.item_id in ITEMS:
            assert column.number == given.numbers[column.item_id]
            assert (np.diff(column.places.astype(int)) > 0).all()
            rows = [item_of[one] for one in column.places.tolist()]
            found[rows, ITEMS.index(column.item_id)] = column.values
    return found


@pytest.mark.parametrize("most", [30_000, 0])
def test_the_columns_are_those_of_ease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """By either method: with as few items as neighbours, they are the same."""
    monkeypatch.setattr(fitting, "MOST_ITEMS", most)
    given = dataclasses.replace(inputs(tmp_path, keep=9), personas=personas(ITEMS))
    assert given.method == ("exact" if most else "by neighbourhood")
    found, wanted = dense(given), by_formula(given)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert np.abs(found[:, 8]).max() > 1e-3, "a cold item has a column through the personas"


def content(columns: Iterable[Column]) -> list[tuple[Any, ...]]:
    return [(one.item_id, one.places.tobytes(), one.values.tobytes()) for one in columns]


def killed_after(given: Inputs, folder: Path, count: int) -> None:
    """Fit in a process that dies by a signal once it has given so many columns."""
    if (process := os.fork()) == 0:
        with finished_parts(folder, given.hash) as finished:
            for number, _ in enumerate(fitted_columns(given, finished), start=1):
                if number == count:
                    os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process that it forks")
def test_a_killed_fit_by_neighbourhood_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished blocks are not made again, and the end is the same, byte by byte."""
    monkeypatch.setattr(fitting, "MOST_ITEMS", 0)
    monkeypatch.setattr(fitting, "COLUMNS_A_BLOCK", 2)
    given = dataclasses.replace(inputs(tmp_path, keep=9, columns=4), personas=personas(ITEMS))
    whole = content(fitted_columns(given))
    begun: list[int] = []

    def noted(rows: Any, l2: float, *, first: int) -> Any:
        begun.append(first)
        return neighbourhood_columns(rows, l2, first=first)

    monkeypatch.setattr(fitting, "neighbourhood_columns", noted)
    for count, goes_on_at in ((1, 2), (6, 6), (8, 8), (9, None)):
        killed_after(given, tmp_path, count)
        begun.clear()
        with finished_parts(tmp_path, given.hash) as finished:
            assert content(fitted_columns(given, finished)) == whole
        assert begun == ([] if goes_on_at is None else [goes_on_at])
        assert not (tmp_path / "fitting").exists()

    killed_after(given, tmp_path, 7)
    [own] = (tmp_path / "fitting").iterdir()
    damaged = own / "columns-2.npz"
    with np.load(damaged) as held:
        flip(damaged, damaged.read_bytes().index(held["values"].tobytes()))
    (own / "columns-6.npz").write_bytes(b"")
    other = own.with_name("of-other-inputs")
    other.mkdir()
    begun.clear()
    monkeypatch.setattr(fitting, "affinities", None)  # A is kept, too
    with finished_parts(tmp_path, given.hash) as finished:
        assert not other.exists()
        assert content(fitted_columns(given, finished)) == whole
    assert begun == [2, 6], "what is damaged is made again"


def test_a_column_keeps_its_largest_entries(tmp_path: Path) -> None:
    given = inputs(tmp_path, columns=3)
    found, wanted = dense(given), by_formula(given)
    for column, whole in zip(found.T, wanted.T, strict=True):
        kept = np.flatnonzero(column)
        assert len(kept) == 3
        assert set(kept) == set(np.argsort(-np.abs(whole))[:3])


def test_an_item_that_left_the_catalogue_has_a_row_and_no_column(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    gone = dataclasses.replace(
        given, catalogue=set(ITEMS[1:]), numbers={**given.numbers, "long gone": 2}
    )
    assert not dense(gone)[:, 0].any()
    assert dense(gone)[0].any(), "histories hold it"
    empty = {one.item_id: one.number for one in fitted_columns(gone) if not len(one.places)}
    assert empty == {"i0": 30, "long gone": 2}


def test_without_interactions_the_personas_alone_speak(tmp_path: Path) -> None:
    given = inputs(tmp_path, pairs=[])
    assert given.interactions.users == []
    assert extended(given).shape == (16, 9)
    assert dense(given) == pytest.approx(by_formula(given), abs=1e-5)
    assert dense(given).any()
    assert not dense(inputs(tmp_path, pairs=[], share=0)).any()


def test_the_hash_covers_what_the_columns_depend_on(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    assert inputs(tmp_path).hash == given.hash
    assert inputs(tmp_path, decay=0.1, memory_gb=3).hash == given.hash
    own = PersonaVectors(given.personas.items, -given.personas.vectors, given.personas.starts)
    others = [
        inputs(tmp_path, l2=6.0),
        inputs(tmp_path, share=0.8),
        inputs(tmp_path, keep=4),
        inputs(tmp_path, columns=2),
        inputs(tmp_path, pairs=PAIRS[1:]),
        dataclasses.replace(given, personas=own),
        dataclasses.replace(given, catalogue=set(ITEMS[1:])),
        dataclasses.replace(given, numbers={**given.numbers, "i0": 99}),
    ]
    assert len({given.hash, *(one.hash for one in others)}) == 1 + len(others)


def test_memory_is_checked_before(tmp_path: Path) -> None:
    given = inputs(tmp_path, memory_gb=1e-6)
    with pytest.raises(InputError, match=r"P4R_COLLABORATIVE__MEMORY_GB allows 1e-06") as caught:
        next(fitted_columns(given))
    assert "--no-collaborative" in sentence(caught)
    settings = CollaborativeSettings()
    assert method_for(30_000, 1_000_000, (100_000, 384), settings) == "exact"
    assert method_for(30_001, 1_000_000, (100_000, 384), settings) == "by neighbourhood"
    small = CollaborativeSettings(memory_gb=3)
    assert method_for(30_000, 1_000_000, (100_000, 384), small) == "by neighbourhood"
    with pytest.raises(InputError, match=r"the collaborative part of 2,000,000 items takes about"):
        method_for(2_000_000, 1_000_000, (100_000, 384), settings)
