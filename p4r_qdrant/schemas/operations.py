"""Answers about the state of the service."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from p4r_qdrant.schemas.base import Answer


class EncoderState(StrEnum):
    """Whether histories can be encoded; `absent`: the extra that encodes is not installed."""

    READY = "ready"
    LOADING = "loading"
    ABSENT = "absent"
    FAILED = "failed"


class HealthAnswer(Answer):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class ReadyAnswer(Answer):
    """Whether rankings can be answered in full, for each part of the service.

    `writes` is unavailable where no Qdrant node reaches the majority of its cluster; rankings go
    on.
    """

    ready: bool
    index: Literal["open", "unavailable"]
    writes: Literal["ok", "unavailable"]
    encoder: EncoderState


class JobAnswer(Answer):
    """A failed job."""

    kind: str
    about: str
    attempts: int
    problem: str


class JobsAnswer(Answer):
    """The state of the background jobs."""

    waiting: int
    failed: int
    last_failed: list[JobAnswer]
