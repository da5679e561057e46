"""Errors that end a run, and errors that concern one request."""

from __future__ import annotations

from p4r_qdrant.errors import InputError, P4RError

NO_ANSWER = "no answer came"
"""How the problem of a request begins if the endpoint never answered it."""


class LLMRefusedError(InputError):
    """The endpoint refuses all such requests: wrong key, model or address, or no credit."""


class BudgetReachedError(InputError):
    """The next call might exceed the settings' ceiling of cost or tokens."""


class EndpointDownError(P4RError):
    """The endpoint cannot be reached or gives no usable response, after all retries."""


class BatchesUnderWay(Exception):  # noqa: N818 - not an error
    """All possible batches are submitted and the run does not wait. Run again to collect them."""


# The errors below stay inside this package.


class TransientError(Exception):
    """Worth a retry, after `wait_s` seconds if the endpoint asked for that."""

    def __init__(self, reason: str, wait_s: float = 0.0, *, heard: bool = False) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.heard = heard
        """The endpoint has reacted, so its address is right."""


class UnanswerableError(Exception):
    """The request will never be answered; others may be."""


class UnknownParameterError(Exception):
    """HTTP 400 or 422: perhaps the endpoint does not know a parameter; `message` names it.

    Args:
        text: the endpoint's message, fit to be shown.
        message: the endpoint's message with its codes, to be searched.

    """

    def __init__(self, text: str, message: str) -> None:
        super().__init__(text)
        self.message = message


class StoppedError(Exception):
    """The run has stopped: no new call begins."""
