"""Examples to tune a local model on: training interactions alone, in the prompts of the peers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from indexer.llm import Request
from indexer.peers.asking import PeerSources
from indexer.peers.letters import Letters
from indexer.peers.material import Material
from indexer.peers.options import TunablePeer
from indexer.peers.pointwise import NO, YES, Pointwise
from indexer.peers.protocol import PeerQuery
from p4r_qdrant.encoder.user_vector import newest_first
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Interaction

T = TypeVar("T")

DEV_SHARE = 0.2
"""The share of users whose examples choose the best epoch."""
LEAST = 8
"""Fewer examples than this are no training."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question of a peer and the right answer: one of its options, or a text."""

    user_id: str
    request: Request
    answer: str


@dataclass(frozen=True)
class TuningData:
    """Examples to train on and, of other users, to choose the epoch by."""

    train: Sequence[Example]
    dev: Sequence[Example]

    def hash(self) -> str:
        """A hash of all questions and answers."""
        digest = hashlib.sha256()
        for one in (*self.train, *self.dev):
            parts = (one.user_id, one.request.system, one.request.user, one.answer)
            digest.update("\x00".join(parts).encode() + b"\n")
        return digest.hexdigest()[:16]


def letters_examples(peer: Letters, seed: int) -> Iterator[Example]:
    """One for each user: the newest training item among uniform negatives (LlamaRec).

    Items that the user has in training are no negatives; nothing is known of held-out ones.
    """
    material, window = peer.sources.material, peer.options.window
    catalogue = sorted(material.items())
    for user, history in histories(material):
        rng = random.Random(f"{seed} {user}")  # noqa: S311 - a sample, no secret
        target, *before = history
        known = {one.item_id for one in history}
        others = [item for item in catalogue if item not in known]
        negatives = rng.sample(others, min(window - 1, len(others)))
        items = [target.item_id, *negatives]
        rng.shuffle(items)
        query = PeerQuery(user, tuple(before), tuple(map(material.candidate, items)))
        right = items.index(target.item_id)
        request = peer.question(query, query.candidates)
        assert request.options is not None  # noqa: S101 - letters
        yield Example(user, request, request.options.texts[right])


def pointwise_examples(peer: Pointwise, seed: int) -> Iterator[Example]:
    """One for each user: a rated interaction, Yes for a like and No for a real dislike (TALLRec).

    A dislike is taken where the user has one, so that the rarer answer is there.
    """
    material = peer.sources.material
    for user, history in histories(material):
        rng = random.Random(f"{seed} {user}")  # noqa: S311 - a sample, no secret
        rated = [at for at, one in enumerate(history[:-1]) if one.rating is not None]
        bad = [at for at in rated if (history[at].rating or 0) <= peer.options.disliked]
        if not rated:
            continue
        at = rng.choice(bad if bad and rng.random() < 0.5 else rated)
        query = PeerQuery(user, tuple(history[at + 1 :]), ())
        candidate = material.candidate(history[at].item_id)
        yield Example(user, peer.question(query, candidate), NO if at in bad else YES)


def examples_of(peer: TunablePeer, sources: PeerSources, seed: int) -> Iterator[Example]:
    """The examples for letters and pointwise; those for rated need a teacher: `distilling.py`."""
    if peer == Letters.name:
        return letters_examples(Letters(sources), seed)
    assert peer == Pointwise.name, peer  # noqa: S101 - the caller distils the third one
    return pointwise_examples(Pointwise(sources), seed)


def tuning_data(examples: Iterable[Example], samples: int | None, seed: int) -> TuningData:
    """All examples, or a sample of them to train on. Raises InputError if there are too few."""
    return TuningData(*parts(examples, samples, seed))


def parts(every: Iterable[T], samples: int | None, seed: int) -> tuple[list[T], list[T]]:
    """(to train on, to choose the epoch by): in a random order; at most `samples` to train on.

    Raises InputError if there are too few.
    """
    shuffled = list(every)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - an order, no secret
    held = max(1, round(DEV_SHARE * len(shuffled)))
    dev, train = shuffled[:held], shuffled[held:][:samples]
    if len(train) < LEAST:
        raise InputError(
            f"there are {len(train)} examples to train on, and {LEAST} are needed: from users "
            "with two training interactions or more, or from rated pairs"
        )
    return train, dev


def histories(material: Material) -> Iterator[tuple[str, Sequence[Interaction]]]:
    """Users with two training interactions or more, newest first."""
    for user in sorted(material.users()):
        known = material.histories.get(user)
        if len(known) > 1:
            yield user, newest_first(known, len(known))
