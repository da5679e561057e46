"""Queries from candidate lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from indexer.peers.material import Material
from indexer.peers.protocol import PeerQuery
from p4r_qdrant.records import CandidateList


def queries(
    material: Material,
    lists: Iterable[CandidateList],
    *,
    users: int | None = None,
    depth: int | None = None,
    top: int | None = None,
) -> Iterator[PeerQuery]:
    """One query for each list, of the first `users` lists and their first `depth` candidates."""
    for one in islice(lists, users):
        yield material.query(CandidateList(user_id=one.user_id, results=one.results[:depth]), top)
