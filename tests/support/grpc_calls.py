"""Count the gRPC calls that this process makes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc._channel
import pytest


@contextmanager
def grpc_calls() -> Iterator[list[str]]:
    """The method names of all unary calls made meanwhile, by any client, in their order."""
    calls: list[str] = []
    kind: Any = grpc._channel._UnaryUnaryMultiCallable

    def counted(name: str) -> Any:
        right = getattr(kind, name)

        def call(self: Any, *arguments: Any, **more: Any) -> Any:
            calls.append(self._method.decode().removeprefix("/qdrant."))
            return right(self, *arguments, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_blocking", "future"):  # all others go through these two
            patch.setattr(kind, name, counted(name))
        yield calls
