"""Publishing on both engines: readers all the while, kills, rollback, and what is refused."""

import base64
import hashlib
import hmac
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from devtools.qdrant_process import PrivateQdrant, QdrantServer
from indexer.artifacts import lines
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.indexing.fresh_version import FreshVersion
from indexer.indexing.items import index_artifacts
from indexer.indexing.verifying import SAMPLE
from p4r_qdrant import Encoder, Persona, PersonaIndex, PersonaReranker, Settings, open_index
from p4r_qdrant.errors import (
    AuthenticationError,
    EncoderError,
    IndexLockedError,
    IndexMismatchError,
    IndexUnavailableError,
    InputError,
    VerificationError,
)
from p4r_qdrant.index import replacing
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.server import lease
from p4r_qdrant.records import Interaction, ItemPersonas
from p4r_qdrant.settings import RerankSettings
from p4r_qdrant.users.versions import drop_old
from tests.support import publishing
from tests.support.edge_runner import process
from tests.support.engines import embedded, on_server, opened
from tests.support.hash_encoder import HashEncoder
from tests.support.messages import sentence
from tests.support.oracle import Catalogue
from tests.support.polling import wait_until
from tests.support.publishing import (
    Truths,
    by_fingerprint,
    catalogue_at,
    hammered,
    live,
    refreshing,
    run,
    truth,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return catalogue_at(tmp_path / "catalogue")


@pytest.mark.parametrize("publishes", [3, pytest.param(10, marks=pytest.mark.long)])
def test_publishes_under_load(index_settings: Settings, folder: Path, publishes: int) -> None:
    encoders = [publishing.encoder(number) for number in range(publishes + 1)]
    truths = Truths(folder, encoders)
    run(folder, encoders[0], index_settings)
    settings = refreshing(index_settings, 0.05)
    with (
        PersonaReranker.from_settings(settings, load_encoder=by_fingerprint(*encoders)) as reranker,
        hammered(reranker, truths) as answered,
    ):
        wait_until(lambda: answered[encoders[0].fingerprint] > 3)
        for encoder in encoders[1:]:
            report = run(folder, encoder, index_settings)
            assert report.written == 12
            assert live(index_settings) == report.version
            wait_until(lambda: answered[encoder.fingerprint] > 3)  # noqa: B023 - called at once
        assert reranker.problem == ""
    assert all(answered.values())


# --- killed, and run again -----------------------------------------------------------------------

POINTS = ["encode 0", "encode 2", "upsert 1", "verify 0", "record 0", "switch 0"]


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_run_again(index_settings: Settings, folder: Path, point: str) -> None:
    """The same state in the end, and only what was missing is encoded, beside the sample."""
    before, after = publishing.encoder(0), publishing.encoder(1)
    run(folder, before, index_settings)
    old = live(index_settings)
    publishing.killed(index_settings, folder, 1, point)
    assert live(index_settings) == old, "switched before it was whole"
    name = publishing.version(index_settings, after)
    with open_versions(index_settings) as versions:
        held = 0
        if name in publishing.names(index_settings):
            with versions.open(name, IndexMetadata.of(after)) as index:
                held = sum(map(len, index.items()))
    total = len(truth(folder, after).rows())
    report = run(folder, after, index_settings)
    personas = sum(map(len, truth(folder, before).vectors.values()))
    assert report.written + report.unchanged == total == 12
    assert (held > 0) == (point != "encode 0")
    assert len(after.encoded) - personas == personas - held + min(SAMPLE, personas)
    check_live(index_settings, folder, publishing.encoder(1))


@pytest.mark.parametrize("point", ["upsert 1", "settle 1", "strangers 0"])
def test_killed_while_the_live_version_is_brought_up_to_date(
    index_settings: Settings, folder: Path, point: str
) -> None:
    encoder = publishing.encoder(1)
    run(folder, encoder, index_settings)
    changed = [publishing.item(number, 4 - number % 4, "new") for number in range(2, 12)]
    publishing.write_personas(folder, changed)
    publishing.killed(index_settings, folder, 1, point)
    with open_index(index_settings) as index:
        (ranking,) = index.best_personas(
            encoder.encode_texts(["salt"]), [[f"item-{number}" for number in range(2, 12)]]
        )
        assert all(match.persona for match in ranking), "an item is lost"
    run(folder, encoder, index_settings)
    check_live(index_settings, folder, publishing.encoder(1))


def check_live(settings: Settings, folder: Path, encoder: Encoder) -> None:
    """What is live is what the artifacts and the encoder say, and was published."""
    publishing.check_whole(settings, folder, encoder)
    with open_index(settings, encoder=encoder) as index:
        assert index.metadata.published_at


def test_what_did_not_change_is_not_encoded(index_settings: Settings, folder: Path) -> None:
    encoder = publishing.encoder(1)
    first = run(folder, encoder, index_settings)
    assert (first.written, first.previous) == (12, "")
    encoder.encoded.clear()
    again = run(folder, encoder, index_settings)
    assert (again.written, again.unchanged, again.removed) == (0, 12, 0)
    assert encoder.encoded == []
    assert (again.version, again.previous) == (first.version, "")
    rows = [publishing.item(number) for number in range(12)]
    rows[3] = publishing.item(3, text="new")
    publishing.write_personas(folder, rows)
    changed = run(folder, encoder, index_settings)
    assert (changed.written, changed.unchanged) == (1, 11)
    assert len(encoder.encoded) == 4 + 30, "four personas, and the sample"
    whole = run(folder, encoder, index_settings, again=True)
    assert whole.written == 12
    check_live(index_settings, folder, publishing.encoder(1))


def test_an_index_is_published_to_in_place_while_it_answers(
    qdrant_server: QdrantServer, collection_name: str, folder: Path
) -> None:
    """The live encoder again: its items are replaced one by one, and readers need not move."""
    settings, encoder = on_server(qdrant_server, collection_name), publishing.encoder(1)
    run(folder, encoder, settings)
    truths = Truths(folder, [encoder])
    with (
        PersonaReranker.from_settings(settings, load_encoder=by_fingerprint(encoder)) as reranker,
        hammered(reranker, truths) as answered,
    ):
        for _ in range(3):
            assert run(folder, encoder, settings, again=True).written == 12
        wait_until(lambda: answered[encoder.fingerprint] > 10)
        assert not reranker.refresh()


# --- items that are gone -------------------------------------------------------------------------


def test_items_that_the_artifacts_no_longer_hold_are_removed(
    index_settings: Settings, folder: Path
) -> None:
    encoder = publishing.encoder(1)
    run(folder, encoder, index_settings)
    publishing.write_personas(folder, [publishing.item(number) for number in range(2, 12)])
    assert run(folder, encoder, index_settings).removed == 2
    check_live(index_settings, folder, encoder)


def test_nothing_is_removed_where_the_artifacts_are_broken(
    index_settings: Settings, folder: Path
) -> None:
    encoder, refusals = publishing.encoder(1), Refusals()
    run(folder, encoder, index_settings)
    rows = [publishing.item(number) for number in range(2, 12)]
    publishing.write_personas(folder, [*rows, "{"])
    report = run(folder, encoder, index_settings, refusals)
    assert (report.removed, report.unchanged, refusals.total) == (0, 10, 1)
    assert "2 items are not in personas.jsonl, but 1 of its lines are broken" in report.kept_because
    with open_index(index_settings) as index:
        assert len(list(index.item_ids())) == 12
    for text, problem in (([], "is empty"), (["{", "[]"], "nothing can be published")):
        publishing.write_personas(folder, text)
        with pytest.raises(InputError, match=problem):
            run(folder, encoder, index_settings)
        with open_index(index_settings) as index:
            assert len(list(index.item_ids())) == 12


def test_items_on_their_way_into_the_artifacts_stay(index_settings: Settings, folder: Path) -> None:
    """`p4r add` writes an item to the index at once, and to the artifacts now and then."""
    encoder = publishing.encoder(1)
    run(folder, encoder, index_settings)
    with open_index(index_settings, encoder=encoder) as index:
        row = Catalogue({"new": np.ones((1, encoder.dimension))}).rows()[0]
        index.replace_item(row.item_id, row.personas, row.vectors)
    journal = folder / "arrivals.jsonl"
    journal.write_text(json.dumps({"item": {"item_id": "new"}}) + "\n")
    assert run(folder, encoder, index_settings).removed == 0
    journal.unlink()
    assert run(folder, encoder, index_settings).removed == 1


def test_what_somebody_writes_or_deletes_during_a_publish_stays(
    qdrant_server: QdrantServer,
    collection_name: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody whose clock is a minute behind the publisher's."""
    settings = on_server(qdrant_server, collection_name)
    run(folder, publishing.encoder(1), settings)

    class Meanwhile(HashEncoder):
        done = False

        def encode_texts(self, batch: Any) -> Any:
            if not self.done:
                self.done = True
                behind = replacing.now() - 60_000_000
                with open_index(settings) as index, monkeypatch.context() as patch:
                    patch.setattr(replacing, "now", lambda: behind)
                    one = publishing.item(1)["personas"][:1]
                    new = [Persona(**{**one[0], "name": "Put meanwhile"})]
                    index.replace_item("item-1", new, np.ones((1, self.dimension)))
                    index.delete_item("item-2")
            return super().encode_texts(batch)

    source = Meanwhile(publishing.encoder(1).dimension, salt="-1")
    report = run(folder, source, settings, again=True)
    assert report.written == 10
    with open_index(settings) as index:
        assert [one.name for one in index.get("item-1")] == ["Put meanwhile"]
        assert index.get("item-2") == []
        assert len(index.get("item-3")) == 4


def test_the_wrong_artifacts_do_not_empty_the_index(
    index_settings: Settings, folder: Path, tmp_path: Path
) -> None:
    old, new = publishing.encoder(1), publishing.encoder(2)
    run(folder, old, index_settings)
    small = catalogue_at(tmp_path / "small", items=5)
    for encoder in (old, new):
        with pytest.raises(InputError, match=r"holds 12 items, the artifacts only 5; .*--shrink"):
            run(small, encoder, index_settings)
        check_live(index_settings, folder, old)
    publishing.write_personas(small, [publishing.item(number, text="new") for number in range(5)])
    with pytest.raises(InputError, match="nothing was written"):
        run(small, old, index_settings)
    check_live(index_settings, folder, old)
    catalogue_at(small, items=5)
    assert run(small, new, index_settings, shrink=True).written == 5
    check_live(index_settings, small, new)


def test_personas_are_read_once(
    index_settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = publishing.encoder(1)
    run(folder, encoder, index_settings)
    publishing.write_personas(folder, [publishing.item(number, text="new") for number in range(12)])
    personas = folder / "personas.jsonl"
    opened, real_open = [], Path.open
    parsed, real_parse = [], lines.parse_line

    def counting_open(self: Path, *args: Any, **named: Any) -> Any:
        if self == personas:
            opened.append(args)
        return real_open(self, *args, **named)

    def counting_parse(line: bytes, model: type[BaseModel], where: str) -> Any:
        if model is ItemPersonas:
            parsed.append(where)
        return real_parse(line, model, where)

    monkeypatch.setattr(Path, "open", counting_open)
    monkeypatch.setattr(lines, "parse_line", counting_parse)
    for written in (12, 0):  # all changed, none changed
        opened.clear()
        parsed.clear()
        assert run(folder, encoder, index_settings).written == written
        assert len(opened) == 4, "a line twice, the start for the progress bar, all of it once"
        assert parsed == [f"{personas}:{number}" for number in range(1, 13)]


def test_nothing_is_switched_to_that_hardly_anything_could_be_written_to(
    index_settings: Settings, folder: Path
) -> None:
    class Broken(HashEncoder):
        def encode_texts(self, batch: Any) -> Any:
            return np.full((len(batch), self.dimension), np.nan, dtype=np.float32)

    with pytest.raises(VerificationError, match=r"only 0 of 12 items.*NaN"):
        run(folder, Broken(32, salt="-1"), index_settings)
    assert live(index_settings) is None
    run(folder, publishing.encoder(0), index_settings)
    with pytest.raises(VerificationError, match="only 0 of 12 items"):
        run(folder, Broken(32, salt="-1"), index_settings)
    check_live(index_settings, folder, publishing.encoder(0))


def test_an_alias_of_somebody_elses_collection_is_not_taken(
    qdrant_server: QdrantServer, collection_name: str, folder: Path
) -> None:
    theirs = f"{collection_name}_theirs"
    body = {"vectors": {"size": 3, "distance": "Dot"}}
    qdrant_server.request("PUT", f"/collections/{theirs}", body)
    alias = {"create_alias": {"collection_name": theirs, "alias_name": collection_name}}
    qdrant_server.request("POST", "/collections/aliases", {"actions": [alias]})
    settings = on_server(qdrant_server, collection_name)
    for shrink in (False, True):
        with pytest.raises(IndexMismatchError, match="was not made by p4r-qdrant"):
            run(folder, publishing.encoder(0), settings, shrink=shrink)
    assert live(settings) == theirs


# --- verification --------------------------------------------------------------------------------


def test_a_vector_that_is_not_the_encoders_is_found_out(
    index_settings: Settings, folder: Path
) -> None:
    old, new = publishing.encoder(0), publishing.encoder(1)
    run(folder, old, index_settings)
    name = publishing.version(index_settings, new)
    with (
        open_versions(index_settings) as versions,
        versions.open(name, IndexMetadata.of(new)) as index,
    ):
        index_artifacts(ArtifactFolder(folder), new, index, domain="x", refusals=Refusals())
        (own,) = [
            row
            for row in ArtifactFolder(folder).index_rows("x", Refusals())
            if row.item.item_id == "item-7"
        ]
        wrong = new.encode_texts([f"something else {slot}" for slot in range(4)])
        index.replace_item("item-7", own.item.personas, wrong, own.fields)
    with pytest.raises(VerificationError) as caught:
        run(folder, new, index_settings)
    assert "item-7_P" in sentence(caught)
    assert caught.value.exit_code == 1
    check_live(index_settings, folder, old)
    assert run(folder, new, index_settings, again=True).previous
    check_live(index_settings, folder, new)


def test_items_that_got_lost_are_found_out(
    index_settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, publishing.encoder(0), index_settings)
    right = PersonaIndex.load

    def forgetful(index: PersonaIndex, items: Any, refused: Any = None, **more: Any) -> int:
        return right(index, list(items)[:-1], refused, **more)

    monkeypatch.setattr(PersonaIndex, "load", forgetful)
    with pytest.raises(VerificationError, match="1 items that were written are not in"):
        run(folder, publishing.encoder(1), index_settings)
    check_live(index_settings, folder, publishing.encoder(0))


def test_float16_is_within_its_tolerance(index_settings: Settings, folder: Path) -> None:
    half = index_settings.index.model_copy(update={"datatype": "float16"})
    settings = index_settings.model_copy(update={"index": half})
    run(folder, publishing.encoder(1), settings)
    with open_index(settings) as index:
        assert index.datatype == "float16"


# --- back, and away with the old ones ------------------------------------------------------------


def test_back_to_the_previous_version_and_away_with_the_others(
    index_settings: Settings, folder: Path
) -> None:
    with open_versions(index_settings) as versions:
        for _ in range(2):
            with pytest.raises(InputError, match="no earlier version"):
                versions.roll_back()
            run(folder, publishing.encoder(0), index_settings)
        names = [versions.live()]
        for number in (1, 2, 3):
            report = run(folder, publishing.encoder(number), index_settings)
            assert report.previous == names[-1]
            names.append(report.version)
        assert {one.name for one in versions.all()} == set(names)
        assert versions.previous() == names[2]
        for _ in range(2):  # as one that was killed after the switch and is run again
            assert versions.roll_back() == names[2]
        check_live(index_settings, folder, publishing.encoder(2))
        # Live is 2, before it was 1.
        assert drop_old(index_settings, versions) == ([names[0], names[3]], [])
        assert {one.name for one in versions.all()} == {names[1], names[2]}
        check_live(index_settings, folder, publishing.encoder(2))
        encoder = publishing.encoder(1)
        assert run(folder, encoder, index_settings).unchanged == 12, "an earlier one, used again"
        assert (versions.live(), versions.previous()) == (names[1], names[2])
        assert drop_old(index_settings, versions) == ([], [])
        for back in (names[2], names[2]):
            assert versions.roll_back() == back
        versions.make_live(names[1] or "")
        assert versions.roll_back() == names[2], "the one before it"
        versions.make_live(names[1] or "")
        with pytest.raises(IndexMismatchError, match="to switch to"):
            versions.switch({versions.alias: names[0] or "nothing"})
        check_live(index_settings, folder, publishing.encoder(1))


def test_a_version_in_the_making_is_not_dropped(
    index_settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    for number in range(3):
        run(folder, publishing.encoder(number), index_settings)
    with open_versions(index_settings) as versions, open_versions(index_settings) as other:
        (old,) = (one.name for one in versions.old())
        with other.sole_writer(old):
            assert drop_old(index_settings, versions) == ([], [old])
        assert drop_old(index_settings, versions) == ([old], [])


def test_a_version_that_is_gone_cannot_be_gone_back_to(
    index_settings: Settings, folder: Path
) -> None:
    first = run(folder, publishing.encoder(0), index_settings).version
    run(folder, publishing.encoder(1), index_settings)
    with open_versions(index_settings) as versions:
        versions.drop(first)
        with pytest.raises(InputError, match="no earlier version"):
            versions.roll_back()
    check_live(index_settings, folder, publishing.encoder(1))


# --- several at once -----------------------------------------------------------------------------


def test_a_second_publisher_of_the_same_is_refused(
    index_settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.3)
    begun, go = threading.Event(), threading.Event()

    class Waiting(HashEncoder):
        def encode_texts(self, batch: Any) -> Any:
            begun.set()
            assert go.wait(60)
            return super().encode_texts(batch)

    slow = Waiting(32, salt="-1")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run, folder, slow, index_settings)
        try:
            assert begun.wait(60)
            with pytest.raises(IndexLockedError) as caught:
                run(folder, publishing.encoder(1), index_settings)
            assert "another" in sentence(caught)
            report = run(folder, publishing.encoder(2), index_settings)
            check_live(index_settings, folder, publishing.encoder(2))
        finally:
            go.set()
        assert first.result().previous in ("", report.version)
    check_live(index_settings, folder, publishing.encoder(1))


# --- following -----------------------------------------------------------------------------------


def test_a_reader_stays_with_its_version_until_it_refreshes(
    index_settings: Settings, folder: Path
) -> None:
    encoders = [publishing.encoder(0), publishing.encoder(1)]
    truths = Truths(folder, encoders)
    run(folder, encoders[0], index_settings)
    load = by_fingerprint(*encoders)
    with PersonaReranker.from_settings(index_settings, load_encoder=load) as reranker:
        assert not reranker.refresh()
        truths.check(0, reranker.rerank(truths.histories[0], truths.item_ids))
        run(folder, encoders[1], index_settings)
        old = reranker.index
        ranking = reranker.rerank(truths.histories[0], truths.item_ids)
        assert ranking.fingerprint == encoders[0].fingerprint
        truths.check(0, ranking)
        assert reranker.refresh()
        assert not reranker.refresh()
        ranking = reranker.rerank(truths.histories[0], truths.item_ids)
        assert ranking.fingerprint == encoders[1].fingerprint
        truths.check(0, ranking)
        with pytest.raises(IndexUnavailableError, match="closed"):
            old.get("item-1")
    assert not reranker.refresh() if index_settings.qdrant.url is None else True


def test_a_reader_with_a_prior_does_not_go_over_to_a_version_that_has_none(
    index_settings: Settings, folder: Path
) -> None:
    old, new = publishing.encoder(0), publishing.encoder(1)
    asked = index_settings.model_copy(update={"rerank": RerankSettings(prior=0.5)})
    run(folder, old, index_settings)
    load = by_fingerprint(old, new)
    with pytest.raises(IndexMismatchError, match="has no typical user"):
        PersonaReranker.from_settings(asked, load_encoder=load)
    with open_index(index_settings) as index:  # the refused one has let go of it
        index.record_typical_user(np.ones(old.dimension, np.float32))
    run(folder, old, index_settings)  # and publishing again keeps it
    user = [Interaction("one", 1, "salt orchard")]
    with PersonaReranker.from_settings(asked, load_encoder=load) as reranker:
        before = reranker.rerank(user, ["item-1", "item-2"])
        run(folder, new, index_settings)
        with pytest.raises(IndexMismatchError, match="has no typical user"):
            reranker.refresh()
        assert reranker.rerank(user, ["item-1", "item-2"]) == before
        with (
            open_versions(index_settings) as versions,
            versions.open(versions.named(new.fingerprint)) as index,
        ):
            index.record_typical_user(np.ones(new.dimension, np.float32))
        assert reranker.refresh()
        after = reranker.rerank(user, ["item-1", "item-2"])
        assert after.fingerprint == new.fingerprint


def test_a_call_under_way_ends_on_the_version_it_began_with(
    index_settings: Settings, folder: Path
) -> None:
    begun, go = threading.Event(), threading.Event()

    class Waiting(HashEncoder):
        def encode_queries(self, batch: Any) -> Any:
            begun.set()
            assert go.wait(60)
            return super().encode_queries(batch)

    old, new = publishing.encoder(0), publishing.encoder(1)
    truths = Truths(folder, [old, new])
    waiting = Waiting(old.dimension, salt="-0")
    run(folder, old, index_settings)
    load = by_fingerprint(waiting, new)
    with (
        PersonaReranker.from_settings(index_settings, load_encoder=load) as reranker,
        ThreadPoolExecutor(1) as pool,
    ):
        index = reranker.index
        under_way = pool.submit(reranker.rerank, truths.histories[1], truths.item_ids)
        assert begun.wait(60)
        run(folder, new, index_settings)
        assert reranker.refresh()
        ranking = reranker.rerank(truths.histories[0], truths.item_ids)
        assert ranking.fingerprint == new.fingerprint
        assert index.get("item-1"), "closed under the call"
        go.set()
        truths.check(1, under_way.result())
        assert under_way.result().fingerprint == old.fingerprint
        with pytest.raises(IndexUnavailableError, match="closed"):
            index.get("item-1")


def test_what_cannot_be_followed_leaves_the_old_version_answering(
    index_settings: Settings, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = publishing.encoder(0), publishing.encoder(1)
    truths = Truths(folder, [old, new])
    run(folder, old, index_settings)
    known: dict[str, Encoder] = {old.fingerprint: old}

    def load(made_with: IndexMetadata) -> Encoder:
        if made_with.fingerprint not in known:
            raise EncoderError("the adapter folder /away is not there")
        return known[made_with.fingerprint]

    settings = refreshing(index_settings, 0.02)
    with PersonaReranker.from_settings(settings, load_encoder=load) as reranker:
        truths.check(0, reranker.rerank(truths.histories[0], truths.item_ids))
        run(folder, new, index_settings)
        wait_until(lambda: reranker.problem)
        assert reranker.problem == "the adapter folder /away is not there"
        with pytest.raises(EncoderError):
            reranker.refresh()
        ranking = reranker.rerank(truths.histories[0], truths.item_ids)
        assert ranking.fingerprint == old.fingerprint
        truths.check(0, ranking)
        known[new.fingerprint] = new
        wait_until(lambda: reranker.index.metadata.fingerprint == new.fingerprint)
        truths.check(0, reranker.rerank(truths.histories[0], truths.item_ids))
        wait_until(lambda: not reranker.problem)
    warnings = [one.message for one in caplog.records if "stays live here" in one.message]
    assert len(warnings) == 1, "once for each problem, not for each attempt"


def test_a_reranker_of_ones_own_index_follows_nothing(
    index_settings: Settings, folder: Path
) -> None:
    encoder = publishing.encoder(0)
    run(folder, encoder, index_settings)
    with (
        open_index(index_settings) as index,
        pytest.raises(InputError, match="from_settings"),
    ):
        PersonaReranker(index, encoder).refresh()


# --- on a server ---------------------------------------------------------------------------------


def test_an_index_made_by_writing_is_one_of_versions_from_the_start(
    qdrant_server: QdrantServer, collection_name: str
) -> None:
    settings = on_server(qdrant_server, collection_name)
    with opened(settings) as index:
        assert index.version == f"{collection_name}-test"
    aliases = qdrant_server.request("GET", "/aliases")["result"]["aliases"]
    assert {"alias_name": collection_name, "collection_name": index.version} in aliases


def plain(server: QdrantServer, name: str, encoder: Encoder) -> None:
    """A collection as it was made before there were versions."""
    server.request(
        "PUT",
        f"/collections/{name}",
        {
            "vectors": {"size": encoder.dimension, "distance": "Cosine"},
            "metadata": {
                "project": "p4r-qdrant",
                "format": 1,
                "fingerprint": encoder.fingerprint,
                "dimension": encoder.dimension,
                "encoder": encoder.name,
                "created_at": "2025-01-01T00:00:00+00:00",
            },
        },
    )


def test_a_collection_from_before_there_were_versions(
    qdrant_server: QdrantServer, collection_name: str, folder: Path
) -> None:
    """It goes on working; only another encoder cannot take its name."""
    old, new = publishing.encoder(0), publishing.encoder(1)
    plain(qdrant_server, collection_name, old)
    settings = on_server(qdrant_server, collection_name)
    report = run(folder, old, settings)
    assert (report.version, report.written) == (collection_name, 12)
    check_live(settings, folder, old)
    before = publishing.names(settings)
    with pytest.raises(InputError) as caught:
        run(folder, new, settings)
    assert "P4R_QDRANT__COLLECTION" in sentence(caught)
    assert publishing.names(settings) == before, "found out before anything was made"
    assert new.encoded == []
    check_live(settings, folder, old)


def test_versions_of_an_alias_that_begins_alike_are_left_alone(
    qdrant_server: QdrantServer, collection_name: str, folder: Path
) -> None:
    ours = on_server(qdrant_server, collection_name)
    theirs = on_server(qdrant_server, f"{collection_name}-eu")
    for number in range(3):
        run(folder, publishing.encoder(number), ours)
    run(folder, publishing.encoder(2), theirs)
    named = f"{collection_name}-kept"
    (kept,) = publishing.names(ours) - {live(ours), publishing.previous(ours)}
    alias = {"create_alias": {"collection_name": kept, "alias_name": named}}
    qdrant_server.request("POST", "/collections/aliases", {"actions": [alias]})
    with open_versions(ours) as versions:
        assert drop_old(ours, versions) == ([], [kept]), "somebody else's alias names it"
        qdrant_server.request(
            "POST", "/collections/aliases", {"actions": [{"delete_alias": {"alias_name": named}}]}
        )
        assert drop_old(ours, versions) == ([kept], [])
    assert len(publishing.names(ours)) == 2
    assert len(publishing.names(theirs)) == 1
    check_live(ours, folder, publishing.encoder(2))
    check_live(theirs, folder, publishing.encoder(2))


def test_several_aliases_are_switched_in_one_call(
    qdrant_server: QdrantServer, collection_name: str, folder: Path
) -> None:
    settings = on_server(qdrant_server, collection_name)
    one = run(folder, publishing.encoder(0), settings).version
    two = run(folder, publishing.encoder(1), settings).version
    other = f"{collection_name}-histories"
    with open_versions(settings) as versions:
        versions.switch({versions.alias: one, other: two})
        assert versions.live() == one
        with pytest.raises(IndexMismatchError, match="no 'gone' in"):
            versions.switch({versions.alias: two, other: "gone"})
        assert versions.live() == one, "half of a switch"
    aliases = qdrant_server.request("GET", "/aliases")["result"]["aliases"]
    assert {"alias_name": other, "collection_name": two} in aliases


def test_a_key_that_sees_an_alias_but_not_its_collection(
    private_qdrant: PrivateQdrant, folder: Path
) -> None:
    """It could not tell when the alias moves: a mixture of encoders would be the end of it."""
    private_qdrant.environment["QDRANT__SERVICE__JWT_RBAC"] = "true"
    private_qdrant.start()
    encoder = publishing.encoder(0)
    run(folder, encoder, on_server(private_qdrant.server, "personas"))

    def seen(*names: str) -> Settings:
        key = token(
            private_qdrant.api_key, {"access": [{"collection": n, "access": "r"} for n in names]}
        )
        server = QdrantServer(private_qdrant.url, private_qdrant.grpc_port, key)
        return on_server(server, "personas")

    with pytest.raises(AuthenticationError) as caught:
        open_index(seen("personas"))
    assert "begin with personas-" in sentence(caught)
    name = publishing.version(seen("personas"), encoder)
    check_live(seen("personas", name), folder, encoder)


def token(secret: str, claims: dict[str, Any]) -> str:
    """A JSON web token, as Qdrant takes them for keys of single collections."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    ]
    signed = hmac.new(secret.encode(), b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(signed).rstrip(b"=")]).decode()


# --- embedded ------------------------------------------------------------------------------------


def test_another_process_may_serve_while_the_next_version_is_written(
    tmp_path: Path, folder: Path
) -> None:
    settings = embedded(tmp_path / "index")
    opened(settings).close()
    with process(tmp_path / "index", "hold") as holder:
        assert holder.read("open"), holder.last
        new = publishing.encoder(1)
        report = run(folder, new, settings)
        assert report.previous == "first"
        check_live(settings, folder, new)
        with pytest.raises(IndexLockedError):
            run(folder, HashEncoder(8, fingerprint="test"), settings, shrink=True)
        with open_versions(settings) as versions:
            run(folder, publishing.encoder(2), settings)
            assert drop_old(settings, versions) == ([], ["first"])
            holder.kill()
            assert drop_old(settings, versions) == (["first"], [])
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "current.json",
        "publishes",
        "version-hash-encoder-1-1",
        "version-hash-encoder-1-2",
    ]
    check_live(settings, folder, publishing.encoder(2))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"personas": 3}', '{"personas": "../x"}'])
def test_a_broken_note_of_what_is_live_is_named(tmp_path: Path, folder: Path, text: str) -> None:
    settings = embedded(tmp_path / "index")
    run(folder, publishing.encoder(1), settings)
    note = tmp_path / "index" / "current.json"
    good = note.read_text()
    note.write_text(text)
    with pytest.raises(IndexMismatchError) as caught:
        open_index(settings)
    assert str(note) in sentence(caught)
    note.write_text(good)
    check_live(settings, folder, publishing.encoder(1))


def test_a_new_index_that_stays_empty_is_deleted(index_settings: Settings, folder: Path) -> None:
    """Also where the command fails, and never one that was there before."""
    refusing = HashEncoder(8, cannot="")
    with open_versions(index_settings) as versions:
        for error in (None, EncoderError):
            with (
                suppress(EncoderError),
                FreshVersion(versions) as fresh,
                open_index(index_settings, encoder=refusing, create=True) as index,
            ):
                fresh.is_ours = True
                index_artifacts(
                    ArtifactFolder(folder), refusing, index, domain="books", refusals=Refusals()
                )
                if error is not None:
                    raise error("the encoder is gone")
            assert (versions.live(), versions.all()) == (None, [])
        with open_index(index_settings, encoder=HashEncoder(8), create=True):
            pass
        with FreshVersion(versions) as fresh:
            fresh.is_ours = True
        assert versions.live()
