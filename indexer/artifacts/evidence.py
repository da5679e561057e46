"""The reviews behind the personas of an item, as the studio quotes them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.lookup import Lookup, ReviewLookup, stamp_of
from indexer.artifacts.names import PERSONAS, REVIEWS
from indexer.review.decisions import Decisions
from indexer.review.standing import reviewed
from p4r_qdrant.errors import RecordError
from p4r_qdrant.records import ItemPersonas, Review
from p4r_qdrant.service.studio.evidence import Quote


class QuotedEvidence:
    """Finds reviews in an artifact folder; see `Evidence`. Thread-safe.

    The files are read when an item is asked for, and again when they have changed; ids and places
    are kept, no texts.
    """

    def __init__(self, artifacts: Path) -> None:
        folder = ArtifactFolder(artifacts)
        self._folder = folder
        self._lock = threading.Lock()
        self._stamps: tuple[object, ...] = ()
        self._decisions = Decisions(folder.path)

    def _follow(self) -> None:
        self._decisions.refresh()
        paths = self._folder.at(PERSONAS), self._folder.at(REVIEWS)
        stamps = tuple(map(stamp_of, paths))
        if stamps != self._stamps:
            self._personas = Lookup(paths[0], ItemPersonas, Refusals())
            self._reviews = ReviewLookup(paths[1], Review)
            self._stamps = stamps

    def __call__(self, item_id: str) -> Mapping[str, Sequence[Quote]]:
        """Persona id -> the reviews that support it; personas that the files lack are missing."""
        with self._lock:
            self._follow()
            return self._quoted(item_id)

    def _quoted(self, item_id: str) -> Mapping[str, Sequence[Quote]]:
        with self._personas as personas, self._reviews as reviews:
            try:
                found = personas.get(item_id)
                decided = self._decisions.of(item_id)
                return {
                    one.persona.persona_id: [
                        _quote(review, number)
                        for number, user_id in enumerate(one.persona.evidence, start=1)
                        if (review := reviews.get(item_id, user_id)) is not None
                    ]
                    for one in (reviewed(found, decided) if found else ())
                }
            except RecordError:  # another process has just changed a file
                return {}


def _quote(review: Review, number: int) -> Quote:
    return Quote("\n".join(filter(None, (review.title, review.text))), review.rating, number)
