"""Ceilings over time: what the ledger of a folder has recorded counts, whoever spent it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from indexer.ledger import Ledger, request_key
from indexer.llm.budget import Budget
from indexer.llm.request import Usage
from p4r_qdrant.settings import LLMSettings

DAY_S = 86_400


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An answer of today, one that failed twice, and one of last month: 100 tokens each."""
    with Ledger(tmp_path / "ledger") as ledger:
        now = int(time.time())
        put(ledger, "today", now - 60)
        put(ledger, "failed", now - DAY_S, ok=False)
        put(ledger, "failed", now - DAY_S + 5, ok=False)
        put(ledger, "old", now - 30 * DAY_S, cost_usd=0.5)
        yield ledger


def put(ledger: Ledger, what: str, at: int, *, ok: bool = True, **changes: Any) -> None:
    spent = {"calls": 1, "prompt_tokens": 80, "completion_tokens": 20, "cost_usd": None}
    record = {"about": {}, "time": at} | spent | changes
    ledger.put("aspects", request_key(template="t", content=what, model="m"), record, ok=ok)


def budget(ledger: Ledger, **settings: Any) -> Budget:
    return Budget(LLMSettings(model="m", **settings), ledger)


def spend(one: Budget, tokens: int) -> None:
    one._count(int(time.time()) // 3600, Usage(1, tokens, 0, 0.0))


@pytest.mark.parametrize(("days", "left"), [(2, 200), (60, 100), (0.5, 400)])
def test_what_the_ledger_recorded_in_these_days_counts(
    days: float, left: int, ledger: Ledger
) -> None:
    one = budget(ledger, max_tokens=500, ceiling_days=days)
    assert one.exceeded(Usage(1, left, 0)) == ""
    assert "500 tokens" in one.exceeded(Usage(1, left + 1, 0))
    spend(one, 50)
    assert "500 tokens" in one.exceeded(Usage(1, left - 49, 0))
    assert one.usage.tokens == 0, "of this process"
    assert f"this folder in the last {days:g} days has used {550 - left} tokens" in str(
        one.reached("the ceiling")
    )


def test_without_days_each_process_begins_anew(ledger: Ledger) -> None:
    one = budget(ledger, max_tokens=500)
    assert one.exceeded(Usage(1, 500, 0)) == ""
    assert "this run has used 0 tokens" in str(one.reached("the ceiling"))


def test_what_was_spent_leaves_the_account_with_time(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = budget(ledger, max_tokens=500, ceiling_days=2)
    spend(one, 200)
    assert one.exceeded(Usage(1, 1, 0)) != ""
    now = time.time() + 1.5 * DAY_S
    monkeypatch.setattr(time, "time", lambda: now)
    assert one.counted.tokens == 300
    now += DAY_S
    assert one.counted.tokens == 0


def test_answers_without_a_cost_are_priced_as_now(ledger: Ledger) -> None:
    prices = {"price_input": 1000.0, "price_output": 2000.0}
    one = budget(ledger, max_cost_usd=1.0, ceiling_days=60, **prices)
    assert one.counted.cost_usd == pytest.approx(3 * 0.12 + 0.5)
    assert "1 USD" in one.exceeded(Usage(1, 0, 0, 0.2))
