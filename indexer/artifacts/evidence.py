"""The reviews behind the personas of an item, as the studio quotes them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.lookup import Lookup, ReviewLookup
from indexer.artifacts.names import PERSONAS, REVIEWS
from p4r_qdrant.errors import RecordError
from p4r_qdrant.records import ItemPersonas, Review
from p4r_qdrant.service.studio.evidence import Quote


class QuotedEvidence:
    """Finds reviews in an artifact folder; see `Evidence`. Thread-safe.

    The files are read once, when the first item is asked for; ids and places are kept, no texts.
    """

    def __init__(self, artifacts: Path) -> None:
        folder = ArtifactFolder(artifacts)
        self._paths = folder.file(PERSONAS), folder.file(REVIEWS)
        self._lock = threading.Lock()

    @cached_property
    def _files(self) -> tuple[Lookup[ItemPersonas], ReviewLookup[Review]]:
        personas, reviews = self._paths
        return Lookup(personas, ItemPersonas, Refusals()), ReviewLookup(reviews, Review)

    def __call__(self, item_id: str) -> Mapping[str, Sequence[Quote]]:
        """Persona id -> the reviews that support it; personas that the files lack are missing."""
        with self._lock, self._files[0] as personas, self._files[1] as reviews:
            try:
                found = personas.get(item_id)
                return {
                    one.persona_id: [
                        Quote("\n".join(filter(None, (review.title, review.text))), review.rating)
                        for user_id in one.evidence
                        if (review := reviews.get(item_id, user_id)) is not None
                    ]
                    for one in (found.personas if found else ())
                }
            except RecordError:  # another process has just changed a file
                return {}
