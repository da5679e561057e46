"""The peers that ask an LLM, by name."""

from __future__ import annotations

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


def made(name: str, sources: PeerSources) -> AskingPeer:
    """A peer by its name. Raises InputError for an unknown one."""
    if name not in PEERS:
        raise InputError(f"there is no peer {name!r}; choose of {', '.join(PEERS)}")
    return PEERS[name](sources)
