"""Does a peer look at what is held out?

Three checks before anything is asked: histories name no held-out interaction; no prompt holds a
marker or a run of words that only held-out reviews have; and where no answer decides, a peer keeps
the generator's order, which one that knows the truth does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from indexer.evaluation.leaks.content import HeldOutRuns
from indexer.evaluation.leaks.poison import MARKER
from indexer.evaluation.leaks.report import Check, Findings
from indexer.llm import Answer, Request, Usage
from indexer.peers.protocol import Asker, Peer, PeerQuery
from indexer.peers.running import DryRun, rank_all

Named = tuple[str, Peer]
"""A peer with its name in the tables."""


async def no_answer(request: Request, assumed: Any) -> Answer:  # noqa: ARG001
    """An asker that never gets an answer."""
    return Answer(request, None, Usage(), ("no answer",))


def peer_checks(
    peers: Sequence[Named],
    queries: Sequence[PeerQuery],
    runs: HeldOutRuns,
    dry_run: Callable[[Callable[[Request], None]], DryRun],
) -> Iterator[Check]:
    """The checks of all peers with these queries; nothing is asked.

    runs: of the held-out reviews; its owners are the held-out pairs. dry_run: makes a dry run that
    shows its requests to the function it is given.
    """
    yield _history_check(queries, frozenset(runs.owners))
    for name, peer in peers:
        found, seen = Findings(), 0

        def look(request: Request, name: str = name, found: Findings = found) -> None:
            nonlocal seen
            seen += 1
            if fault := held_out_in(request, runs):
                found.add(f"a prompt of {name} {fault}")

        moved = Findings()
        for ask in (dry_run(look), no_answer):
            _note_moved(name, peer, queries, ask, moved)
        yield found.check(f"prompts of {name}", seen)
        yield moved.check(f"orders of {name} without answers", 2 * len(queries))


def held_out_in(request: Request, runs: HeldOutRuns) -> str | None:
    """What a prompt holds of a held-out interaction, as the end of a sentence; None: nothing."""
    texts = (request.system, request.user)
    about = ", ".join(f"{key} {value!r}" for key, value in request.about.items())
    if any(MARKER in text for text in texts):
        return f"({about}) holds the marker of a held-out interaction"
    if (owner := runs.repeated_in(texts)) is not None:
        return f"({about}) repeats the held-out review of user {owner[0]!r}, item {owner[1]!r}"
    return None


def _history_check(queries: Sequence[PeerQuery], held_out: frozenset[tuple[str, str]]) -> Check:
    found = Findings()
    for query in queries:
        for one in query.history:
            if (query.user_id, one.item_id) in held_out:
                found.add(
                    f"the history of user {query.user_id!r} holds the held-out {one.item_id!r}"
                )
    return found.check("histories of peers", sum(len(query.history) for query in queries))


def _note_moved(
    name: str, peer: Peer, queries: Sequence[PeerQuery], ask: Asker, moved: Findings
) -> None:
    answers = asyncio.run(rank_all(peer, queries, ask))
    for query, answer in zip(queries, answers, strict=True):
        if answer.order != tuple(one.item_id for one in query.candidates):
            moved.add(
                f"{name} changes the order of user {query.user_id!r} although no answer decides"
            )
