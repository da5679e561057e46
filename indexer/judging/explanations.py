"""The study of explanations: our explanation of an item against another text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.artifacts.lookup import Lookup
from indexer.judging.comparing import Comparison, Control, Sampling, Study, fit, shuffled
from indexer.judging.explanation_files import Explanations, explanation
from p4r_qdrant.encoder.user_vector import newest_first
from p4r_qdrant.records import Interaction, ItemPersonas, Persona
from p4r_qdrant.texts import interaction_text

SUMMARY = "summary"
"""What our explanation is compared with by default: the item's summary, equal for all users."""


@dataclass(frozen=True)
class ExplanationSampling(Sampling):
    """Draws one item among a user's first `top`."""

    top: int = 5


DEFAULT_SAMPLING = ExplanationSampling()


class ExplanationStudy(Study):
    """Compares explanations of items, one of each user, so that comparisons are independent.

    ours: our explanations file.
    against: another explanations file; None: the items' summaries.
    The judge sees the user's `length` newest training interactions, without the item itself.
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
        sampling: ExplanationSampling = DEFAULT_SAMPLING,
        *,
        length: int = 10,
    ) -> None:
        super().__init__()
        self._ours = Explanations(ours, refusals, sampling.top)
        self._theirs = Explanations(against, refusals) if against else None
        self._histories = Histories(folder, refusals)
        self._summaries = folder.summaries(refusals)
        self._items = folder.items(refusals)
        self._personas = Lookup(folder.personas(), ItemPersonas, refusals)
        files = (self._ours, self._histories, self._summaries, self._items, self._personas)
        self.files = (*files, self._theirs) if self._theirs else files
        self.about = {
            "ours": str(ours),
            "against": str(against or SUMMARY),
            "top": sampling.top,
            "sample": sampling.comparisons,
            "seed": sampling.seed,
            "history": length,
        }
        self._sample = sampling.comparisons
        self._controls = sampling.controls
        self._seed = sampling.seed
        self._length = length

    def comparisons(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """Our explanation against the other, one item per user."""
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
        """(user, item), one item per user; an item that both files explain, if there is any."""
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
        """What the judge sees beside the explanations; "" if nothing is known."""
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
        """At most `controls` comparisons of each of the three controls."""
        for made in (self._another_item, self._another_reader, self._identical):
            yield from islice(made(left_out), self._controls)

    def _another_item(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """The wrong text is another user's, of an item that this user does not know."""
        explained = list(islice(self._explained(), 4 * self._controls))
        for number, (user_id, item_id) in enumerate(explained):
            known = {item_id, *(one.item_id for one in self._histories.get(user_id))}
            others = (one for one in explained[number + 1 :] + explained[:number])
            other = next((one for one in others if one[1] not in known), None)
            if other is not None:
                texts = self._ours.get(user_id, item_id), self._ours.get(*other)
                yield from self._control("another item", user_id, item_id, texts, left_out)

    def _another_reader(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """Two personas of an item that the user has reviewed; one of them cites that review."""
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
        """One comparison; none if one of its texts is empty."""
        right, wrong = (fit(text, left_out) for text in texts)
        context = self._context(user_id, item_id, left_out, with_item=name == "another reader")
        if right and wrong and context and (right == wrong) == (name == "identical"):
            yield Comparison(_about(user_id, item_id), context, right, wrong, name)


def shuffled_personas(personas: Sequence[Persona], seed: int) -> list[Persona]:
    """The personas in an order that does not depend on the file."""
    by_id = {one.persona_id: one for one in personas}
    return [by_id[persona_id] for persona_id in shuffled(by_id, seed)]


def _about(user_id: str, item_id: str) -> dict[str, str]:
    return {"user_id": user_id, "item_id": item_id}


def _line(one: Interaction, left_out: Counter[str]) -> str:
    """Summary and aspects, sanitized separately: joined, they can read as an order to a model."""
    parts = (fit(part, left_out) for part in interaction_text(one).split("\n"))
    return "; ".join(filter(None, parts))
