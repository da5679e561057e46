"""The HTTP service."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from p4r_qdrant.settings.index import is_tenant_name
from p4r_qdrant.settings.section import OptionalSecret, Section, is_this_machine

SHORTEST_KEY = 16
"""Least length of a key that is bound to a tenant."""
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")


def _origins(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _check_origins(text: str) -> str:
    for origin in _origins(text):
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is no origin; write scheme and host, as in https://shop.example, "
                "without a path"
            )
    return text


def _bound_keys(text: str) -> list[tuple[str, str]]:
    """(tenant, key) of each pair."""
    pairs = (one.strip().partition("=") for one in text.split(",") if one.strip())
    return [(name.strip(), key.strip()) for name, _, key in pairs]


def _check_tenant_keys(keys: SecretStr | None) -> SecretStr | None:
    pairs = _bound_keys(keys.get_secret_value()) if keys else []
    if any(not is_tenant_name(name) or len(key) < SHORTEST_KEY for name, key in pairs):
        raise ValueError(
            f"keys of tenants look like shop-a=KEY,shop-b=KEY, each of {SHORTEST_KEY} characters "
            "or more"
        )
    if len({key for _, key in pairs}) < len(pairs):
        raise ValueError("one key is bound to two tenants")
    return keys


def _check_root_path(path: str) -> str:
    if path and (not path.startswith("/") or path.endswith("/") or "//" in path):
        raise ValueError("root_path must look like /p4r: a slash first, none at the end")
    return path


class ServiceSettings(Section):
    """`p4r serve`: address, keys and limits."""

    host: str = Field("127.0.0.1", min_length=1, description="Address that the service listens on.")
    port: int = Field(
        8000, ge=0, le=65535, description="Port that the service listens on. 0: any free port."
    )
    api_key: OptionalSecret = Field(
        None, description="Key that allows reranking and reading the catalogue."
    )
    reviewer_key: OptionalSecret = Field(
        None,
        description="Key that also allows reading reviews and deciding on personas in the studio.",
    )
    admin_key: OptionalSecret = Field(
        None, description="Key that also allows writing items and writing and reading users."
    )
    tenant_keys: Annotated[OptionalSecret, AfterValidator(_check_tenant_keys)] = Field(
        None,
        description="Reading keys that are bound to tenants, as in shop-a=KEY,shop-b=KEY: each "
        "reaches its tenant alone.",
    )
    tenant_admin_keys: Annotated[OptionalSecret, AfterValidator(_check_tenant_keys)] = Field(
        None, description="Admin keys that are bound to tenants, in the same form."
    )
    max_tenants: int = Field(
        100,
        ge=1,
        description="Tenants that one process has open at the same time. One without requests is "
        "closed for another; if there is none, the further one gets status 503.",
    )
    allow_anonymous: bool = Field(
        False, description="Require no key. Allowed only if `host` is this machine."
    )
    root_path: Annotated[str, AfterValidator(_check_root_path)] = Field(
        "",
        description="Path under which a proxy offers the service, as in /p4r. The proxy may strip "
        "it or not.",
    )
    cors_origins: Annotated[str, AfterValidator(_check_origins)] = Field(
        "",
        description="Origins of web pages that may call the service from a browser, separated by "
        "commas, as in https://shop.example; * allows all. Empty: none.",
    )
    deadline_ms: int = Field(
        1000,
        ge=1,
        description="Milliseconds after which a rerank request is answered in the generator's "
        "order.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes that answer, on one port. Several need an index on a server.",
    )
    threads: int = Field(8, ge=1, le=256, description="Rankings that run at the same time.")
    max_waiting: int = Field(
        256,
        ge=1,
        description="Rankings that may wait for a thread. Further ones are answered at once in "
        "the generator's order.",
    )
    max_body_bytes: int = Field(
        4 << 20, ge=1024, description="Largest size of a request's body in bytes."
    )
    max_connections: int = Field(
        500,
        ge=1,
        description="Largest number of connections. For a further one, the one that has been "
        "without a request for longest is closed; if all have requests, the one whose body has "
        "taken longest to arrive; if all bodies have arrived, the further one gets status 503.",
    )
    max_head_bytes: int = Field(
        65_536,
        ge=1024,
        description="Largest size of a request's path and headers in bytes. More: status 431.",
    )
    receive_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Seconds within which the head and then the body of a request have to arrive. "
        "Later: status 408.",
    )
    max_body_values: int = Field(
        200_000,
        ge=1000,
        description="Largest number of values (texts, numbers, lists, objects) in a request's "
        "body.",
    )
    max_users: int = Field(64, ge=1, description="Largest number of users in one request.")
    max_candidates: int = Field(
        1000, ge=1, le=10_000, description="Largest number of candidates of one user."
    )
    max_history: int = Field(
        200, ge=1, description="Largest number of interactions in a history that a request brings."
    )
    batch_window_ms: float = Field(
        3.0,
        ge=0,
        description="Milliseconds that an idle encoder waits for more histories to encode in one "
        "batch.",
    )
    max_waiting_texts: int = Field(
        2000,
        ge=1,
        description="Texts that may wait for the encoder. Further requests get status 429 with "
        "Retry-After.",
    )
    tell_because: bool = Field(
        True,
        description="Name in `because` the items of a stored user's history to everybody. False: "
        "only with the admin key, for who may only read learns from it what a user did.",
    )
    qdrant_read_key: OptionalSecret = Field(
        None,
        description="Read-only Qdrant key (or JWT) for reranking. Unset: P4R_QDRANT__API_KEY.",
    )
    studio: bool = Field(
        False, description="Offer the persona studio, pages for people, under /studio."
    )
    tracing: bool = Field(
        False,
        description="Send OpenTelemetry spans to the address in OTEL_EXPORTER_OTLP_ENDPOINT.",
    )

    @property
    def bound_keys(self) -> dict[Literal["reader", "admin"], list[tuple[str, str]]]:
        """(tenant, key) of the keys that are bound to tenants, by what they allow."""
        return {
            "reader": _bound_keys(self.tenant_keys.get_secret_value()) if self.tenant_keys else [],
            "admin": _bound_keys(self.tenant_admin_keys.get_secret_value())
            if self.tenant_admin_keys
            else [],
        }

    @property
    def origins(self) -> list[str]:
        """`cors_origins` as a list."""
        return _origins(self.cors_origins)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_this_machine(self.host)
