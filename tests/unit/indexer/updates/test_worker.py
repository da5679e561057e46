"""The worker is killed, and the service works beside it: nothing of an erased user comes back."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from devtools.scripted_llm import ScriptedLLM
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.journal import Journal
from indexer.artifacts.names import ERASURES
from indexer.ledger import Ledger
from indexer.prompts import Domain
from indexer.reasoning.step import Sources
from indexer.step_file import StepFile
from indexer.updates.worker import Worker
from p4r_qdrant import Settings
from p4r_qdrant.encoder.cache import VectorCache
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.records import Item, Persona, Review
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.settings import HistorySettings, LLMSettings
from p4r_qdrant.users.opening import open_store
from p4r_qdrant.users.records import ItemWork, Job, StoredInteraction
from p4r_qdrant.users.sqlite import SqliteInteractions, SqliteJobs
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.interleaving import Interleaving, orders
from tests.support.jsonl import write
from tests.support.kills import Kills
from tests.support.memory_index import MemoryEngine, MemoryIndex
from tests.support.obliging_llm import obliging
from tests.support.reviewing import decide, in_review

_TIME = re.compile(r', "time": \d+')
HIS = "bob carried this kettle up every hill and made tea on the way home."
HERS = "eve gave her copy to a neighbour who cannot sleep before four o'clock."


def review(user_id: str, text: str, item_id: str = "kettle") -> dict[str, Any]:
    return {"user_id": user_id, "item_id": item_id, "rating": 5, "timestamp": 5, "text": text}


def persona(item_id: str, number: int, *evidence: str) -> Persona:
    return Persona(
        persona_id=f"{item_id}_P{number}",
        name=f"Reader {number} of {item_id}",
        description=f"Old words on {', '.join(evidence)}.",
        preference_rationale="Old.",
        evidence=list(evidence),
    )


@pytest.fixture(scope="module")
def llm() -> Iterator[ScriptedLLM]:
    with ScriptedLLM(obliging) as server:
        yield server


class Shop:
    """A folder, an index and a store with two items that bob reviewed: one by him alone."""

    def __init__(self, path: Path, llm: ScriptedLLM) -> None:
        self.path = path / "artifacts"
        (self.path / "ledger").mkdir(parents=True)
        items = [{"item_id": one, "title": one.title()} for one in ("kettle", "pan")]
        write(self.path, "items.jsonl", items)
        reviews = [review("bob", HIS), review("eve", HERS), review("bob", HIS, "pan")]
        write(self.path, "reviews.jsonl", reviews)
        aspects = {"mood": "warm"}
        write(
            self.path,
            "aspects.jsonl",
            [
                {"user_id": o["user_id"], "item_id": o["item_id"], "aspects": aspects}
                for o in reviews
            ],
        )
        personas = {
            "kettle": [persona("kettle", 1, "bob", "eve"), persona("kettle", 2, "bob")],
            "pan": [persona("pan", 1, "bob")],
        }
        write(
            self.path,
            "personas.jsonl",
            [
                {"item_id": item_id, "personas": [one.model_dump() for one in own]}
                for item_id, own in personas.items()
            ],
        )
        encoder = HashEncoder()
        self.index = MemoryIndex(encoder.dimension, encoder.fingerprint)
        for item_id, own in personas.items():
            self.index.replace_item(item_id, own, encoder.encode_personas(own), {})
        self.cache = VectorCache(1.0)
        self.settings: Settings = embedded(path / "index")
        (path / "index").mkdir()  # where a publish would say that it is under way
        self.store = open_store(self.settings, "v", IndexMetadata.of(encoder), HistorySettings())
        self.live = SimpleNamespace(users=self.store, writer=self.index, encoder=encoder)
        own_llm = LLMSettings(base_url=llm.url, attempts=1, retry_for_s=0.0, concurrency=1)
        self.sources = Sources(ArtifactFolder(self.path), Domain.load("books"), own_llm)

    # What the worker asks of a backend.
    def open(self) -> bool:
        return True

    def follow(self) -> None: ...

    def refresh(self) -> bool:
        return False

    def is_now(self, _: object) -> bool:
        return True

    @contextmanager
    def in_use(self) -> Iterator[Any]:
        yield self.live

    def work(self, rounds: int = 20) -> None:
        """A worker process, until no job is due."""
        with Ledger(self.path / "ledger") as ledger:
            worker = Worker(cast("Backend", self), self.sources, ledger)

            async def until_done() -> None:
                for _ in range(rounds):
                    if not await worker.work_once():
                        return

            asyncio.run(until_done())

    def state(self) -> dict[str, Any]:
        """What is stored anywhere, but for the order of lines and the times."""
        files = {
            str(path.relative_to(self.path)): sorted(_TIME.sub("", path.read_text()).splitlines())
            for path in self.path.rglob("*.jsonl")
            if path.read_text() and path.name != ERASURES  # it tells of each run
        }
        held = {one.persona_id: one.description for own in self.index.items() for one in own}
        jobs = [*self.store.jobs.due(99), *self.store.jobs.failed(99)]
        return {"files": files, "index": held, "jobs": [job.key for job in jobs]}

    def words(self) -> str:
        """Everything of the folder, the index and the store in one text."""
        files = [one.read_text() for one in sorted(self.path.rglob("*")) if one.is_file()]
        held = [str(own) for own in self.index.items()]
        jobs = [json.dumps(dict(one.body)) for one in self.store.jobs.of_items()]
        return "\n".join([*files, *held, *jobs, *map(str, self.store.interactions.of("bob"))])


def watch(turns: Kills | Interleaving) -> None:
    turns.watch(Path, "replace", "unlink")
    turns.watch(StepFile, "append")
    turns.watch(Journal, "_append")
    turns.watch(MemoryEngine, "upsert", "delete", "clear_mark")


def test_a_worker_killed_at_any_write_of_an_erasure_ends_as_if_undisturbed(
    tmp_path: Path, llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = Kills(monkeypatch)
    watch(kills)
    kills.watch(SqliteJobs, "add", "finish", "update")
    whole = Shop(tmp_path / "whole", llm)
    whole.store.erase("bob")
    whole.work()
    wanted = whole.state()
    assert wanted["jobs"] == []
    assert wanted["index"].keys() == {"kettle_P1", "pan_P1"}, "made again from what is left"
    assert "Old words" not in str(wanted)
    assert "bob" not in whole.words()
    whole.store.close()
    for place in kills.rounds(stride=5):
        shop = Shop(tmp_path / str(place), llm)
        shop.store.erase("bob")
        with kills:
            shop.work()
        shop.work()
        assert shop.state() == wanted, place
        shop.store.close()


def test_a_worker_beside_the_service_brings_nothing_of_an_erased_user_back(
    tmp_path: Path, llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Interleaving(monkeypatch)
    turns.watch(SqliteJobs, "add", "due", "finish", "of_items", "replace_body")
    turns.watch(SqliteInteractions, "erase", "look_up", "set_aspects")
    turns.watch(Journal, "write")

    def run(name: str, order: Any) -> None:
        shop = waiting(tmp_path / name, llm)
        turns.run(order, lambda: shop.store.erase("bob"), lambda: shop.work(rounds=3))
        shop.work()
        assert "bob" not in shop.words(), order
        assert "eve" in shop.words()
        shop.store.close()

    run("first", [(0, 1 << 30)])
    for number, order in enumerate(orders(turns.steps[0], turns.steps[1])):
        run(str(number), order)


def test_a_service_killed_at_any_write_of_an_erasure_erases_all_or_nothing(
    tmp_path: Path, llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = Kills(monkeypatch)
    kills.watch(SqliteJobs, "add", "replace_body")
    kills.watch(SqliteInteractions, "erase")
    for place in kills.rounds():
        shop = waiting(tmp_path / str(place), llm)
        with kills:
            shop.store.erase("bob")
        shop.work()
        assert ("bob" in shop.words()) == (place == 0), place
        shop.store.close()


def waiting(path: Path, llm: ScriptedLLM) -> Shop:
    """A shop with a review of bob to read, and an item with a review of his to reason on."""
    shop = Shop(path, llm)
    said = StoredInteraction("bob", "kettle", 7, 5.0, review_text=HIS)
    body = {"item_id": "kettle", "timestamp": 7}
    shop.store.add(said, Job("aspects bob", "aspects", "bob", body))
    reviews = [Review.model_validate(review("bob", f"Again. {HIS}", "new"))]
    shop.store.jobs.add(
        ItemWork(item_id="new", item=Item(item_id="new", title="New"), reviews=reviews).job()
    )
    return shop


def test_a_worker_asks_with_the_remark_of_a_reviewer(tmp_path: Path, llm: ScriptedLLM) -> None:
    shop = Shop(tmp_path, llm)
    shop.store.jobs.add(ItemWork(item_id="kettle").job())
    shop.work()
    [first, *_] = in_review(shop.path, "kettle")
    decide(shop.path, "ask", "kettle", first, remark="Say where she drinks it.")
    before = len(llm.calls)
    shop.store.jobs.add(ItemWork(item_id="kettle").job())
    shop.work()
    assert ["Say where she drinks it." in call.user for call in llm.calls[before:]] == [True]
    shop.store.jobs.add(ItemWork(item_id="kettle").job())
    shop.work()
    assert len(llm.calls) == before + 1
