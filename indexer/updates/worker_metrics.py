"""Prometheus metrics of `p4r work`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from indexer.updates.tenant_workers import TenantWorkers
from indexer.updates.worker import Worker
from p4r_qdrant.errors import InputError, P4RError

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


def publish_metrics(worker: Worker | TenantWorkers, host: str, port: int) -> int:
    """Serve the metrics of a worker on a port of their own.

    port: 0 takes a free one.
    Returns: the port.
    Raises: InputError if the port is in use.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(collector(worker))
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); choose another "
            "--metrics-port"
        ) from None
    return int(server.server_port)


def collector(worker: Worker | TenantWorkers) -> Collector:
    """The metrics of a worker, for a registry of prometheus_client."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    class OfWorker(Collector):
        """Collects at every scrape; `p4r serve` uses the same names."""

        def collect(self) -> Iterator[Metric]:
            """See prometheus_client."""
            usage = worker.usage
            yield GaugeMetricFamily("p4r_llm_tokens", "Tokens spent.", usage.tokens)
            yield GaugeMetricFamily("p4r_llm_cost_usd", "US dollars spent.", usage.cost_usd or 0.0)
            done = CounterMetricFamily("p4r_worker", "Jobs by outcome.", labels=["what"])
            for what, count in list(worker.done.items()):
                done.add_metric([what], count)
            yield done
            waits = bool(worker.problem)
            yield GaugeMetricFamily(
                "p4r_worker_waits", "1 while all jobs wait for the LLM or Qdrant.", waits
            )
            with suppress(P4RError):
                jobs = GaugeMetricFamily("p4r_jobs", "Background jobs.", labels=["state"])
                for state, count in worker.job_counts.items():
                    jobs.add_metric([state], count)
                yield jobs

    return OfWorker()
