"""Training examples: a user's interactions, and the persona that explains the next one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from indexer.artifacts.candidate_lists import read_candidates
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import ALIGNMENTS, CANDIDATES, PERSONAS
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.user_vector import history_texts, newest_first
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Alignment, Interaction, ItemPersonas
from p4r_qdrant.settings import HistorySettings, TrainingSettings
from p4r_qdrant.texts import persona_text

LEAST_EXAMPLES = 16
"""With fewer examples, the metrics are mostly noise and a batch has few negatives."""


@dataclass
class Catalogue:
    """All personas, item by item. The position of an item or a persona here is its id.

    texts: of the personas (Eq. 8). The personas of item i are `starts[i]` to `starts[i + 1] - 1`.
    """

    items: dict[str, int] = field(default_factory=dict)
    persona_ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    item_of: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])

    @classmethod
    def read(cls, folder: ArtifactFolder, refusals: Refusals) -> Catalogue:
        """Read the personas of a folder and their items' summaries; an item's first line counts."""
        found = cls()
        with folder.summaries(refusals) as summaries:
            path = folder.personas()
            for number, _, record in read_lines(path, ItemPersonas, refusals):
                if record.item_id in found.items:
                    refusals.add(
                        f"{path}:{number}: item {record.item_id!r} is already in this file; "
                        "keep one",
                        "repeated item",
                    )
                elif record.personas:
                    summary = summaries.get(record.item_id)
                    found.add(record, summary.summary if summary else "")
        return found

    def add(self, record: ItemPersonas, summary: str) -> None:
        """Append an item."""
        item = self.items[record.item_id] = len(self.items)
        for persona in record.personas:
            self.persona_ids.append(persona.persona_id)
            self.texts.append(persona_text(persona, summary))
            self.item_of.append(item)
        self.starts.append(len(self.texts))

    def personas_of(self, item: int) -> range:
        """The ids of an item's personas."""
        return range(self.starts[item], self.starts[item + 1])

    def find(self, item_id: str, persona_id: str) -> int | None:
        """A persona of an item, None where that item has none of this id."""
        item = self.items.get(item_id)
        of_item = self.personas_of(item) if item is not None else range(0)
        return next((one for one in of_item if self.persona_ids[one] == persona_id), None)


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a batch: a user's history at the time of a choice, and what explains the choice.

    texts: the interactions, newest first (Eq. 6). positives: the personas that explain the choice;
    with several, any one of them is enough. negatives: hard negatives. interacted: the items of
    the user.
    """

    user_id: str
    item: int
    texts: tuple[str, ...]
    positives: tuple[int, ...]
    interacted: tuple[int, ...]
    negatives: tuple[int, ...] = ()
    weight: float = 1.0


@dataclass
class Pairs:
    """The examples of a run. `left_out` counts interactions that give no example, by reason."""

    catalogue: Catalogue
    examples: list[Example] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def hash(self) -> str:
        """A hash of everything that training reads: texts, positives, negatives, masks."""
        digest = hashlib.sha256(repr((self.catalogue.items, self.catalogue.texts)).encode())
        for example in self.examples:
            digest.update(repr(example).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The sources of examples and of validation users."""

    folder: ArtifactFolder
    catalogue: Catalogue
    histories: Histories


@contextmanager
def training_data(folder: ArtifactFolder, refusals: Refusals) -> Iterator[TrainingData]:
    """Open the catalogue and the histories of a folder."""
    catalogue = Catalogue.read(folder, refusals)
    with Histories(folder, refusals) as histories:
        yield TrainingData(folder, catalogue, histories)


def read_pairs(
    data: TrainingData,
    training: TrainingSettings,
    history: HistorySettings,
    refusals: Refusals,
    *,
    encoder: Encoder | None = None,
    leave_out: Collection[str] = (),
) -> Pairs:
    """Make examples from a folder's alignments and, if the settings say so, other interactions.

    Held-out interactions are in no history, so they are in no example. `encoder` aligns the
    interactions without an alignment where `unjudged` is "similar". Alignments of the users in
    `leave_out` give no example.

    Raises InputError if fewer than LEAST_EXAMPLES examples remain.
    """
    catalogue, histories = data.catalogue, data.histories
    judged = _alignments(data, refusals)
    candidates = _candidates(data.folder, refusals) if training.hard_negatives else {}
    pairs = Pairs(catalogue)
    similar: list[tuple[int, list[Interaction]]] = []
    for user_id in histories.users():
        everything = newest_first(histories.get(user_id), len(histories.get(user_id)))
        interacted = tuple(
            catalogue.items[one.item_id] for one in everything if one.item_id in catalogue.items
        )
        for place, target in enumerate(everything):
            persona = judged.get((user_id, target.item_id))
            if persona is not None and user_id in leave_out:
                continue
            if target.item_id not in catalogue.items:
                continue
            if persona is None and training.unjudged == "none":
                continue
            seen = [*everything[place + 1 :]]
            if training.profile == "others":
                seen = [*everything[:place], *seen]
            texts = tuple(text for _, text in history_texts(seen, history.length))
            if not texts:
                pairs.left_out[f"interactions with nothing {_BESIDE[training.profile]} them"] += 1
                continue
            item = catalogue.items[target.item_id]
            if persona is None and training.unjudged == "similar":
                similar.append((len(pairs.examples), seen))
            pairs.examples.append(
                Example(
                    user_id,
                    item,
                    texts,
                    (persona,) if persona is not None else tuple(catalogue.personas_of(item)),
                    interacted,
                    _hard_negatives(
                        catalogue, candidates.get(user_id, ()), interacted, training.hard_negatives
                    ),
                    1.0 if persona is not None else training.unjudged_weight,
                )
            )
    if similar and encoder is not None:
        _align(pairs, similar, encoder, history)
    _check(pairs, data.folder)
    return pairs


_BESIDE = {"before": "before", "others": "beside"}


def _check(pairs: Pairs, folder: ArtifactFolder) -> None:
    if len(pairs.examples) < LEAST_EXAMPLES:
        why = "".join(f"; left out: {count} {what}" for what, count in pairs.left_out.items())
        raise InputError(
            f"{folder.path / ALIGNMENTS} gives {len(pairs.examples)} examples and "
            f"at least {LEAST_EXAMPLES} are needed{why}; align more interactions (`p4r reason "
            "--per-user`), or set P4R_TRAINING__UNJUDGED=any"
        )
    if len({example.item for example in pairs.examples}) < 2:
        raise InputError(
            f"all examples of {folder.path / ALIGNMENTS} are of one item, so there are no "
            "negatives; align interactions with other items too"
        )


def _alignments(data: TrainingData, refusals: Refusals) -> dict[tuple[str, str], int]:
    """The aligned persona of each (user, item). Lines that give no example are refused."""
    users = {
        user_id: {one.item_id for one in data.histories.get(user_id)}
        for user_id in data.histories.users()
    }
    path = data.folder.file(ALIGNMENTS)
    judged: dict[tuple[str, str], int] = {}
    for number, _, record in read_lines(path, Alignment, refusals):
        where = f"{path}:{number}"
        key = (record.user_id, record.item_id)
        persona = data.catalogue.find(record.item_id, record.persona_id)
        if record.user_id not in users:
            refusals.add(f"{where}: user {record.user_id!r} has no interactions", "unknown user")
        elif record.item_id not in users[record.user_id]:
            refusals.add(
                f"{where}: user {record.user_id!r} has no interaction with {record.item_id!r} to "
                "train on; it is held out, or missing",
                "unknown interaction",
            )
        elif persona is None:
            refusals.add(
                f"{where}: item {record.item_id!r} has no persona {record.persona_id!r} in "
                f"{PERSONAS}",
                "unknown persona",
            )
        elif key in judged:
            refusals.add(
                f"{where}: user {record.user_id!r} and item {record.item_id!r} are already "
                "aligned; keep one line",
                "repeated alignment",
            )
        else:
            judged[key] = persona
    return judged


def _candidates(folder: ArtifactFolder, refusals: Refusals) -> Mapping[str, Sequence[str]]:
    path = folder.file(CANDIDATES)
    return {
        one.user_id: [candidate.item_id for candidate in one.results]
        for one in read_candidates(path, refusals)
    }


def _hard_negatives(
    catalogue: Catalogue, candidates: Sequence[str], interacted: Sequence[int], most: int
) -> tuple[int, ...]:
    """The personas of the first `most` candidates without an interaction of the user."""
    known = [catalogue.items[one] for one in candidates if one in catalogue.items]
    wanted = [item for item in known if item not in interacted][:most]
    return tuple(persona for item in wanted for persona in catalogue.personas_of(item))


def _align(
    pairs: Pairs,
    similar: Sequence[tuple[int, Sequence[Interaction]]],
    encoder: Encoder,
    history: HistorySettings,
) -> None:
    """Give these examples the one persona of their item that is nearest to their user."""
    wanted = sorted({one for place, _ in similar for one in pairs.examples[place].positives})
    rows = {persona: row for row, persona in enumerate(wanted)}
    personas = encoder.encode_documents([pairs.catalogue.texts[one] for one in wanted])
    users = encoder.user_vectors(
        [seen for _, seen in similar], length=history.length, decay=history.decay
    )
    for (place, _), user in zip(similar, users, strict=True):
        example = pairs.examples[place]
        if user is None:
            continue
        scores = personas[[rows[one] for one in example.positives]] @ user.vector
        nearest = example.positives[int(np.argmax(scores))]
        pairs.examples[place] = replace(example, positives=(nearest,))
