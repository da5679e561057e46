"""Example users: their history, their candidates, and the winning personas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indexer.artifacts.lines import Refusals
from indexer.artifacts.lookup import Lookup
from indexer.evaluation.experiment import online
from indexer.evaluation.experiment.context import Context
from indexer.evaluation.experiment.encoding import Encoded
from indexer.evaluation.experiment.reranked_lines import served
from indexer.evaluation.experiment.selection import Choice, Judged
from indexer.metrics import Floats, metric_values
from p4r_qdrant.encoder.user_vector import newest_first
from p4r_qdrant.index.payload import plain_text
from p4r_qdrant.records import Interaction, Item, RankedItem, Ranking, Summary
from p4r_qdrant.texts import plain_rationale

SHOWN = 5
"""Interactions and ranked items of each user."""


def spread(one: Judged, scores: Floats, count: int) -> list[str]:
    """Users sampled evenly from the largest gain to the largest loss by these scores.

    Only those whose test item is among the candidates.
    """
    cutoff = (one.pool.candidates.shape[1],)
    before = one.pool.generator_ranks(one.test)
    after = one.pool.ranks(scores, one.test)
    gains = (metric_values(after, cutoff) - metric_values(before, cutoff))[:, 2]
    listed = np.flatnonzero(before > 0)
    order = listed[np.argsort(-gains[listed], kind="stable")]
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [one.pool.users[order[place]] for place in places]


def example_users(
    encoded: Encoded, choice: Choice, judged: Judged, generator: str, context: Context
) -> list[dict[str, Any]]:
    """Some users of a generator as JSON, from the largest gain to the largest loss."""
    profiles, folder = encoded.material.full.newest(choice.length), context.data.folder
    scores = choice.plain.scores(judged.pool, profiles, encoded.material.personas)
    users = spread(judged, scores, context.config.examples)
    with (
        served(encoded, choice, context) as through,
        folder.items(Refusals()) as items,
        folder.summaries(Refusals()) as summaries,
    ):
        labels = Labels(items, summaries)
        rankings = online.reranked(through, judged.pool, choice.plain, users=users, explain=SHOWN)
        found = {
            user: example(
                user, context.data.test.items[user], ranking, context.histories.get(user), labels
            )
            | {"generator": generator}
            for user, ranking in rankings
        }
    return [found[user] for user in users]


class Labels:
    """A label of an item for people: its title, the begin of its summary, or its id."""

    def __init__(self, items: Lookup[Item], summaries: Lookup[Summary]) -> None:
        self._items = items
        self._summaries = summaries

    def of(self, item_id: str) -> str:
        """A label of at most 60 characters or so."""
        item, summary = self._items.get(item_id), self._summaries.get(item_id)
        title = plain_text(item.title) if item else ""
        if title or summary is None:
            return title or item_id
        words = summary.summary[:60].rsplit(" ", 1)[0]
        return f"{words} ..."


def example(
    user: str, truth: str, ranking: Ranking, history: Sequence[Interaction], labels: Labels
) -> dict[str, Any]:
    """One user as JSON; the truth is among the ranking's items."""
    hidden = next(one for one in ranking.items if one.item_id == truth)
    return {
        "user": user,
        "history": [
            {
                "item": labels.of(one.item_id),
                "aspects": [text for text in one.aspects.values() if text],
            }
            for one in newest_first(history, SHOWN)
        ],
        "truth": labels.of(truth),
        "before": hidden.generator_rank,
        "after": hidden.rank,
        "ranking": [_shown(one, truth, labels) for one in ranking.items[:SHOWN]],
    }


def _shown(one: RankedItem, truth: str, labels: Labels) -> dict[str, Any]:
    return {
        "rank": one.rank,
        "was": one.generator_rank,
        "item": labels.of(one.item_id),
        "is_truth": one.item_id == truth,
        "persona": one.persona.label if one.persona else None,
        "reason": plain_rationale(one.persona.preference_rationale) if one.persona else None,
        "because": [
            {"item": labels.of(reason.item_id), "share": reason.share} for reason in one.because[:3]
        ],
    }
