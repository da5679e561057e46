"""Whether the addresses in the settings are the nodes of one cluster, and how each of them is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from p4r_qdrant.errors import AuthenticationError, IndexUnavailableError, SettingsError
from p4r_qdrant.settings import QdrantSettings

PROBE_S = 2.0
"""Seconds that an address has to say what it is."""

NodeState = Literal["ok", "cut_off", "away"]
"""cut_off: the node answers, and does not reach the majority of its cluster. It answers reads; of
writes it refuses some, and may lose others that it confirms. away: it does not answer."""

_log = logging.getLogger(__name__)
_checked: set[tuple[str | None, str]] = set()
"""The lists of addresses, with their keys, that were found to be in order."""
_checking = threading.Lock()


@dataclass(frozen=True)
class Seen:
    """What an address says. version: empty if it does not answer. peers: empty if it does not say.

    is_refused: it refuses the key. is_cut_off: see `NodeState`.
    """

    url: str
    version: str = ""
    is_refused: bool = False
    peers: frozenset[str] = field(default_factory=frozenset)
    is_cut_off: bool = False

    @property
    def state(self) -> NodeState:
        """How the node is."""
        return "away" if not self.version else "cut_off" if self.is_cut_off else "ok"


def check_addresses(settings: QdrantSettings) -> list[str]:
    """Check once in a process that the addresses belong together; warn of other versions.

    Returns the addresses that do not answer. Raises IndexUnavailableError if none
    answers, AuthenticationError if some refuse the key, SettingsError if one is no Qdrant or is in
    another cluster.
    """
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    with _checking:
        if (settings.url, key) in _checked:
            return []
        seen = _all_looked_at(settings)
        _judge(seen)
        _checked.add((settings.url, key))
        return [one.url for one in seen if not one.version]


def node_states(settings: QdrantSettings) -> dict[str, NodeState]:
    """How the node at each address is. Raises SettingsError if one is no Qdrant."""
    return {one.url: one.state for one in _all_looked_at(settings)}


def described(states: Mapping[str, NodeState]) -> str:
    """What is wrong with nodes, as a text for people; "" if nothing is."""
    said = {"cut_off": "is cut off from the majority: it reads and cannot write", "away": "is away"}
    return "; ".join(f"{url} {said[state]}" for url, state in states.items() if state != "ok")


def _all_looked_at(settings: QdrantSettings) -> list[Seen]:
    each = settings.each
    with ThreadPoolExecutor(len(each)) as threads:
        return list(threads.map(_looked_at, each))


def _judge(seen: list[Seen]) -> None:
    here = [one for one in seen if one.version]
    if not here:
        raise IndexUnavailableError(
            f"Qdrant cannot be reached on any of {', '.join(one.url for one in seen)}; check that "
            "it runs, and P4R_QDRANT__URL"
        )
    refused = [one.url for one in here if one.is_refused]
    if refused:
        others = " and the others take it" if len(refused) < len(here) else ""
        raise AuthenticationError(
            f"Qdrant on {', '.join(refused)} refused the API key{others}: all addresses of "
            "P4R_QDRANT__URL must be nodes of one cluster with one key (P4R_QDRANT__API_KEY)"
        )
    first = here[0]
    for one in here[1:]:
        if one.peers and first.peers and one.peers.isdisjoint(first.peers):
            raise SettingsError(
                f"{one.url} is not in the cluster of {first.url}: P4R_QDRANT__URL must list nodes "
                "of one cluster; take one of them out"
            )
    for one in here:
        if one.version != first.version:
            _log.warning(
                "the Qdrant node %s has version %s, and %s has %s: end the upgrade of the cluster",
                one.url,
                one.version,
                first.url,
                first.version,
            )


def _looked_at(settings: QdrantSettings) -> Seen:
    """What the server at an address says over REST. Raises SettingsError if it is no Qdrant."""
    url = settings.url or ""
    key = settings.api_key
    headers = {"api-key": key.get_secret_value()} if key else {}
    is_plain = url.lower().startswith("http:")
    try:
        with httpx.Client(headers=headers, timeout=PROBE_S, trust_env=not is_plain) as client:
            version = _field(client.get(f"{url}/"), "version")
            listed = client.get(f"{url}/collections").status_code
            cluster = client.get(f"{url}/cluster")
    except httpx.HTTPError:
        return Seen(url)
    if not isinstance(version, str):
        raise SettingsError(
            f"{url} in P4R_QDRANT__URL does not answer as Qdrant does; correct that address"
        )
    if listed in (401, 403):
        return Seen(url, version, is_refused=True)
    found: Any = _field(cluster, "result")  # a key for single collections may not read it
    peers = found.get("peers") if isinstance(found, dict) else None
    own = str(found.get("peer_id", url)) if isinstance(found, dict) else ""
    together = frozenset(peers or ([own] if own else []))
    return Seen(url, version, peers=together, is_cut_off=_is_cut_off(found))


def _is_cut_off(said: Any) -> bool:
    """Whether a node that says this of its cluster does not reach a majority.

    A follower then looks for a leader in vain. A leader goes on as if nothing had happened, and
    only the messages that it could not send tell.
    """
    if not isinstance(said, dict) or not (peers := said.get("peers")):
        return False  # alone, or it does not say
    reached = len(peers) - len(said.get("message_send_failures") or ())
    return not said.get("raft_info", {}).get("leader") or 2 * reached <= len(peers)


def _field(answer: httpx.Response, name: str) -> Any:
    try:
        found = answer.json()
    except ValueError:
        return None
    return found.get(name) if isinstance(found, dict) else None
