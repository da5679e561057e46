"""`p4r publish` or `index` while `p4r add` works on the same folder and index, in every order."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.index_rows import IndexRow
from indexer.artifacts.journal import Journal, Reasoned
from indexer.artifacts.lines import Refusals
from indexer.indexing import publish as publishing
from indexer.indexing.items import ItemIndexer, index_artifacts
from indexer.indexing.publish import PublishOptions, publish
from p4r_qdrant import Settings
from p4r_qdrant.index.payload import payload_fields
from p4r_qdrant.records import Item, ItemPersonas, Persona, Summary
from tests.support.hash_encoder import HashEncoder
from tests.support.interleaving import Interleaving, orders
from tests.support.jsonl import read, write
from tests.support.memory_index import MemoryEngine, MemoryIndex


def personas(item_id: str, text: str) -> ItemPersonas:
    one = Persona(
        persona_id=f"{item_id}_P0", name=text, description=text, preference_rationale="It is good."
    )
    return ItemPersonas(item_id=item_id, personas=[one])


class OneVersion:
    """The versions of a `MemoryIndex`: itself, live."""

    alias = location = "memory"

    def __init__(self, index: MemoryIndex) -> None:
        self._index = index

    def __enter__(self) -> "OneVersion":
        return self

    def __exit__(self, *_: object) -> None: ...

    def of(self, _: str) -> str:
        return self._index.version

    def live(self) -> str:
        return self._index.version

    def check_switch(self, _: str) -> None: ...

    def begin_publish(self) -> int:
        return 1

    def sole_writer(self, _: str) -> AbstractContextManager[None]:
        return nullcontext()

    def all(self) -> list[Any]:
        return []

    def open(self, *_: object) -> MemoryIndex:
        return self._index


class Shop:
    """A folder, its index, and the two commands."""

    def __init__(self, path: Path, index: MemoryIndex, encoder: HashEncoder) -> None:
        path.mkdir()
        self.folder = ArtifactFolder(path)
        self.index = index
        self.encoder = encoder
        write(path, "items.jsonl", [{"item_id": one, "title": one} for one in ("a", "b", "bare")])
        write(path, "summaries.jsonl", [{"item_id": "a", "summary": "About a."}])
        write(path, "personas.jsonl", [personas(one, f"old {one}").model_dump() for one in "ab"])

    def publish(self) -> None:
        publish(self.folder, self.encoder, Settings(), PublishOptions("books"), Refusals())

    def edit(self) -> None:
        """Personas that are not in the index yet, or were."""
        rows = [personas(one, f"edited {one}").model_dump() for one in "ab"]
        write(self.folder.path, "personas.jsonl", rows)

    def index_again(self) -> None:
        index_artifacts(self.folder, self.encoder, self.index, domain="books", refusals=Refusals())

    def add(self) -> None:
        """What `p4r add` and `p4r work` do around the LLM."""
        indexer = ItemIndexer(self.encoder, self.index, Refusals())
        with Journal(self.folder) as journal:
            journal.take(Item(item_id="new", title="new"))
            for item_id in ("a", "bare"):
                journal.ask_again(item_id)
            for item_id in ("new", "a", "bare"):
                made, item = personas(item_id, f"new {item_id}"), journal.item(item_id)
                fields = payload_fields(item, f"About {item_id}.", "books")
                indexer.index_rows([IndexRow(item_id, made, f"About {item_id}.", fields)])
                summary = Summary(item_id=item_id, summary=f"About {item_id}.")
                journal.settle(item_id, Reasoned(summary, {}, made))
            journal.write()

    def check(self) -> None:
        lines = read(self.folder.path / "personas.jsonl")
        expected = {one["item_id"]: one["personas"][0]["name"] for one in lines}
        assert expected.keys() == {"a", "b", "new", "bare"}
        held = {one.item_id: one for own in self.index.items() for one in own}
        assert {item_id: one.name for item_id, one in held.items()} == expected
        for item_id, one in held.items():
            assert one.fields["item_title"] == item_id
        assert held["new"].fields["summary"] == "About new."


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Shop]:
    encoder = HashEncoder()
    opened: list[MemoryIndex] = []
    monkeypatch.setattr(publishing, "open_versions", lambda _: OneVersion(opened[-1]))
    monkeypatch.setattr(publishing, "note_typical_user", lambda *_: None)

    def make(name: str) -> Shop:
        opened.append(MemoryIndex(encoder.dimension, encoder.fingerprint))
        shop = Shop(tmp_path / name, opened[-1], encoder)
        shop.publish()
        return shop

    return make


@pytest.mark.parametrize("command", [Shop.publish, Shop.index_again])
def test_what_add_has_indexed_stays(
    command: Callable[[Shop], None],
    shops: Callable[[str], Shop],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = Interleaving(monkeypatch)
    turns.watch(Path, "replace", "open")
    turns.watch(Journal, "_append")
    turns.watch(MemoryEngine, "upsert", "delete", "item_ids", "written")
    shop = shops("first")
    turns.run([(0, 1 << 30)], shop.add, lambda: command(shop))
    shop.check()
    added, done = turns.steps
    looking_again = 4  # steps that a publish takes only where it finds strangers
    for number, order in enumerate(orders(added, done + looking_again)):
        shop = shops(str(number))
        shop.edit()
        turns.run(order, shop.add, lambda shop=shop: command(shop))  # type: ignore[misc]
        try:
            shop.check()
        except AssertionError as error:
            raise AssertionError(f"{order}: {error}") from None
