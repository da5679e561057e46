"""The nodes of a cluster: which of them is asked, and which is left alone for a while."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from p4r_qdrant.index.server.node import Node

AWAY_S, LONGEST_AWAY_S = 1.0, 30.0
"""How long a node that did not answer is left alone; doubles as long as it does not."""

_log = logging.getLogger(__name__)


@dataclass
class Health:
    """Whether a node answers, as all connections of this process have found."""

    failures: int = 0
    away_until: float = 0.0


_health: dict[tuple[str | None, int], Health] = {}
"""(address, gRPC port) -> its health."""
_lock = threading.Lock()
_FIRST = secrets.randbelow(1 << 16)
"""Which node this process asks for what it has just written there; others take another one."""


class Nodes:
    """The nodes of one connection. Thread-safe.

    A node that fails is left alone for a while. Then one call tries it, while the others go on
    without it.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.all = list(nodes)
        self._turn = count(_FIRST)

    def order(self, *, spread: bool) -> list[Node]:
        """The nodes in the order in which a call tries them, those that are away last.

        spread: another one first each time, else the same.
        """
        if len(self.all) == 1:
            return self.all
        first = (next(self._turn) if spread else _FIRST) % len(self.all)
        turned = self.all[first:] + self.all[:first]
        now = time.monotonic()
        with _lock:
            here = [one for one in turned if _of(one).away_until <= now]
            away = [one for one in turned if _of(one).away_until > now]
            away.sort(key=lambda one: _of(one).away_until)
            if here and (tried := _of(here[0])).failures:
                # This call tries it; the others go on without it.
                tried.away_until = now + _pause_s(tried.failures)
        return here + away

    def failed(self, node: Node) -> None:
        """Note that a node does not answer."""
        with _lock:
            health = _of(node)
            health.failures += 1
            health.away_until = time.monotonic() + _pause_s(health.failures)
            is_first = health.failures == 1
        if is_first and len(self.all) > 1:
            _log.warning(
                "the Qdrant node %s does not answer; the other addresses are used",
                node.settings.url,
            )

    def answered(self, node: Node) -> None:
        """Note that a node answers."""
        health = _of(node)
        if health.failures:
            with _lock:
                health.failures, health.away_until = 0, 0.0
            if len(self.all) > 1:
                _log.warning("the Qdrant node %s answers again", node.settings.url)


def _of(node: Node) -> Health:
    place = (node.settings.url, node.settings.grpc_port)
    return _health.setdefault(place, Health())


def _pause_s(failures: int) -> float:
    return min(AWAY_S * 2.0 ** min(failures - 1, 10), LONGEST_AWAY_S)
