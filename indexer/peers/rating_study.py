"""Ratings predicted by an LLM, beside predictors that need none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from indexer.llm import Request, Usage
from indexer.metrics import Floats
from indexer.peers.asking import RequestMaker
from indexer.peers.options import PeerOptions
from indexer.peers.protocol import Asker, Exchange
from indexer.peers.rating_records import ItemProfile, RatedPair
from indexer.peers.ratings import RatingForm, RatingMaterial
from indexer.peers.running import each, nothing
from indexer.peers.trivial_ratings import (
    RatingError,
    TrivialPredictors,
    fitted,
    rating_error,
)
from indexer.reasoning.sanitizing import cleaned

STEP = "peer-rated"

ZERO_SHOT, TUNED = "zero-shot", "tuned"

Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RatingRow:
    """A line of the table.

    invalid: the share of answers without a valid rating; they count as the mean. leaks: printed
    averages that include test ratings were used.
    """

    name: str
    error: RatingError
    pairs: int
    leaks: bool
    invalid: float | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class RatingStudy:
    """Predicts the ratings of some pairs.

    pairs: all that have a rating. members: (n,) positions of those that are predicted. profile:
    which profile of an item is shown.
    """

    pairs: Sequence[RatedPair]
    members: Indexes
    predictors: TrivialPredictors
    options: PeerOptions
    profile: ItemProfile
    make: RequestMaker

    @property
    def truth(self) -> Floats:
        """(n,) the ratings of the members."""
        return self.predictors.truth[self.members]

    def trivial_rows(self) -> list[RatingRow]:
        """The lines that need no LLM."""
        return [
            RatingRow(
                one.name,
                rating_error(one.values[self.members], self.truth),
                len(self.members),
                one.leaks,
            )
            for one in self.predictors.all()
        ]

    async def asked_rows(
        self, ask: Asker, done: Callable[[], None] = nothing, who: str = ZERO_SHOT
    ) -> list[RatingRow]:
        """The lines of the LLM without averages in its prompts and with them; `who`: their name."""
        found = []
        for averages in (False, True):
            values, usage = await self.predicted(
                self.members, self.make, ask, done, averages=averages
            )
            found += self.rows(name_of(who, averages=averages), values, usage, leaks=averages)
        return found

    async def predicted(
        self,
        members: Indexes,
        make: RequestMaker,
        ask: Asker,
        done: Callable[[], None] = nothing,
        *,
        averages: bool,
    ) -> tuple[list[float | None], Usage]:
        """The expected rating of each member, None without a valid answer; and what it cost."""
        exchange = Exchange(ask)

        async def one(place: int) -> float | None:
            request = self.question(self.pairs[place], make, averages=averages)
            found = self.form.predicted(await exchange.ask(request, self.form.assumed))
            return None if found is None else found.rating

        return await each(members.tolist(), one, done), exchange.usage

    @property
    def form(self) -> RatingForm:
        """How ratings are asked for."""
        return RatingForm(self.predictors.scale, self.options.reasoning)

    def question(self, pair: RatedPair, make: RequestMaker, *, averages: bool) -> Request:
        """The request for the rating of a pair."""
        how, about = self.form, {"user_id": pair.user_id, "item_id": pair.item_id}
        text = self.material(pair, averages=averages).text(how.scale)
        return make(how.template, text, how.form, about, **how.values)

    def material(self, pair: RatedPair, *, averages: bool) -> RatingMaterial:
        """What the rating of a pair is predicted from."""
        return RatingMaterial(
            cleaned(pair.user_profile).text,
            cleaned(pair.item_description).text,
            cleaned(pair.item_profile(self.profile)).text,
            pair.user_average if averages else None,
            pair.item_average if averages else None,
        )

    def rows(
        self, name: str, values: Sequence[float | None], usage: Usage, *, leaks: bool
    ) -> list[RatingRow]:
        """The line of the values of all members, and that of a linear fit to them in folds."""
        mean = self.predictors.mean
        filled: Floats = np.array([mean if one is None else one for one in values])
        invalid = sum(one is None for one in values) / max(1, len(values))
        scaled = self.predictors.clipped(fitted(filled[:, None], self.truth))
        return [
            RatingRow(label, rating_error(found, self.truth), len(values), leaks, invalid, cost)
            for label, found, cost in (
                (name, filled, usage),
                (f"{name}, scaled in folds", scaled, None),
            )
        ]


def name_of(who: str, *, averages: bool) -> str:
    """The name of a line."""
    return f"{who}, {'with' if averages else 'without'} averages"


def sampled(count: int, wanted: int | None, seed: int = 0) -> Indexes:
    """Positions of all, or of a random sample, in order: (n,)."""
    order = np.random.default_rng(seed).permutation(count)
    chosen: Indexes = np.sort(order if wanted is None else order[:wanted])
    return chosen
