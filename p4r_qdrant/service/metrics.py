"""Metrics for Prometheus."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from p4r_qdrant.index import failovers
from p4r_qdrant.index.server.cluster import NodeState
from p4r_qdrant.schemas.reranking import Reason
from p4r_qdrant.service.processes import METRICS
from p4r_qdrant.users.records import JobCounts

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25)
_SLOW_SECONDS = (*_SECONDS, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one service, in their own registry."""

    def __init__(self, span: Callable[[str], AbstractContextManager[object]] = nullcontext) -> None:
        """`span` traces a stage, given its name."""
        self._span = span
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "p4r_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ("route", "method", "status"),
            registry=self.registry,
            buckets=_SLOW_SECONDS,
        )
        self.stages = Histogram(
            "p4r_rerank_seconds",
            "Stages of a rerank: user (reading known users), encode (with waiting), query, total.",
            ("stage",),
            registry=self.registry,
            buckets=_SLOW_SECONDS,
        )
        self.degraded = Counter(
            "p4r_rerank_degraded",
            "Rankings that kept the generator's order because something failed.",
            ("reason",),
            registry=self.registry,
        )
        for reason in get_args(Reason):  # Prometheus misses the first event of a new counter
            self.degraded.labels(reason)
        self.under_way = Gauge(
            "p4r_rerank_under_way",
            "Rankings that run or wait.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.waiting_texts = Gauge(
            "p4r_encode_waiting_texts",
            "Texts that wait for the encoder.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.batch_texts = Histogram(
            "p4r_encode_batch_texts",
            "Texts of one batch of the encoder.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        )
        self.cached = Counter(
            "p4r_encode_cache",
            "Texts whose vectors were wanted: hit (encoded before), miss (encoded now).",
            ("result",),
            registry=self.registry,
        )
        self.count_cached(0, 0)
        self.behind = Gauge(
            "p4r_behind",
            "1 while the newest publish is not served.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.nodes = Gauge(
            "p4r_qdrant_nodes",
            "Qdrant nodes: ok, cut_off (from the majority: reads, no writes), away.",
            ("state",),
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self.set_nodes(())
        self.failovers = Counter(
            "p4r_qdrant_failovers",
            "Calls that went to another node of the cluster, because theirs did not answer.",
            registry=self.registry,
        )
        self._failovers_seen = failovers.so_far()
        self.jobs = Gauge(
            "p4r_jobs",
            "Background jobs.",
            ("state",),
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self._jobs_at = -math.inf
        self._jobs_age = Gauge(
            "p4r_jobs_age_seconds",
            "Seconds since p4r_jobs was counted.",
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self.llm_tokens = Gauge(
            "p4r_llm_tokens", "Tokens spent.", registry=self.registry, multiprocess_mode="livesum"
        )
        self.llm_cost = Gauge(
            "p4r_llm_cost_usd",
            "US dollars spent.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )

    def set_jobs(self, counts: JobCounts) -> None:
        """Note the numbers of jobs by state, counted now."""
        for state, count in counts.items():
            self.jobs.labels(state).set(count)
        self._jobs_at = time.monotonic()

    def count_failovers(self) -> None:
        """Count the failovers of this process since the last call."""
        before, self._failovers_seen = self._failovers_seen, failovers.so_far()
        self.failovers.inc(self._failovers_seen - before)

    def set_nodes(self, states: Collection[NodeState]) -> None:
        """Note how the nodes are."""
        for state in get_args(NodeState):
            self.nodes.labels(state).set(sum(one == state for one in states))

    def count_cached(self, found: int, missing: int) -> None:
        """Count texts whose vectors were in the cache, and others."""
        self.cached.labels("hit").inc(found)
        self.cached.labels("miss").inc(missing)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure and trace a stage of a rerank."""
        start = time.perf_counter()
        try:
            with self._span(name):
                yield
        finally:
            self.stages.labels(name).observe(time.perf_counter() - start)

    def exposition(self) -> bytes:
        """All metrics in the text format of Prometheus, of all workers together."""
        self._jobs_age.set(time.monotonic() - self._jobs_at)
        if METRICS not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
