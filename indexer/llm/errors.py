"""What ends a run, and what may go wrong with one request."""

from __future__ import annotations

from p4r_qdrant.errors import InputError, P4RError

NO_ANSWER = "no answer came"
"""How the problem begins of a request that was given up for want of any answer."""


class LLMRefusedError(InputError):
    """The endpoint will not take such requests at all: wrong key, model, address or no credit."""


class BudgetReachedError(InputError):
    """The next call might exceed the ceiling of cost or tokens that the settings name."""


class EndpointDownError(P4RError):
    """The endpoint cannot be reached, or gives no usable response, however long one tries."""


class BatchesUnderWay(Exception):  # noqa: N818 - nothing is wrong
    """What could be submitted is; nobody waits for it. Run again to collect it."""


# The rest never leaves this package.


class TransientError(Exception):
    """Worth sending again; not before `wait_s` seconds where the endpoint said so."""

    def __init__(self, reason: str, wait_s: float = 0.0, *, heard: bool = False) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.heard = heard
        """Somebody is there, the address is right."""


class UnanswerableError(Exception):
    """The request will never be answered; others may."""


class UnknownParameterError(Exception):
    """HTTP 400 or 422: perhaps the endpoint does not know a parameter; `complaint` says which."""

    def __init__(self, said: str, complaint: str) -> None:
        super().__init__(said)
        self.complaint = complaint


class StoppedError(Exception):
    """The run is at its end: nothing new is begun."""
