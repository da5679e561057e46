"""The study of personas: an item's personas against a single one, or against another file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.lookup import ItemRecords, Lookup
from indexer.artifacts.names import ASPECTS
from indexer.judging.comparing import (
    DEFAULT_SAMPLING,
    Comparison,
    Control,
    Sampling,
    Study,
    fit,
    shuffled,
)
from indexer.reasoning.personas import MOST_NOTES, Personas, most_telling, note_text
from indexer.reasoning.step import Question, Sources, Step
from indexer.review.decisions import Decision
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Aspects, Item, ItemPersonas

SINGLE = "single.jsonl"


class PersonaStudy(Study):
    """Compares the personas of items, one comparison per item.

    against: another personas.jsonl; None: a single persona, which an LLM writes from the same
    notes and which is kept as `single.jsonl` in the folder of results.
    """

    name = "personas"
    template = "judge_personas"
    label = "Personas"
    criteria = (
        "faithfulness",
        "clarity",
        "coverage",
        "interpretability",
        "representativeness",
    )
    controls = (
        Control("shuffled", "the personas of another item lose", "faithfulness"),
        Control("identical", "the same personas twice are a tie on every criterion", None),
    )

    def __init__(
        self,
        folder: ArtifactFolder,
        against: Path | None,
        output: Path,
        refusals: Refusals,
        sampling: Sampling = DEFAULT_SAMPLING,
    ) -> None:
        super().__init__()
        path = folder.personas()
        self._personas = Lookup(path, ItemPersonas, refusals)
        self._notes = ItemRecords(folder.file(ASPECTS), Aspects, folder.held_out())
        self._summaries = folder.summaries(refusals)
        self.files = (self._personas, self._notes, self._summaries)
        lines = read_lines(path, ItemPersonas, Refusals())
        with_some = {one.item_id for _, _, one in lines if one.personas}
        self._items = shuffled(with_some, sampling.seed)
        if against is not None and not against.is_file():
            raise InputError(f"there is no file {against}")
        self._theirs = against or output / SINGLE
        self.reads = () if against else (SINGLE,)
        self.about = {
            "ours": str(path),
            "against": str(against or "a single persona"),
            "sample": sampling.comparisons,
            "seed": sampling.seed,
        }
        self._sample = sampling.comparisons
        self._controls = sampling.controls
        self._refusals = refusals

    def preparation(self, sources: Sources, refusals: Refusals) -> list[Step]:
        """The step that writes the single personas, unless another file is compared."""
        return [SinglePersonas(sources, refusals, self)] if self.reads else []

    def reviewed(self) -> Iterator[tuple[str, str, Sequence[Aspects]]]:
        """(item, summary, notes) of each item that is compared."""
        items = ((item_id, self._notes.get(item_id)) for item_id in self._items)
        for item_id, notes in islice((one for one in items if one[1]), self._sample):
            yield item_id, self._summary(item_id), notes

    def comparisons(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """Our personas of an item against the others."""
        with Lookup(self._theirs, ItemPersonas, self._refusals) as other:
            for item_id, _, _ in self.reviewed():
                theirs = _listed(other.get(item_id), left_out)
                if not theirs:
                    left_out["items for which there are no other personas"] += 1
                    continue
                yield from self._comparison("", item_id, theirs, left_out)

    def control_comparisons(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """At most `controls` comparisons of each of the two controls."""
        reviewed = list(islice((one for one, _, _ in self.reviewed()), self._controls))
        for number, item_id in enumerate(reviewed):
            another = reviewed[number - 1]
            if another != item_id:
                wrong = _listed(self._personas.get(another), left_out)
                yield from self._comparison("shuffled", item_id, wrong, left_out)
        for item_id in reviewed:
            same = _listed(self._personas.get(item_id), left_out)
            yield from self._comparison("identical", item_id, same, left_out)

    def _comparison(
        self, control: str, item_id: str, theirs: str, left_out: Counter[str]
    ) -> Iterator[Comparison]:
        """One comparison; none if one of its texts is empty."""
        ours = _listed(self._personas.get(item_id), left_out)
        if ours and theirs:
            context = self._context(item_id, left_out)
            yield Comparison({"item_id": item_id}, context, ours, theirs, control)

    def _context(self, item_id: str, left_out: Counter[str]) -> str:
        notes = most_telling(self._notes.get(item_id), MOST_NOTES)
        lines = [
            f"- rated {note.rating:g} of 5: {fit(note_text(note), left_out)}" for note in notes
        ]
        description = fit(self._summary(item_id), left_out) or "none"
        return f"Description: {description}\n\nNotes:\n" + "\n".join(lines)

    def _summary(self, item_id: str) -> str:
        found = self._summaries.get(item_id)
        return found.summary if found else ""


def _listed(found: ItemPersonas | None, left_out: Counter[str]) -> str:
    """Personas as the judge reads them, one per line; "" if there are none."""
    texts = [
        fit(f"{one.name}: {one.description} {one.preference_rationale}", left_out)
        for one in (found.personas if found else ())
    ]
    return "\n".join(f"{number}. {text}" for number, text in enumerate(filter(None, texts), 1))


class SinglePersonas(Personas):
    """One persona for each item of a study, from the same notes as its several personas."""

    artifact = SINGLE
    templates = ("persona_single",)
    reads = ()
    answer_tokens = 130  # a fifth of what several take; not measured

    def __init__(self, sources: Sources, refusals: Refusals, study: PersonaStudy) -> None:
        super().__init__(sources, refusals)
        self._study = study

    def questions(self) -> Iterator[Question]:
        """One request per item."""
        for item_id, summary, notes in self._study.reviewed():
            question = self.question(Item(item_id=item_id), summary, notes)
            if question is not None:
                yield question

    def wanted(self, notes: Sequence[Aspects]) -> tuple[str, int, int]:  # noqa: ARG002
        """Exactly one."""
        return "persona_single", 1, 1

    def remarks(self, item_id: str) -> Sequence[Decision]:  # noqa: ARG002
        """None: reviewers have seen other personas."""
        return ()
