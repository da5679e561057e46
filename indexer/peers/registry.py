"""The peers that ask an LLM, by name."""

from __future__ import annotations

from collections.abc import Iterable

from indexer.peers.asking import AskingPeer, PeerSources
from indexer.peers.explained import Explained
from indexer.peers.letters import Letters
from indexer.peers.listwise import Listwise
from indexer.peers.pointwise import Pointwise
from indexer.peers.rated import Rated
from p4r_qdrant.errors import InputError

PEERS: dict[str, type[AskingPeer]] = {
    one.name: one for one in (Listwise, Letters, Pointwise, Rated, Explained)
}


def check_names(names: Iterable[str]) -> None:
    """Raise InputError for an unknown peer."""
    for name in names:
        if name not in PEERS:
            raise InputError(f"there is no peer {name!r}; choose of {', '.join(PEERS)}")


def made(name: str, sources: PeerSources) -> AskingPeer:
    """A peer by its name. Raises InputError for an unknown one."""
    check_names([name])
    return PEERS[name](sources)
