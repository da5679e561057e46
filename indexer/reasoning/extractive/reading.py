"""Items with their reviews as sentences, in the order of items.jsonl; the requests about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.lookup import ItemRecords
from indexer.artifacts.names import ITEMS, REVIEWS
from indexer.llm import Request
from indexer.reasoning.extractive.extractor import Extraction
from indexer.reasoning.extractive.sentences import review_sentences
from indexer.reasoning.step import Sources
from p4r_qdrant.index.payload import plain_text
from p4r_qdrant.records import Item, Review

MOST_SAMPLED = 20_000
"""Reviews, and items, whose texts are sampled."""


@dataclass(frozen=True)
class Reviewed:
    """A review and its sentences; `first` is the number of its first one among the item's."""

    review: Review
    sentences: Sequence[str]
    first: int = 0

    @property
    def numbers(self) -> range:
        """The numbers of its sentences."""
        return range(self.first, self.first + len(self.sentences))


def numbered(reviews: Iterable[Review], left_out: Counter[str]) -> list[Reviewed]:
    """The reviews of one item, of each user the first one, with their sentences."""
    found: dict[str, Reviewed] = {}
    first = 0
    for review in reviews:
        if review.user_id in found:
            left_out["repeated reviews"] += 1
            continue
        one = Reviewed(review, review_sentences(review, left_out), first)
        found[review.user_id] = one
        first += len(one.sentences)
    return list(found.values())


def item_request(item: Item, reviewed: Sequence[Reviewed], extraction: Extraction) -> Request:
    """The request about all reviews of an item."""
    about = {"item_id": item.item_id}
    return extraction.request("personas", [one.sentences for one in reviewed], about)


def reviewed_items(
    sources: Sources, refusals: Refusals, left_out: Counter[str]
) -> Iterator[tuple[Item, list[Reviewed]]]:
    """Each item with its reviews, without those that are held out."""
    folder = sources.folder
    known = set[str]()
    with ItemRecords(folder.file(REVIEWS), Review, sources.held_out, refusals) as reviews:
        lines = read_lines(folder.file(ITEMS), Item, Refusals())
        for _, _, item in islice(lines, sources.limit):
            known.add(item.item_id)
            yield item, numbered(reviews.get(item.item_id), left_out)
        if sources.limit is None:
            left_out["reviews of unknown items"] += reviews.outside(known)


def sampled_texts(sources: Sources) -> Iterator[str]:
    """Texts of reviews that are not held out, and of items, evenly spaced in their files."""
    folder = sources.folder
    if folder.has(REVIEWS):
        step = 1 + folder.estimated_lines(REVIEWS) // MOST_SAMPLED
        lines = read_lines(folder.at(REVIEWS), Review, Refusals())
        for _, _, review in islice(lines, None, None, step):
            if (review.user_id, review.item_id) not in sources.held_out:
                yield plain_text(f"{review.title} {review.text}")
    if folder.has(ITEMS):
        step = 1 + folder.estimated_lines(ITEMS) // MOST_SAMPLED
        for _, _, item in islice(read_lines(folder.at(ITEMS), Item, Refusals()), None, None, step):
            yield plain_text(f"{item.title} {item.description}")
