"""An index with everything that a backup must carry, and all that it holds, for comparison."""

import json
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from p4r_qdrant import PersonaIndex, Settings
from p4r_qdrant.index.columns import CollaborativePart
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.users.opening import keeps_users, open_store
from p4r_qdrant.users.records import Job, StoredInteraction
from p4r_qdrant.users.store import BEGUN
from tests.support.columns import column, part
from tests.support.oracle import DIMENSION, Catalogue

OLD, NEW = "old", "test"
"""The fingerprints of both versions; `NEW` is live."""
WORDS = "Crème brûlée 🎻 <b>&amp;</b> \u2028 'quoted\"\\"
FIELDS: dict[str, Any] = {
    "zeta": 1.0,
    "stock": 2,
    "price": 3.0,
    "language": "en",
    "nested": {"z": 1, "a": [1, 2.5, None, True, ""]},
    "large": 2**53 + 1,
    "words": WORDS,
}


def catalogue(items: int = 20, seed: int = 1) -> Catalogue:
    """Items with one to seven personas; ids and fields are wild."""
    random = np.random.default_rng(seed)
    ids = [f"item-{number}" for number in range(items - 2)] + ["émoji 🎻/?#", "quote'\"\\"]
    vectors = {
        one: random.standard_normal((1 + place % 7, DIMENSION)) for place, one in enumerate(ids)
    }
    return Catalogue(vectors, {one: FIELDS | {"stock": place} for place, one in enumerate(ids)})


def made_with(fingerprint: str) -> IndexMetadata:
    return IndexMetadata(
        fingerprint, DIMENSION, "by hand", f"2026-01-0{1 + (fingerprint == NEW)}", kind="vectors"
    )


def interaction(user: str, item: str, time: int, **more: Any) -> StoredInteraction:
    """One with a vector, by the hash of its text."""
    one = StoredInteraction(user, item, time, 4.5, f"Title of {item}", f"About {item}.", **more)
    vector = np.random.default_rng(len(item) + time).standard_normal(DIMENSION)
    return one.encoded((vector / np.linalg.norm(vector)).astype(np.float32))


def fill(settings: Settings, items: int = 20) -> Catalogue:
    """Make two versions, one of them with a collaborative part, and users with jobs.

    Returns the items of the live one.
    """
    live = catalogue(items)
    with open_versions(settings) as versions:
        names = {one: versions.named(one) for one in (OLD, NEW)}
        halves = settings.model_copy(
            update={"index": settings.index.model_copy(update={"datatype": "float16"})}
        )
        with open_versions(halves) as old, old.open(names[OLD], made_with(OLD)) as index:
            index.load(catalogue(5, seed=2).rows())
        with versions.open(names[NEW], made_with(NEW)) as index:
            index.load(live.rows())
            _write_columns(index)
            index.record_typical_user(np.linspace(-1, 1, DIMENSION, dtype=np.float32))
            index.record(
                previous=names[OLD],
                published_at="2026-01-03",
                popular=json.dumps(["item-1", "émoji 🎻/?#"]),
                scoring='{"persona": 1.0}',
            )
        versions.switch({versions.alias: names[NEW]})
        _fill_users(settings, names[NEW])
    return live


def _write_columns(index: PersonaIndex) -> None:
    columns = [
        column("item-0", 0, {1: 0.5, 3: -0.25}),
        column("item-1", 1, {0: 0.1, 7: 1e-7}),
        column("item-3", 3, {}),
        column("émoji 🎻/?#", 7, {0: 2.0}),
    ]
    index.write_collaborative(part(columns, held_out=0), columns)
    index.put_provisional([column("item-5", None, {0: 0.75, 1: 0.5})])
    index.remove_columns(["item-1"])


def _fill_users(settings: Settings, version: str) -> None:
    with closing(open_store(settings, version, made_with(NEW), settings.history)) as store:
        for number in range(3):
            aspects = {"mood": "calm", "plot": None} if number else None
            one = interaction("ada", f"item-{number}", number, review_text=WORDS, aspects=aspects)
            store.add(one, Job(f"aspects {one.key}", "aspects", "ada", {"item_id": one.item_id}))
        store.add(interaction("Öz/ü", "item-0", 7))
        bare = replace(interaction("Öz/ü", "item-9", 8), summary="", title="")
        store.add(bare.encoded(None))
        store.jobs.add(Job("item item-4 x", "item", body={"item_id": "item-4", "reviews": []}))
        failed = Job("item item-5 y", "item", body={"item_id": "item-5", "reviews": []})
        store.jobs.add(failed)
        store.jobs.give_up(failed, "no answer")
        store.jobs.add(Job("erase bob", "erase", body={"user_id": "bob", BEGUN: True}))


def contents(settings: Settings) -> dict[str, Any]:
    """Everything that an index and its users hold, whatever the names of its versions."""
    with open_versions(settings) as versions:
        found = versions.all()
        encoders = {one.name: one.metadata.fingerprint for one in found}
        held: dict[str, Any] = {
            "live": encoders[versions.live() or ""],
            "versions": {
                encoders[one.name]: _contents_of(settings, one.name, encoders) for one in found
            },
        }
        live = versions.live() or ""
    if keeps_users(settings):
        with closing(open_store(settings, live, made_with(NEW), settings.history)) as store:
            held["interactions"] = {
                (one.user_id, one.timestamp, one.item_id): _as_stored(one) for one in store.stream()
            }
            held["jobs"] = [asdict(one) for one in store.jobs.all()]
            held["users"] = {
                user: vector.vector.round(5).tolist()
                for user, vector in store.user_vectors(["ada", "Öz/ü"]).items()
            }
    return held


def _contents_of(settings: Settings, name: str, encoders: dict[str, str]) -> dict[str, Any]:
    with open_versions(settings) as versions, versions.open(name) as index:
        engine = index.engine
        metadata = asdict(index.metadata)
        metadata["previous"] = encoders.get(metadata["previous"], metadata["previous"])
        for one in ("publish", "restored"):
            del metadata[one]
        stored = engine.points_of(sorted(engine.item_ids()))
        points = {one.id: json.dumps(one.payload, ensure_ascii=False) for one in stored}
        return {
            "metadata": metadata,
            "datatype": index.datatype,
            "fields": {one: kind for one, kind in engine.fields.items() if kind != "text"},
            "points": points,
            "vectors": np.array([one.vector for one in stored]),
            "columns": _columns_of(index),
        }


def _columns_of(index: PersonaIndex) -> dict[str, Any]:
    record = CollaborativePart.from_text(index.metadata.collaborative)
    if record is None:
        return {}
    opened = index.engine.columns.open(record.set)
    items = dict(opened.items())
    held = opened.columns(list(items))
    return {
        one: (
            number,
            *((held[one].places.tolist(), held[one].values.tolist()) if one in held else ()),
        )
        for one, number in items.items()
        if number is not None or one in held
    }


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Check that two `contents` are equal.

    Engines normalise what they store: halves of short vectors may move by one unit.
    """
    assert found["versions"].keys() == wanted["versions"].keys()
    for name, version in wanted["versions"].items():
        own = found["versions"][name]
        assert {**own, "vectors": 0} == {**version, "vectors": 0}
        unit = 0 if version["datatype"] == "float32" else 2**-11
        np.testing.assert_allclose(own["vectors"], version["vectors"], rtol=0, atol=unit)
    assert {**found, "versions": 0} == {**wanted, "versions": 0}


def _as_stored(one: StoredInteraction) -> dict[str, Any]:
    vector = None if one.vector is None else one.vector.tobytes()
    return asdict(replace(one, vector=None)) | {"vector": vector}
