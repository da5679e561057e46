"""Errors that end a run, and errors that concern one request."""

from __future__ import annotations

from dataclasses import dataclass

from p4r_qdrant.errors import InputError, P4RError

NO_ANSWER = "no answer came"
"""How the problem of a request begins if the endpoint never answered it."""


TOO_LONG = "the prompt is too long for the model"
"""How the problem of a request begins if its prompt does not fit into the model's context."""


class LLMRefusedError(InputError):
    """The endpoint refuses all such requests: wrong key, model or address, or no credit."""


class BudgetReachedError(InputError):
    """The next call might exceed the settings' ceiling of cost or tokens."""


class EndpointDownError(P4RError):
    """The endpoint cannot be reached or gives no usable response, after all retries."""


class BatchesUnderWay(Exception):  # noqa: N818 - not an error
    """All possible batches are submitted and the run does not wait. Run again to collect them."""


# The errors below stay inside this package.


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error of an endpoint, in OpenAI's form, FastAPI's, a list, or plain text.

    message: its sentence. codes: its codes and types. wait_s: the seconds that it asks to wait;
    None if it names none.
    """

    message: str
    codes: str
    wait_s: float | None

    @property
    def searched(self) -> str:
        """The message with its codes, to be searched for names of parameters."""
        return f"{self.message} {self.codes}"


class TransientError(Exception):
    """Worth a retry, after `wait_s` seconds if the endpoint asked for that."""

    def __init__(self, reason: str, wait_s: float = 0.0, *, heard: bool = False) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.heard = heard
        """The endpoint has reacted, so its address is right."""


class UnanswerableError(Exception):
    """The request is not answered; others may be.

    `final`: asked again as it is, it would not be answered either.
    """

    def __init__(self, reason: str, *, final: bool = True) -> None:
        super().__init__(reason)
        self.final = final


class RefusedRequestError(Exception):
    """The endpoint refuses this request: a parameter of it, its length, or what it says.

    Args:
        status: the HTTP status.
        text: the endpoint's message, fit to be shown.
        body: the endpoint's message and codes, to be searched.
        too_long: prompt and answer do not fit into the model's context.

    """

    def __init__(self, status: int, text: str, body: ErrorBody, *, too_long: bool) -> None:
        super().__init__(f"HTTP {status}: {text or 'no reason given'}")
        self.status = status
        self.text = text
        self.body = body
        self.too_long = too_long

    @property
    def about_record(self) -> bool:
        """The status is one for a request as it is, not for an address, a model or a right."""
        return self.status in (400, 413, 422, 451)


class StoppedError(Exception):
    """The run has stopped: no new call begins."""
