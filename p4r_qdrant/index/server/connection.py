"""The connection to a Qdrant server or cluster: who is asked, and what is asked again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, TypeVar, cast

from qdrant_client import models
from qdrant_client.qdrant_remote import QdrantRemote

from p4r_qdrant.errors import IndexMismatchError, IndexUnavailableError, RateLimitedError, for_log
from p4r_qdrant.index import failovers
from p4r_qdrant.index.server.cluster import NodeState, check_addresses, node_states
from p4r_qdrant.index.server.failures import Failures, NodeAwayError, PassingError
from p4r_qdrant.index.server.node import Node, Transport
from p4r_qdrant.index.server.nodes import Nodes
from p4r_qdrant.settings import QdrantSettings

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class Connection:
    """A client of the server in the settings. location: what is used there, for people.

    Calls go over gRPC; over REST alone if only that answers, or if the settings say so. With
    several addresses, a call whose node does not answer in its share of the time-out is made again
    on another node. Raises IndexUnavailableError if no node answers, AuthenticationError or
    SettingsError if the addresses do not belong together.
    """

    def __init__(self, settings: QdrantSettings, location: str) -> None:
        self._settings = settings
        self._location = location
        self._closed = False
        self._failures = Failures(settings, location)
        each = settings.each
        self.call_s = each[0].timeout_s
        """Seconds that one node has to answer one call."""
        is_alone = len(each) == 1
        asked = settings.read_consistency
        self.consistency: Any = None if asked == "one" else models.ReadConsistencyType(asked)
        """What reads that a write rests on are made with; None: one replica."""
        self._nodes = Nodes([Node(one, location, is_alone=is_alone) for one in each])
        self._calling = threading.local()
        try:
            if not is_alone:
                away = check_addresses(settings)
                for node in self._nodes.all:
                    if node.settings.url in away:
                        self._nodes.failed(node)
            self.transport: Transport = self._find_transport()
        except BaseException:
            self.close()
            raise
        for node in self._nodes.all:
            node.transport = self.transport

    @cached_property
    def client(self) -> QdrantRemote:
        """The client for everything that is not urgent."""
        return cast("QdrantRemote", self._on_node(lambda node: node.client))

    @cached_property
    def points(self) -> Any:
        """A `PointsStub` for queries."""
        return self._on_node(lambda node: node.points)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call of `points` carries."""
        return self._nodes.all[0].metadata

    def node_states(self) -> dict[str, NodeState]:
        """How the node at each address is."""
        return node_states(self._settings)

    def close(self) -> None:
        """Close what was opened. Closing twice is fine."""
        self._closed = True
        for node in self._nodes.all:
            node.close()

    def call(self, work: Callable[[], Result], *, spread: bool = False) -> Result:
        """The result of `work`, a request that may be repeated; errors become those of the project.

        If a rate limit refuses the request, it is repeated after the time that the server names,
        up to the time-out. The same holds for a collection that another process is making, or whose
        settings it changes. spread: the nodes take turns; else the same node is asked while it
        answers. Raises RateLimitedError after the time-out.
        """
        deadline = time.monotonic() + self._settings.timeout_s
        while True:
            try:
                return self._on_some_node(work, deadline, spread=spread)
            except (RateLimitedError, PassingError) as error:
                if time.monotonic() + error.retry_after_s > deadline:
                    raise
                _log.debug("sending it again in %g s: %s", error.retry_after_s, for_log(error))
                time.sleep(error.retry_after_s)

    def on_each(self, work: Callable[[], Result]) -> dict[str, Result | None]:
        """The result of `work` on each node, by address; None: the node is away.

        Raises what `call` raises for other reasons.
        """
        before = getattr(self._calling, "node", None)
        found: dict[str, Result | None] = {}
        for node in self._nodes.all:
            self._calling.node = node
            try:
                found[node.settings.url or ""] = self._translated(work)
            except NodeAwayError:
                found[node.settings.url or ""] = None
            finally:
                self._calling.node = before
        return found

    def _on_some_node(self, work: Callable[[], Result], deadline: float, *, spread: bool) -> Result:
        """Do the work on the first node that answers before the deadline."""
        order = self._nodes.order(spread=spread)
        before = getattr(self._calling, "node", None)
        for place, node in enumerate(order, start=1):
            self._calling.node = node
            try:
                result = self._translated(work)
            except NodeAwayError as error:
                self._nodes.failed(node)
                if place == len(order) or time.monotonic() >= deadline:
                    raise
                failovers.note()
                _log.debug("asking another node: %s", for_log(error))
            except IndexMismatchError:  # a node learns of a new collection a moment later
                if not spread or place == len(order):
                    raise
            else:
                self._nodes.answered(node)
                return result
            finally:
                self._calling.node = before
        raise AssertionError("a connection has at least one node")

    def _translated(self, work: Callable[[], Result]) -> Result:
        if self._closed:
            raise IndexUnavailableError(f"{self._location} is closed; open the index again")
        with self._failures.translated():
            return work()

    def _on_node(self, part: Callable[[Node], Any]) -> Any:
        """A part of the node that a call is made on; what a call names of it is found then."""
        if len(self._nodes.all) == 1:
            return part(self._nodes.all[0])

        def now() -> Any:
            node = getattr(self._calling, "node", None) or self._nodes.order(spread=False)[0]
            return part(node)

        return _Later(now)

    def _find_transport(self) -> Transport:
        """How the first node that answers is reached."""
        order = self._nodes.order(spread=False)
        for place, node in enumerate(order, start=1):
            try:
                return node.find_transport()
            except IndexUnavailableError:
                self._nodes.failed(node)
                if place == len(order):
                    raise
        raise AssertionError("a connection has at least one node")


class _Later:
    """Stands for an object that is known only when a method of it, or of a part, is called."""

    def __init__(self, now: Callable[[], Any]) -> None:
        self._now = now

    def __getattr__(self, name: str) -> _Later:
        return _Later(partial(self._part, name))

    def _part(self, name: str) -> Any:
        return getattr(self._now(), name)

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        return self._now()(*arguments, **more)
