"""A file of candidate lists, reranked by the histories of a folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from indexer import reranking
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.indexing.items import index_artifacts
from indexer.reranking import Reranked, output_record, rerank_file
from p4r_qdrant import PersonaReranker
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import CandidateList
from tests.support.artifact_rows import aspects, review
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import write
from tests.support.memory_index import MemoryIndex

TASTES = {
    "gardening": "apples trees soil",
    "trains": "steam engine rails",
    "cooking": "pots stew salt",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(
        tmp_path,
        "personas.jsonl",
        [
            {
                "item_id": f"{taste}-{number}",
                "personas": [
                    {
                        "persona_id": f"{taste}-{number}_P1",
                        "name": taste,
                        "description": words,
                        "preference_rationale": words,
                    }
                ],
            }
            for taste, words in TASTES.items()
            for number in range(2)
        ],
    )
    write(tmp_path, "aspects.jsonl", [aspects("ann", "trains-0", 1, use=TASTES["trains"])])
    write(
        tmp_path,
        "reviews.jsonl",
        [
            review("bob", "cooking-0", 1),
            review("ann", "gardening-0", 9),
            review("ann", "trains-0", 1),
        ],
    )
    write(
        tmp_path,
        "splits.jsonl",
        [{"user_id": "ann", "test_item": "gardening-0", "valid_item": None, "tie": False}],
    )
    write(tmp_path, "summaries.jsonl", [{"item_id": "cooking-0", "summary": TASTES["cooking"]}])
    return tmp_path


def candidates(folder: Path, *rows: Any) -> Path:
    return write(
        folder,
        "candidates.jsonl",
        [
            row
            if isinstance(row, str)
            else {
                "user_id": row[0],
                "results": [
                    {"item_id": item_id, "score": 1 - place / 10}
                    for place, item_id in enumerate(row[1])
                ],
            }
            for row in rows
        ],
    )


def run(folder: Path, path: Path, **options: Any) -> tuple[list[Reranked], Refusals]:
    encoder, index, refusals = HashEncoder(64), MemoryIndex(64), Refusals()
    index.engine.metadata = type(index.metadata)(encoder.fingerprint, 64)
    index_artifacts(ArtifactFolder(folder), encoder, index, domain="x", refusals=Refusals())
    reranker = PersonaReranker(index, encoder)
    return list(rerank_file(ArtifactFolder(folder), path, reranker, refusals, **options)), refusals


ALL = ["gardening-1", "cooking-1", "trains-1"]


def test_each_user_by_what_that_user_did(folder: Path) -> None:
    path = candidates(folder, ("ann", ALL), ("bob", ALL), ("cleo", ALL))
    done, refusals = run(folder, path)
    assert [one.user_id for one in done] == ["ann", "bob", "cleo"]
    firsts = [one.ranking.items[0].item_id for one in done]
    assert firsts == ["trains-1", "cooking-1", "gardening-1"]
    assert [one.ranking.personalized for one in done] == [True, True, False]
    assert [one.item_id for one in done[2].ranking.items] == ALL, "nothing known: order kept"
    assert refusals.total == 0


def test_what_is_held_out_is_not_in_the_history(folder: Path) -> None:
    path = candidates(folder, ("ann", ALL))
    [ann], _ = run(folder, path)
    assert [one.item_id for one in ann.history] == ["trains-0"]
    assert {one.item_id for item in ann.ranking.items for one in item.because} == {"trains-0"}
    (folder / "splits.jsonl").unlink()
    [ann], _ = run(folder, path)
    assert [one.item_id for one in ann.history] == ["gardening-0", "trains-0"], "newest first"


def test_one_user_of_many(folder: Path) -> None:
    path = candidates(folder, ("ann", ALL), ("bob", ALL))
    done, _ = run(folder, path, user="bob", top=1)
    assert [(one.user_id, len(one.ranking.items)) for one in done] == [("bob", 1)]


def test_a_user_that_the_file_does_not_know(folder: Path) -> None:
    path = candidates(folder, ("ann", ALL), ("cleo", []))
    for user in ("nobody", "cleo", ""):
        with pytest.raises(InputError, match=f"user '{user}' has no candidates in .*candidates.js"):
            run(folder, path, user=user)


def test_repeated_users_and_broken_lines_do_not_stop_the_others(folder: Path) -> None:
    path = candidates(folder, ("ann", ALL), "{", ("ann", ALL[:1]), ("cleo", []), ("bob", ALL))
    done, refusals = run(folder, path)
    assert [(one.user_id, len(one.ranking.items)) for one in done] == [("ann", 3), ("bob", 3)]
    assert refusals.counts == {"broken record": 1, "repeated user": 1, "no candidates": 1}


def test_candidates_that_are_repeated_or_unknown(folder: Path) -> None:
    path = candidates(
        folder, ("ann", ["nobody-2", "[PAD]", "cooking-1", "trains-1", "[PAD]", "🎻"])
    )
    [ann], _ = run(folder, path)
    items = [one.item_id for one in ann.ranking.items]
    assert items == ["trains-1", "cooking-1", "nobody-2", "[PAD]", "🎻"]
    assert [one.score is None for one in ann.ranking.items] == [False, False, True, True, True]


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_users_are_taken_in_batches(
    at_once: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranking, "USERS_A_CALL", at_once)
    names = ["ann", "bob", *(f"user-{number}" for number in range(5))]
    path = candidates(folder, *((name, ALL) for name in names))
    done, _ = run(folder, path)
    assert [one.user_id for one in done] == names
    assert [one.ranking.items[0].item_id for one in done[:2]] == ["trains-1", "cooking-1"]


def test_the_output_is_a_candidates_file_with_reasons(folder: Path) -> None:
    path = candidates(folder, ("ann", ["trains-1", "nobody-2"]), ("cleo", ["cooking-1"]))
    done, _ = run(folder, path)
    ann, cleo = (json.loads(json.dumps(output_record(one))) for one in done)
    assert list(ann) == list(cleo) == ["user_id", "personalized", "results"]
    score = done[0].ranking.items[0].score
    assert ann["results"] == [
        {
            "item_id": "trains-1",
            "score": score,
            "generator_score": 1.0,
            "persona_id": "trains-1_P1",
            "persona_name": "trains",
            "preference_rationale": "Steam engine rails",
            "extractive": False,
            "because": [{"item_id": "trains-0", "share": 1.0}],
        },
        {
            "item_id": "nobody-2",
            "score": None,
            "generator_score": 0.9,
            "persona_id": None,
            "persona_name": None,
            "preference_rationale": None,
            "extractive": None,
            "because": [],
        },
    ]
    assert cleo["personalized"] is False
    assert CandidateList.model_validate(ann).results[0].score == score


def test_a_folder_without_histories(folder: Path) -> None:
    (folder / "reviews.jsonl").unlink()
    (folder / "aspects.jsonl").unlink()
    with pytest.raises(InputError, match=r"holds no reviews.jsonl"):
        run(folder, candidates(folder, ("ann", ALL)))
