"""Rules of moderation in reasoning: an answer that breaks one is asked for again."""

from pathlib import Path

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.prompts import Domain
from indexer.reasoning.personas import Personas
from indexer.reasoning.step import Sources
from p4r_qdrant.moderation import Rules
from p4r_qdrant.records import Item
from p4r_qdrant.settings import LLMSettings


@pytest.mark.parametrize(
    ("banned", "said"),
    [((), None), (("miracle cure",), "the description of persona 1 holds the banned words")],
)
def test_an_answer_with_banned_words(
    banned: tuple[str, ...], said: str | None, tmp_path: Path
) -> None:
    folder = ArtifactFolder(tmp_path)
    sources = Sources(folder, Domain.load("books"), LLMSettings(), rules=Rules(banned))
    question = Personas(sources, Refusals()).question(Item(item_id="i"), "A book of herbs.", [])
    assert question is not None
    answer = {
        "personas": [
            {
                "name": "The Patient Gardener",
                "description": "Somebody who hopes that a Miracle Cure grows behind the house.",
                "preference_rationale": "Its chapters follow the seasons of a small plot.",
            }
        ]
    }
    check = question.requests[0].check
    assert check is not None
    problem = check(answer)
    assert problem is None if said is None else said in str(problem)
