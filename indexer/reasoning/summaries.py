"""s_i: the summary of an item from its metadata (Eq. 1)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from indexer.artifacts.lines import read_lines
from indexer.artifacts.names import ITEMS, SUMMARIES
from indexer.reasoning.sanitizing import metadata, problem_with
from indexer.reasoning.step import TEXT, AnswerForm, Question, Step, an_object
from p4r_qdrant.records import Item, Summary

MOST_WORDS = 120


class Summaries(Step):
    """One summary per item; an item without metadata has none."""

    name = "summaries"
    artifact = SUMMARIES
    templates = ("summary",)
    answer_tokens = 90

    def questions(self) -> Iterator[Question]:
        """One request per item."""
        lines = read_lines(self.sources.folder.file(ITEMS), Item, self.refusals)
        for _, _, item in islice(lines, self.sources.limit):
            question = self.question(item)
            if question is not None:
                yield question

    def question(self, item: Item) -> Question | None:
        """The question about an item; None if it has no metadata."""
        known = metadata(item)
        self.left_out["sentences that address a model"] += known.removed
        if not known.text:
            self.left_out["items without metadata"] += 1
            return None
        request = self.request(
            "summary",
            known.text,
            AnswerForm(
                schema=an_object(summary=TEXT),
                check=_problem,
                about={"item_id": item.item_id},
                max_tokens=400,
            ),
        )
        return Question(item.item_id, [request])

    def record(self, about: Any, values: list[Any]) -> Summary:
        """A line of summaries.jsonl."""
        return Summary(item_id=about, summary=values[0]["summary"])


def _problem(value: Any, system: str) -> str | None:
    problem = problem_with(value["summary"], system, most_words=MOST_WORDS)
    return f"the summary {problem}" if problem else None
