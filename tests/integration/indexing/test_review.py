"""Decisions of reviewers rule what is published, on both engines."""

import json
from pathlib import Path

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.indexing import vector_files
from indexer.indexing.items import index_artifacts
from indexer.review.screening import Policy
from p4r_qdrant import Settings, open_index
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.moderation import Rules
from p4r_qdrant.records import ItemPersonas
from tests.support import publishing
from tests.support.publishing import catalogue_at, run, write_personas
from tests.support.reviewing import decide, desk_of

ENCODER = publishing.encoder(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return catalogue_at(tmp_path / "catalogue", items=8)


def served(settings: Settings) -> dict[str, dict[str, str]]:
    """Item -> persona id -> its description, as the live index holds them."""
    with open_index(settings) as index:
        return {
            item_id: {one.persona_id: one.description for one in index.get(item_id)}
            for item_id in index.item_ids()
        }


def records(folder: Path) -> dict[str, ItemPersonas]:
    lines = (folder / "personas.jsonl").read_text().splitlines()
    found = [ItemPersonas.model_validate_json(line) for line in lines]
    return {one.item_id: one for one in found}


def test_from_decisions_to_what_is_served(index_settings: Settings, folder: Path) -> None:
    run(folder, ENCODER, index_settings)
    before = served(index_settings)
    decide(folder, "reject", "item-0", "item-0_P0")  # its only persona
    decide(folder, "reject", "item-3", "item-3_P1")
    decide(folder, "edit", "item-3", "item-3_P2", description="Only mine.")
    decide(folder, "lock", "item-2", "item-2_P0")
    report = run(folder, ENCODER, index_settings)
    assert (report.written, report.removed) == (1, 1)
    assert report.review[0] == "review: 2 personas are not served: 2 rejected"
    assert "first: 'item-0'" in report.review[1]
    after = served(index_settings)
    assert after.keys() == before.keys() - {"item-0"}
    assert after["item-3"] == {
        "item-3_P0": before["item-3"]["item-3_P0"],
        "item-3_P2": "Only mine.",
        "item-3_P3": before["item-3"]["item-3_P3"],
    }

    # Reasoning again: other texts, and fewer personas.
    again = [publishing.item(number, text="again") for number in range(8)]
    again[2]["personas"] = again[2]["personas"][1:]
    write_personas(folder, again)
    run(folder, ENCODER, index_settings)
    after = served(index_settings)
    assert after["item-3"]["item-3_P2"] == "Only mine."
    assert after["item-2"]["item-2_P0"] == before["item-2"]["item-2_P0"], "locked, byte for byte"
    assert "again" in after["item-3"]["item-3_P1"], "another text than the rejected one"

    with open_index(index_settings) as index:
        decide(folder, "reject", "item-5", "item-5_P0")
        dropped = index.drop_personas(["item-5"], desk_of(folder).is_rejected)
        assert dropped == 1
        assert [one.persona_id for one in index.get("item-5")] == ["item-5_P1"]


def test_approved_only(index_settings: Settings, folder: Path) -> None:
    with pytest.raises(InputError, match="decisions and rules withhold 8 others"):
        run(folder, ENCODER, index_settings, approved_only=True)
    decide(folder, "approve", "item-1", "item-1_P1")
    decide(folder, "edit", "item-2", "item-2_P0", name="Mine")
    report = run(folder, ENCODER, index_settings, approved_only=True)
    assert report.written == 2
    assert {one: list(own) for one, own in served(index_settings).items()} == {
        "item-1": ["item-1_P1"],
        "item-2": ["item-2_P0"],
    }
    artifacts = ArtifactFolder(folder)
    with open_index(index_settings) as index:
        assert index.metadata.policy == "approved-only"
        policy = Policy.of_version(Rules(), index.metadata)
        index_artifacts(
            artifacts, ENCODER, index, domain="products", refusals=Refusals(), policy=policy
        )
        assert index.stats().items == 2
    run(folder, ENCODER, index_settings)
    with open_index(index_settings) as index:
        assert index.metadata.policy == "", "each publish has its own policy"


def test_index_deletes_what_is_rejected(index_settings: Settings, folder: Path) -> None:
    artifacts = ArtifactFolder(folder)
    with open_index(index_settings, encoder=ENCODER, create=True) as index:
        index_artifacts(artifacts, ENCODER, index, domain="x", refusals=Refusals())
        decide(folder, "reject", "item-0", "item-0_P0")
        report = index_artifacts(artifacts, ENCODER, index, domain="x", refusals=Refusals())
        assert report.review
        assert set(index.item_ids()) == {f"item-{number}" for number in range(1, 8)}


def test_vectors_from_a_file_follow_their_personas(
    index_settings: Settings, folder: Path, tmp_path: Path
) -> None:
    import numpy as np

    every = [one for record in records(folder).values() for one in record.personas]
    path = tmp_path / "vectors.npy"
    np.save(path, ENCODER.encode_personas(every))
    decide(folder, "reject", "item-3", "item-3_P1")
    decide(folder, "edit", "item-2", "item-2_P0", name="Mine")
    refusals = Refusals()
    with vector_files.opened(path, ArtifactFolder(folder), "f") as source:
        run(folder, source, index_settings, refusals)
    assert refusals.total == 1
    assert "publish with an encoder" in refusals.sentences[0]
    with open_index(index_settings) as index:
        [match] = index.best_personas(
            ENCODER.encode_personas(records(folder)["item-3"].personas[2:3]),
            [["item-3"]],
            explain=1,
        )[0]
        assert match.persona is not None
        assert (match.persona.persona_id, round(match.score or 0, 4)) == ("item-3_P2", 1.0)
        assert "item-2" not in set(index.item_ids())


def test_rules_hold_at_publish(
    index_settings: Settings, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "rules.toml"
    word = records(folder)["item-1"].personas[0].description.split()[1]
    rules.write_text(f"words = [{json.dumps(word)}]")
    own = index_settings.reasoning.model_copy(update={"rules": rules})
    run(folder, ENCODER, index_settings.model_copy(update={"reasoning": own}))
    texts = " ".join(text for own in served(index_settings).values() for text in own.values())
    assert word not in texts.split()


def test_a_rollback_brings_no_rejected_persona_back(index_settings: Settings, folder: Path) -> None:
    run(folder, ENCODER, index_settings)
    decide(folder, "reject", "item-3", "item-3_P1")
    run(folder, publishing.encoder(1), index_settings)
    with open_versions(index_settings) as versions:
        versions.roll_back()
    assert "item-3_P1" not in served(index_settings)["item-3"]
    assert len(served(index_settings)["item-3"]) == 3
