"""`p4r peers bench`: what is measured, what is extrapolated, and what is earned back."""

from pathlib import Path
from typing import Any

import pytest
import torch

from devtools.scripted_llm import Call, Reply, ScriptedLLM
from indexer.artifacts.folder import ArtifactFolder
from indexer.ledger import Ledger
from indexer.llm import Usage
from indexer.peers import registry
from indexer.peers.bench import Bench, BenchPlan
from indexer.peers.cells import Cell, Load, extrapolated, speedup
from indexer.peers.memory import device_bytes, resident_bytes
from indexer.peers.offline import OfflineCost, earned_back, offline_cost
from indexer.peers.protocol import PeerQuery
from indexer.progress import SILENT
from indexer.prompts import Domain
from indexer.reasoning.step import Sources
from p4r_qdrant.records import Interaction
from p4r_qdrant.settings import LLMSettings
from tests.support import scripted_peers
from tests.support.paths import BOOKSHOP
from tests.support.scripted_peers import Sources as PeerSourcesOf
from tests.support.scripted_peers import query


def users(count: int, candidates: int) -> list[PeerQuery]:
    texts = query(range(candidates))
    history = [Interaction("x", n, f"A book of {n}.", rating=4.0) for n in range(count)]
    return [PeerQuery(f"u{n}", (history[n],), texts.candidates) for n in range(count)]


def settings(url: str, **more: Any) -> LLMSettings:
    prices = {"price_input": 1, "price_output": 1}
    return LLMSettings(base_url=url, model="m", concurrency=4, **prices | more)


def test_every_call_is_measured_and_none_is_cached(sources: PeerSourcesOf) -> None:
    plan = BenchPlan((1, 3), (2, 4), seconds=60)
    with ScriptedLLM(scripted_peers.perfect, latency_s=0.05) as llm:
        bench = Bench(plan, users(3, 4), SILENT)
        peer = registry.made("pointwise", sources(llm.url))
        cells = bench.cells(peer, "pointwise", settings(llm.url), 60)
        calls = len(llm.calls)
    assert [(one.users, one.candidates, one.measured) for one in cells] == [
        (1, 2, True),
        (1, 4, True),
        (3, 2, True),
        (3, 4, True),
    ]
    assert calls == sum(one.requests * one.calls for one in cells) == 3 * (2 + 4) * 2
    for one in cells:
        assert 0.05 <= (one.p50_s or 0) <= (one.p95_s or 0) <= 5
        assert one.wall_s
        assert (one.cold_s is None) == (one.users > 1)
        assert one.tokens == 120 * one.calls
        assert one.cost_usd == pytest.approx(120e-6 * one.calls)
        assert one.failed_share == 0


def test_cells_without_time_or_users_are_extrapolated(sources: PeerSourcesOf) -> None:
    plan = BenchPlan((1, 100), (2, 4), seconds=60)
    with ScriptedLLM(scripted_peers.perfect) as llm:
        bench = Bench(plan, users(3, 4), SILENT)
        peer = registry.made("listwise", sources(llm.url))
        cells = bench.cells(peer, "listwise", settings(llm.url), 0.5)
    measured = [one for one in cells if one.measured]
    assert (measured[0].users, measured[0].candidates) == (1, 2)
    for one in cells[2:]:
        assert not one.measured
        assert one.requests == 0
        assert "one after the other" in one.note


def test_a_peer_that_never_answers_in_time_has_no_figures(sources: PeerSourcesOf) -> None:
    def slow(call: Call) -> Reply:
        return scripted_peers.perfect(call).slowly(5)

    with ScriptedLLM(slow) as llm:
        bench = Bench(BenchPlan((1,), (2,)), users(1, 2), SILENT)
        peer = registry.made("listwise", sources(llm.url))
        [cell] = bench.cells(peer, "listwise", settings(llm.url), 0.2)
    assert (cell.measured, cell.p50_s) == (False, None)
    assert cell.note == "no request ended within 0 s"


def test_time_grows_with_tokens_and_users() -> None:
    loads = {20: Load(1, 1000), 50: Load(4, 4000)}
    one = Cell("p", 1, 20, True, 5, 3.0, 2.0, 2.5, 2.0, 1, 900, 100, 0.001, 0.0)
    far = extrapolated("p", 1, 50, [one], loads)
    assert (far.p50_s, far.calls, far.tokens, far.cost_usd) == (8.0, 4, 4000, 0.004)
    crowd = extrapolated("p", 10, 20, [one], loads)
    assert crowd.wall_s == 20.0
    ten = Cell("p", 10, 20, True, 10, None, 4.0, 5.0, 5.0, 1, 900, 100)
    assert speedup([one, ten]) == 4.0
    hundred = extrapolated("p", 100, 20, [one, ten], loads)
    assert hundred.wall_s == 50.0
    assert "4.0 requests at a time" in hundred.note


def test_offline_cost_is_estimated_or_what_was_paid(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    for path in BOOKSHOP.glob("*.jsonl"):
        (tmp_path / "shop" / path.name).write_bytes(path.read_bytes())
    llm = LLMSettings(model="m", price_input=1, price_output=1)
    sources = Sources(ArtifactFolder(tmp_path / "shop"), Domain.load("books"), llm)
    estimated = offline_cost(sources)
    assert not estimated.paid
    assert estimated.usage.calls > 100
    record = {"calls": 2, "prompt_tokens": 900, "completion_tokens": 100, "cost_usd": 0.5}
    with Ledger(tmp_path / "shop" / "ledger") as ledger:
        ledger.put("personas", "a" * 32, record | {"answer": {}})
    assert offline_cost(sources) == OfflineCost(Usage(2, 900, 100, 0.5), paid=True)


def test_what_is_earned_back() -> None:
    cell = Cell("p", 1, 20, True, prompt_tokens=90, completion_tokens=10, cost_usd=0.01)
    assert earned_back(OfflineCost(Usage(1, 900, 100, 2.0), paid=True), cell) == 200
    assert earned_back(OfflineCost(Usage(1, 900, 100, None), paid=True), cell) == 10
    free = Cell("personas", 1, 20, True)
    assert earned_back(OfflineCost(Usage(1, 900, 100, 2.0), paid=True), free) is None


def test_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_bytes() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda number: 1000 + number)
    assert device_bytes() == 2001


def test_memory_of_this_process() -> None:
    assert (resident_bytes() or 0) > 10_000_000
    assert resident_bytes(2**30) is None
