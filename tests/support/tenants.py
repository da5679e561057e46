"""What one tenant sees and can do, through every way of reading and writing."""

import inspect
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from qdrant_client import QdrantClient

from p4r_qdrant import Persona, PersonaIndex, Settings
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.user_vector import user_vector
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.columns import CollaborativePart, Column
from p4r_qdrant.index.metadata import IndexMetadata, today
from p4r_qdrant.index.opening import open_tenants, open_versions
from p4r_qdrant.index.payload import ItemVectors
from p4r_qdrant.index.versions import Versions
from p4r_qdrant.users.contracts import Interactions, Jobs, UserVectors
from p4r_qdrant.users.opening import keeps_users, open_store
from p4r_qdrant.users.records import Job, StoredInteraction
from p4r_qdrant.users.store import UserStore
from tests.support.hash_encoder import HashEncoder
from tests.support.stored_words import content

DIMENSION = 8
ENCODER = HashEncoder(DIMENSION)
ITEMS = ["ships", "cakes", "roses"]
USERS = ["eve", "max"]


def vector_of(text: str) -> Floats:
    """A vector (dim,) that scores as no other one: ties come in any order."""
    row = np.random.default_rng(zlib.crc32(text.encode())).normal(size=DIMENSION)
    vector: Floats = (row / np.linalg.norm(row)).astype(np.float32)
    return vector


def tenant(settings: Settings, name: str) -> Settings:
    """The settings of a tenant of the index of other settings."""
    index = settings.index.model_copy(update={"tenants": True})
    return settings.model_copy(update={"index": index}).of_tenant(name)


def add(settings: Settings) -> None:
    with open_tenants(settings) as tenants:
        assert tenants.add(settings.index.tenant)


def bytes_of(settings: Settings) -> Any:
    """Everything that is stored of a tenant, as it is stored: by collection, or by file."""
    own, name = settings.qdrant, settings.index.tenant
    if own.url is None:
        files = [*settings.folder.rglob("*"), *settings.folder.parent.glob(f"{name}[-.]*")]
        return {str(path): content(path) for path in sorted(files) if path.is_file()}
    found = {}
    key = own.api_key.get_secret_value() if own.api_key else None
    with closing(QdrantClient(own.url, api_key=key)) as client:
        for each in client.get_collections().collections:
            if each.name.startswith(f"{own.collection}-"):
                points, _ = client.scroll(each.name, limit=1000, with_vectors=True)
                mine = [one for one in points if (one.payload or {})["tenant"] == name]
                found[each.name] = sorted(point.model_dump_json() for point in mine)
    return {name: points for name, points in found.items() if points}


@dataclass(frozen=True)
class Shop:
    """A tenant, whose every text says `word`. The ids are those of all others."""

    settings: Settings
    word: str

    def personas(self, item_id: str, count: int = 2) -> list[Persona]:
        return [
            Persona(
                persona_id=f"{item_id}_P{number}",
                name=f"{self.word} {number}",
                description=self.word,
                preference_rationale=f"because {self.word}",
            )
            for number in range(count)
        ]

    def vectors(self, item_id: str, count: int = 2) -> Any:
        return np.stack([vector_of(f"{self.word} {item_id} {one}") for one in range(count)])

    def item(self, item_id: str, count: int = 2) -> ItemVectors:
        fields = {"item_title": self.word, "summary": self.word, "language": self.word}
        personas = self.personas(item_id, count)
        return ItemVectors(item_id, personas, self.vectors(item_id, count), fields)

    def did(self, user_id: str, item_id: str, at: int = 1) -> StoredInteraction:
        one = StoredInteraction(
            user_id, item_id, at, 3.0, self.word, self.word, self.word, self.word
        )
        return one.encoded(ENCODER.encode_texts([one.text])[0])

    def job(self, user_id: str, item_id: str) -> Job:
        review = {"user_id": user_id, "item_id": item_id, "text": self.word}
        return Job(f"item {item_id}", "item", user_id, {"item_id": item_id, "reviews": [review]})

    def columns(self) -> list[Column]:
        value = float(1 + len(self.word))
        return [
            Column(one, number, np.array([0, 2], np.uint32), np.array([value, value], np.float32))
            for number, one in enumerate(ITEMS)
        ]

    @contextmanager
    def opened(self) -> Iterator["Opened"]:
        with open_versions(self.settings) as versions:
            made_with = IndexMetadata.of(ENCODER)
            with versions.open_live(made_with) as index:
                store = open_store(self.settings, index.version, made_with, self.settings.history)
                with closing(store):
                    yield Opened(self, versions, index, store)


@contextmanager
def two_shops(settings: Settings) -> Iterator[tuple["Opened", "Opened"]]:
    """Two tenants that have everything, under the same ids."""
    apple = Shop(tenant(settings, "shop-a"), "apple")
    birch = Shop(tenant(settings, "shop-b"), "birch")
    add(apple.settings)
    add(birch.settings)
    with apple.opened() as a, birch.opened() as b:
        a.fill()
        b.fill()
        yield a, b


@dataclass(frozen=True)
class Opened:
    shop: Shop
    versions: Versions
    index: PersonaIndex
    users: UserStore

    def fill(self) -> None:
        """Everything that can be stored, in one piece of each."""
        self.index.load(map(self.shop.item, ITEMS))
        self.index.record_typical_user(ENCODER.encode_texts([self.shop.word])[0])
        part = CollaborativePart(0, today(), 10, 0, 1, settings={})
        self.index.write_collaborative(part, self.shop.columns())
        for user_id in USERS:
            for at, item_id in enumerate(ITEMS):
                one = self.shop.did(user_id, item_id, at)
                self.users.add(one, self.shop.job(user_id, item_id))
        self.versions.begin_publish()

    def seen(self) -> dict[str, Any]:
        """The answers of all ways of reading, as they can be compared."""
        return {name: read(self) for name, read in READS.items()}


def _listed(found: Any) -> Any:
    """Arrays and records as something that can be compared and printed."""
    if isinstance(found, np.ndarray):
        return found.round(4).tolist()
    if isinstance(found, dict):
        return {key: _listed(one) for key, one in found.items()}
    if isinstance(found, (list, tuple)):
        return [_listed(one) for one in found]
    if hasattr(found, "__dataclass_fields__"):
        return {name: _listed(getattr(found, name)) for name in found.__dataclass_fields__}
    return found


def _history() -> dict[str, float]:
    return dict.fromkeys(ITEMS, 1.0)


def _versions(one: Opened) -> Any:
    return [(each.name, each.metadata.to_json()) for each in one.versions.all()]


_INDEX: dict[str, Callable[[PersonaIndex], Any]] = {
    "get": lambda index: [index.get(one) for one in ITEMS],
    "hashes": lambda index: index.hashes(ITEMS),
    "item_ids": lambda index: sorted(index.item_ids()),
    "items": lambda index: sorted(index.items(), key=lambda one: one[0].item_id),
    "page": lambda index: index.page(10).items,
    "vectors": lambda index: list(index.vectors()),
    "vectors_of": lambda index: sorted(index.vectors_of(ITEMS), key=lambda one: one[0]),
    "written": lambda index: index.written(),
    "stats": lambda index: (index.stats().items, index.stats().personas),
    "metadata": lambda index: index.metadata.to_json(),
    "best_personas": lambda index: index.best_personas(
        vector_of("anything")[None], [ITEMS], with_vectors=True
    ),
    "best_scores": lambda index: np.nan_to_num(
        index.best_scores([vector_of("anything")[None]], ITEMS)
    ),
    "nearest_items": lambda index: index.nearest_items(
        vector_of("anything"), 10, with_vectors=True
    ),
    "explain": lambda index: index.explain(
        index.nearest_items(vector_of("anything"), 10, explain=False)
    ),
    "collaborative": lambda index: index.collaborative,
    "item_numbers": lambda index: index.item_numbers(),
    "collaborative_columns": lambda index: _if_any(
        index, lambda: index.collaborative_columns(ITEMS)
    ),
    "collaborative_scores": lambda index: _if_any(
        index, lambda: index.collaborative_scores([_history()], [ITEMS])
    ),
    "collaborative_products": lambda index: _if_any(
        index, lambda: index.collaborative_products(_history(), ITEMS)
    ),
    "collaborative_nearest": lambda index: _if_any(
        index, lambda: index.collaborative_nearest(_history(), 10)
    ),
    "collaborative_shares": lambda index: _if_any(
        index, lambda: index.collaborative_shares(_history(), ITEMS)
    ),
}


def _of_index(read: Callable[[PersonaIndex], Any]) -> Callable[[Opened], Any]:
    return lambda one: _listed(read(one.index))


def _of_users(read: Callable[[UserStore], Any]) -> Callable[[Opened], Any]:
    return lambda one: _listed(read(one.users))


def _if_any(index: PersonaIndex, read: Callable[[], Any]) -> Any:
    return read() if index.collaborative is not None else None


_STORE: dict[str, Callable[[UserStore], Any]] = {
    "of": lambda users: [list(users.interactions.of(one)) for one in USERS],
    "user_ids": lambda users: sorted(users.interactions.user_ids()),
    "items": lambda users: [users.items(one) for one in USERS],
    "recent": lambda users: [users.recent(one) for one in USERS],
    "knows": lambda users: [users.knows(one) for one in USERS],
    "user_vectors": lambda users: {
        one: vector.vector for one, vector in sorted(users.user_vectors(USERS).items())
    },
    "get": lambda users: [
        users.get(StoredInteraction(one, item, at))
        for one in USERS
        for at, item in enumerate(ITEMS)
    ],
    "stream": lambda users: sorted(users.stream(), key=lambda one: one.key),
    "jobs.all": lambda users: list(users.jobs.all()),
    "jobs.due": lambda users: users.jobs.due(100),
    "jobs.failed": lambda users: users.jobs.failed(100),
    "jobs.counts": lambda users: users.jobs.counts(),
    "jobs.of_items": lambda users: sorted(users.jobs.of_items(), key=lambda one: one.key),
}

READS: dict[str, Callable[[Opened], Any]] = {
    **{f"index.{name}": _of_index(read) for name, read in _INDEX.items()},
    **{f"users.{name}": _of_users(read) for name, read in _STORE.items()},
    "versions.live": lambda one: one.versions.live(),
    "versions.all": _versions,
    "versions.previous": lambda one: one.versions.previous(),
    "versions.undone": lambda one: one.versions.undone(one.index.version),
    "versions.publishes": lambda one: one.versions.publishes(one.index.version),
    "keeps_users": lambda one: keeps_users(one.shop.settings),
}


def _put_user(one: Opened) -> None:
    did = one.shop.did("eve", "ships")
    rows = ENCODER.encode_texts([did.text])
    vector = user_vector([did.record], rows, 1.0)
    one.users.vectors.put_user("eve", vector, [did])


def _drop_personas(one: Opened) -> None:
    one.index.drop_personas(ITEMS, lambda persona: persona.persona_id.endswith("P1"))


def _another_version(one: Opened) -> None:
    """Make one more version, live for a moment, and drop it: what publishing and rollback do."""
    other = HashEncoder(DIMENSION, salt="-other")
    made = IndexMetadata.of(other)
    name = one.versions.of(other.fingerprint)
    with one.versions.open(name, made) as fresh, one.versions.sole_writer(name):
        fresh.load([one.shop.item("ships")])
        fresh.record(previous=one.index.version)
        with closing(open_store(one.shop.settings, name, made, one.shop.settings.history)) as users:
            users.encode_all(other)
            users.vectors.erase_elsewhere("nobody")
    one.versions.switch({one.versions.alias: name})
    assert one.versions.roll_back() == one.index.version
    one.versions.drop(name)


WRITES: dict[str, Callable[[Opened], Any]] = {
    "replace_item": lambda one: one.index.replace_item(
        "ships", one.shop.personas("ships", 1), one.shop.vectors("ships", 1)
    ),
    "load": lambda one: one.index.load([one.shop.item("ships", 3)], known=one.index.written()),
    "delete_item": lambda one: one.index.delete_item("cakes"),
    "delete_unchanged": lambda one: one.index.delete_unchanged(
        {"ships": one.index.written().get("ships", 1)}
    ),
    "drop_personas": _drop_personas,
    "repair": lambda one: one.index.repair(),
    "record": lambda one: one.index.record(popular='["ships"]'),
    "put_provisional": lambda one: one.index.put_provisional(
        [Column("fresh", None, np.array([0], np.uint32), np.array([1], np.float32))]
    ),
    "remove_columns": lambda one: one.index.remove_columns(ITEMS),
    "write_collaborative": lambda one: one.index.write_collaborative(
        CollaborativePart(0, today(), 10, 0, 1, settings={}), one.shop.columns()
    ),
    "drop_columns_before": lambda one: one.index.drop_columns_before(),
    "drop_collaborative": lambda one: one.index.drop_collaborative(),
    "add": lambda one: one.users.add(one.shop.did("eve", "ships", 9), one.shop.job("eve", "new")),
    "load_users": lambda one: one.users.load([one.shop.did("zoe", "ships")]),
    "settle": lambda one: one.users.settle(one.shop.did("eve", "ships", 0)),
    "erase": lambda one: one.users.erase("max"),
    "encode_all": lambda one: one.users.encode_all(ENCODER),
    "remember": lambda one: one.users.remember([one.shop.did("eve", "ships", 0)]),
    "put_user": _put_user,
    "forget_user": lambda one: one.users.vectors.put_user("eve", None),
    "give_up": lambda one: one.users.jobs.give_up(one.shop.job("eve", "ships"), "no"),
    "finish": lambda one: one.users.jobs.finish(one.shop.job("eve", "cakes")),
    "begin_publish": lambda one: one.versions.begin_publish(),
    "another_version": _another_version,
}

ELSEWHERE = {
    PersonaIndex: {"repaired", "close", "check_fields", "optimize", "purge", "refresh"}
    | {"record_typical_user", "check_collaborative"},
    UserStore: {"close", "purge", "erase_here", "look_up", "vector_of"},
    Versions: {"close", "open", "open_live", "beside", "of", "first", "named", "missing"}
    | {"make_live", "nothing_live", "old", "check_switch", "unname"},
    Interactions: {"look_up", "read_back", "put", "set_aspects"},
    UserVectors: {"attach", "put", "get", "invalidate"},
    Jobs: {"update", "replace_body", "postpone"},
}
"""Methods that the walk calls through others, and those that neither read nor write contents."""


def not_walked() -> dict[str, list[str]]:
    """The public methods that the walk does not know, by class."""
    source = inspect.getsource(inspect.getmodule(not_walked))  # type: ignore[arg-type]
    known = {*READS, *WRITES, *_INDEX, *_STORE}
    found = {}
    for kind, others in ELSEWHERE.items():
        names = {name for name, _ in inspect.getmembers(kind, callable) if name[0] != "_"}
        missing = {one for one in names - others if one not in known and f".{one}(" not in source}
        if missing:
            found[kind.__name__] = sorted(missing)
    return found


def check_apart(a: Opened, b: Opened, writes: list[str], at_once: int = 8) -> None:
    """What `a` writes changes nothing of what `b` sees, and neither reads the other's words."""
    before = b.seen()
    for some in batches(writes, at_once):
        for name in some:
            WRITES[name](a)
        after = b.seen()
        changed = [read for read in before if before[read] != after[read]]
        assert not changed, f"{some} of one tenant changed what another sees: {changed}"
        told = json.dumps(a.seen(), default=str)
        assert b.shop.word not in told, f"after {some} a tenant reads another's words"
    assert a.shop.word not in json.dumps(before, default=str)
    assert b.shop.word in json.dumps(before, default=str)
