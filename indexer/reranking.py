"""Rerank a file of candidate lists with the histories of an artifact folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.artifacts.candidate_lists import read_candidates
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from p4r_qdrant.encoder.user_vector import newest_first
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.records import Because, CandidateList, Interaction, RankedItem, Ranking, WhyNot
from p4r_qdrant.rerank.reranker import PersonaReranker

USERS_A_CALL = 64


@dataclass(frozen=True, slots=True)
class Reranked:
    """A user's ranking and the history behind it, newest first."""

    user_id: str
    ranking: Ranking
    history: tuple[Interaction, ...]


def rerank_file(
    folder: ArtifactFolder,
    candidates: Path,
    reranker: PersonaReranker,
    refusals: Refusals,
    *,
    user: str | None = None,
    top: int | None = None,
) -> Iterator[Reranked]:
    """Stream the rankings of a candidates file, or of one `user` in it.

    `top` cuts each ranking; every item carries its persona.
    Raises: InputError if `user` is not in the file, or no list can be reranked.
    """
    lists = _fit(read_candidates(candidates, refusals), reranker, refusals)
    if user is not None:
        lists = (one for one in lists if one.user_id == user)
    found = False
    with Histories(folder, refusals) as histories:
        for batch in batches(lists, USERS_A_CALL):
            found = True
            users = [histories.get(one.user_id) for one in batch]
            candidates_of = [one.results for one in batch]
            rankings = reranker.rerank_many(users, candidates_of, top, explain=None)
            for one, history, ranking in zip(batch, users, rankings, strict=True):
                yield Reranked(one.user_id, ranking, newest_first(history, len(history)))
    if user is not None and not found:
        raise InputError(f"user {user!r} has no candidates in {candidates}; name another user")
    if not found:
        raise InputError(f"{candidates} holds no list that can be reranked")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to `PersonaReranker.why_not`."""

    user_id: str
    item_id: str
    top: int
    additions: int


def why_not_of(
    folder: ArtifactFolder,
    candidates: Path | None,
    reranker: PersonaReranker,
    asked: Asked,
    refusals: Refusals,
) -> WhyNot:
    """Why an item is not among the first for a user of a folder.

    candidates: a file with the user's list; None for the whole catalogue. Raises InputError if the
    user has no list in the file, or no interactions and there is no file.
    """
    given = None
    if candidates is not None:
        lists = _fit(read_candidates(candidates, refusals), reranker, refusals)
        own = next((one for one in lists if one.user_id == asked.user_id), None)
        if own is None:
            raise InputError(f"user {asked.user_id!r} has no candidates in {candidates}")
        given = own.results
    with Histories(folder, refusals) as histories:
        history = histories.get(asked.user_id)
    if given is None and not history:
        raise InputError(f"user {asked.user_id!r} has no interactions in {folder.path}")
    return reranker.why_not(history, asked.item_id, given, asked.top, additions=asked.additions)


def _fit(
    lists: Iterator[CandidateList], reranker: PersonaReranker, refusals: Refusals
) -> Iterator[CandidateList]:
    """The lists that the reranker accepts; the others are refused."""
    for one in lists:
        if reranker.needs_scores and any(candidate.score is None for candidate in one.results):
            refusals.add(
                f"user {one.user_id!r} has candidates without a score, which weighted fusion needs",
                "candidates without scores",
            )
        else:
            yield one


def output_record(reranked: Reranked) -> dict[str, Any]:
    """A line of the output: a candidate list with the personas that explain it."""
    return {
        "user_id": reranked.user_id,
        "personalized": reranked.ranking.personalized,
        "results": [
            {
                "item_id": item.item_id,
                "score": item.score,
                "generator_score": item.generator_score,
                "persona_id": item.persona.persona_id if item.persona else None,
                "persona_name": item.persona.name if item.persona else None,
                "preference_rationale": (
                    item.persona.preference_rationale if item.persona else None
                ),
                "extractive": item.persona.extractive if item.persona else None,
                "because": _shares(item.because),
                **_of_parts(item),
            }
            for item in reranked.ranking.items
        ],
    }


def _of_parts(item: RankedItem) -> dict[str, Any]:
    """What the one score of all parts adds to an output; nothing with another score."""
    if item.parts is None:
        return {}
    carried = item.parts._asdict().items()
    return {
        "parts": {name: None if value is None else round(value, 4) for name, value in carried},
        "chosen_with": _shares(item.chosen_with),
        "why": item.why,
    }


def _shares(reasons: Sequence[Because]) -> list[dict[str, Any]]:
    return [{"item_id": one.item_id, "share": round(one.share, 4)} for one in reasons]
