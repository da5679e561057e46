"""The study of explanations: what a reader is told of an item, ours against another text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.lookup import Lookup, RecordFile
from indexer.artifacts.names import PERSONAS
from indexer.judging.comparing import Comparison, Control, Study, fit, shuffled
from p4r_qdrant.encoder.user_vector import newest_first
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Id, Interaction, ItemPersonas, Persona, Text
from p4r_qdrant.texts import interaction_text, plain_rationale

SUMMARY = "summary"
"""What ours is compared with where no file is named: the item's summary, the same for everybody."""


class ExplainedItem(BaseModel):
    """What somebody is told of an item: a text, or the winning persona."""

    model_config = ConfigDict(frozen=True)

    item_id: Id
    explanation: Text = ""
    persona_name: Text = ""
    preference_rationale: Text = ""

    @property
    def text(self) -> str:
        """The explanation; empty where there is none."""
        return self.explanation or explanation(self.persona_name, self.preference_rationale)


class ExplainedLine(BaseModel):
    """A line of an explanations file: user_id, item_id, explanation; or one of `p4r rerank`."""

    model_config = ConfigDict(frozen=True)

    user_id: Id
    results: list[ExplainedItem]

    @model_validator(mode="before")
    @classmethod
    def _one_item(cls, value: Any) -> Any:
        if isinstance(value, dict) and "results" not in value and "item_id" in value:
            return value | {"results": [value]}
        return value


def explanation(name: str, rationale: str) -> str:
    """How a persona explains an item."""
    return f"{name}: {plain_rationale(rationale)}" if name and rationale else ""


class Explanations:
    """An explanations file, the first `top` items of each reader; a context manager.

    Memory holds ids and places in the file, never texts. Raises InputError where it has none.
    """

    def __init__(self, path: Path, refusals: Refusals, top: int | None = None) -> None:
        self._lines = RecordFile(path, ExplainedLine)
        self._offsets: dict[str, dict[str, int]] = {}
        for number, offset, line in read_lines(path, ExplainedLine, refusals):
            own = self._offsets.setdefault(line.user_id, {})
            for one in line.results:
                if one.item_id in own:
                    refusals.add(
                        f"{path}:{number}: item {one.item_id!r} is explained to {line.user_id!r} "
                        "twice; keep one",
                        "repeated explanation",
                    )
                elif one.text and (top is None or len(own) < top):
                    own[one.item_id] = offset
        if not any(self._offsets.values()):
            raise InputError(
                f"{path} holds no explanation: its lines are those of `p4r rerank --output`, or "
                'have "user_id", "item_id" and "explanation"'
            )

    def users(self) -> Sequence[str]:
        """Everybody who is told something."""
        return [user_id for user_id, own in self._offsets.items() if own]

    def items(self, user_id: str) -> Sequence[str]:
        """What somebody is told of."""
        return list(self._offsets.get(user_id, ()))

    def get(self, user_id: str, item_id: str) -> str:
        """The explanation, "" where there is none."""
        offset = self._offsets.get(user_id, {}).get(item_id)
        if offset is None:
            return ""
        line = self._lines.at(offset)
        return next(one.text for one in line.results if one.item_id == item_id and one.text)

    def __enter__(self) -> Self:
        self._lines.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()


class ExplanationStudy(Study):
    """One explanation a reader, drawn from the first `top` of our list: independent witnesses.

    `against` is another explanations file; None: the item's summary. The judge sees the reader's
    `length` newest training interactions, without the item itself.
    """

    name = "explanations"
    template = "judge_explanations"
    label = "Explanation"
    criteria = ("intuitiveness", "relatability", "consistency", "persuasiveness", "specificity")
    controls = (
        Control(
            "another item",
            "an explanation loses that was meant for another reader and another item",
            "consistency",
        ),
        Control(
            "another reader",
            "of an item the reader has reviewed, a persona loses that rests on others' reviews, "
            "against one that rests on the reader's",
            "relatability",
            optional=True,
        ),
        Control("identical", "the same explanation twice is a tie on every criterion", None),
    )

    def __init__(
        self,
        folder: ArtifactFolder,
        ours: Path,
        against: Path | None,
        refusals: Refusals,
        *,
        top: int = 5,
        sample: int = 100,
        controls: int = 30,
        seed: int = 0,
        length: int = 10,
    ) -> None:
        super().__init__()
        self._ours = Explanations(ours, refusals, top)
        self._theirs = Explanations(against, refusals) if against else None
        self._histories = Histories(folder, refusals)
        self._summaries = folder.summaries(refusals)
        self._items = folder.items(refusals)
        self._personas = Lookup(folder.path / PERSONAS, ItemPersonas, refusals)
        files = (self._ours, self._histories, self._summaries, self._items, self._personas)
        self.files = (*files, self._theirs) if self._theirs else files
        self.about = {
            "ours": str(ours),
            "against": str(against or SUMMARY),
            "top": top,
            "sample": sample,
            "seed": seed,
            "history": length,
        }
        self._sample = sample
        self._controls = controls
        self._seed = seed
        self._length = length

    def comparisons(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """Ours against theirs, of one item a reader."""
        return islice(self._compared(left_out), self._sample)

    def _compared(self, left_out: Counter[str]) -> Iterator[Comparison]:
        for user_id, item_id in self._explained():
            ours = fit(self._ours.get(user_id, item_id), left_out)
            theirs = fit(self._their(user_id, item_id), left_out)
            context = self._context(user_id, item_id, left_out)
            if ours and theirs and context:
                yield Comparison(_about(user_id, item_id), context, ours, theirs)
            elif context:
                left_out["readers with no item that both explain in words fit to be judged"] += 1
            else:
                left_out["readers or items of whom nothing else is known"] += 1

    def _explained(self) -> Iterator[tuple[str, str]]:
        """(reader, item), one item a reader; one that both explain, if there is any."""
        for user_id in shuffled(self._ours.users(), self._seed):
            items = shuffled(self._ours.items(user_id), self._seed, user_id)
            both = (item_id for item_id in items if self._their(user_id, item_id))
            yield user_id, next(both, items[0])

    def _their(self, user_id: str, item_id: str) -> str:
        if self._theirs is not None:
            return self._theirs.get(user_id, item_id)
        summary = self._summaries.get(item_id)
        return summary.summary if summary else ""

    def _context(
        self, user_id: str, item_id: str, left_out: Counter[str], *, with_item: bool = False
    ) -> str:
        """What the judge is shown beside the explanations; "" where there is nothing to show."""
        known = self._histories.get(user_id)
        itself = [one for one in known if one.item_id == item_id] if with_item else []
        others = [one for one in known if one.item_id != item_id]
        shown = [*itself, *newest_first(others, self._length - len(itself))]
        past = [_line(one, left_out) for one in newest_first(shown, self._length)]
        item = fit(self._described(item_id), left_out)
        if not any(past) or not item:
            return ""
        chosen = "\n".join(f"- {line}" for line in past if line)
        return f"Chosen before, newest first:\n{chosen}\n\nOffered: {item}"

    def _described(self, item_id: str) -> str:
        summary, item = self._summaries.get(item_id), self._items.get(item_id)
        return ". ".join(
            text for text in (item and item.title, summary and summary.summary) if text
        )

    # -- controls -------------------------------------------------------------------------------

    def control_comparisons(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """All three kinds, `controls` of each at most."""
        for made in (self._another_item, self._another_reader, self._identical):
            yield from islice(made(left_out), self._controls)

    def _another_item(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """The wrong text is the next reader's, of an item that this one does not know."""
        explained = list(islice(self._explained(), 4 * self._controls))
        for number, (user_id, item_id) in enumerate(explained):
            known = {item_id, *(one.item_id for one in self._histories.get(user_id))}
            others = (one for one in explained[number + 1 :] + explained[:number])
            other = next((one for one in others if one[1] not in known), None)
            if other is not None:
                texts = self._ours.get(user_id, item_id), self._ours.get(*other)
                yield from self._control("another item", user_id, item_id, texts, left_out)

    def _another_reader(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """Both personas are of an item that the reader has reviewed; one cites that review."""
        users = shuffled(self._histories.users(), self._seed)
        for user_id in users[: 100 * self._controls]:
            history = self._histories.get(user_id)
            reviewed = {one.item_id for one in history if any(one.aspects.values())}
            for item_id in shuffled(reviewed, self._seed, user_id):
                found = self._personas.get(item_id)
                personas = shuffled_personas(found.personas if found else (), self._seed)
                theirs = [one for one in personas if user_id in one.evidence]
                others = [one for one in personas if one.evidence and user_id not in one.evidence]
                if theirs and others:
                    pair = (theirs[0], others[0])
                    right, wrong = (explanation(one.name, one.preference_rationale) for one in pair)
                    yield from self._control(
                        "another reader", user_id, item_id, (right, wrong), left_out
                    )
                    break

    def _identical(self, left_out: Counter[str]) -> Iterator[Comparison]:
        for user_id, item_id in self._explained():
            text = self._ours.get(user_id, item_id)
            yield from self._control("identical", user_id, item_id, (text, text), left_out)

    def _control(
        self,
        name: str,
        user_id: str,
        item_id: str,
        texts: tuple[str, str],
        left_out: Counter[str],
    ) -> Iterator[Comparison]:
        """One comparison, or none where one of its texts is empty."""
        right, wrong = (fit(text, left_out) for text in texts)
        context = self._context(user_id, item_id, left_out, with_item=name == "another reader")
        if right and wrong and context and (right == wrong) == (name == "identical"):
            yield Comparison(_about(user_id, item_id), context, right, wrong, name)


def shuffled_personas(personas: Sequence[Persona], seed: int) -> list[Persona]:
    """In an order that does not depend on the file's."""
    by_id = {one.persona_id: one for one in personas}
    return [by_id[persona_id] for persona_id in shuffled(by_id, seed)]


def _about(user_id: str, item_id: str) -> dict[str, str]:
    return {"user_id": user_id, "item_id": item_id}


def _line(one: Interaction, left_out: Counter[str]) -> str:
    """Summary and aspects, each made fit by itself: "... in print" and "only ..." are no order."""
    parts = (fit(part, left_out) for part in interaction_text(one).split("\n"))
    return "; ".join(filter(None, parts))
