"""The errors of this project.

P4RError                        exit code 1: our fault, or the world's
├── InputError                  exit code 2: something the caller can put right
│   ├── SettingsError           a setting is unknown, malformed or contradicts another
│   ├── RecordError             a record in a file is broken (names file and line)
│   ├── VectorError             a vector has the wrong width, or is zero, NaN or infinite
│   ├── TextsRefusedError       the encoder makes no vectors of some texts
│   ├── PersonaError            an item's personas cannot be indexed (none, too many, no text ...)
│   ├── IndexMismatchError      the index was made by another encoder, dimension or project
│   ├── AuthenticationError     Qdrant, or the encoder's endpoint, refused the key
│   ├── UnknownTenantError      the index has no such tenant
│   ├── IndexLockedError        another process has the embedded index open
│   ├── LeakError               held-out data reached what is built (indexer/evaluation/leaks/)
│   ├── LedgerLockedError       another process writes the ledger (indexer/ledger.py)
│   ├── LLMRefusedError         the LLM's endpoint takes no such requests (indexer/llm)
│   ├── BudgetReachedError      the ceiling of cost or tokens is reached (indexer/llm)
│   ├── MissingExtraError       an optional part is not installed
│   └── ServiceRefusedError     the HTTP service refused a request (p4r_qdrant/client/)
├── EndpointDownError           the LLM's endpoint cannot be reached (indexer/llm)
├── ServiceDownError            the HTTP service does not answer, or cannot now (p4r_qdrant/client/)
├── NoUsableAnswerError         no request of a step has a usable answer (indexer/reasoning/run.py)
├── JudgeUnfitError             an LLM as judge fails its controls (indexer/judging/run.py)
├── TrainingError               training went wrong (indexer/training/trainer.py)
├── EncoderError                the model or its adapter could not be loaded or changes nothing
├── VerificationError           what was published is not what the artifacts hold
├── TooMuchChangeError          a publish changes more for readers than --max-change allows
├── IndexRefusedError           Qdrant answers, and refuses a request (strict mode, a quota)
└── IndexUnavailableError       Qdrant cannot be reached, timed out, or failed
    ├── RateLimitedError        Qdrant takes no more requests for now
    └── StorageFullError        no space left where the index lives

Every message is one sentence: what is wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self


class P4RError(Exception):
    """Root of the tree. `exit_code` is what the command line returns for it.

    Its text is for the caller, and may quote the caller. A log gets `for_log(error)` instead.
    """

    exit_code = 1
    quoted: tuple[str, ...] = ()

    def quoting(self, *parts: str) -> Self:
        """Note which parts of the message are words of users, or of a server that may quote them.

        Returns the error.
        """
        self.quoted = (*self.quoted, *filter(None, parts))
        return self


def for_log(error: BaseException) -> str:
    """What a log says of an error: no words of users; of a foreign error only its kind."""
    if not isinstance(error, P4RError):
        return type(error).__name__
    text = str(error)
    for part in error.quoted:
        text = text.replace(part, "...")
    return text


class InputError(P4RError):
    """The caller's mistake: wrong input, arguments or configuration."""

    exit_code = 2


class SettingsError(InputError):
    """A setting is unknown, malformed, or contradicts another one."""


class RecordError(InputError):
    """A record in a file is broken; the message names the file and the line."""


class VectorError(InputError):
    """A vector has the wrong width, or is zero, NaN or infinite."""


class TextsRefusedError(InputError):
    """The encoder makes no vectors of some texts of a batch.

    reasons: why not, by position in the batch. vectors: (n, dim) float32 of all texts, in order;
    NaN where there is none.
    """

    def __init__(self, batch: Sequence[str], reasons: Mapping[int, str], vectors: Any) -> None:
        self.reasons = reasons
        self.vectors = vectors
        first = min(reasons)
        others = f" ({len(reasons) - 1} other texts fail too)" if len(reasons) > 1 else ""
        super().__init__(
            f"the text {batch[first][:60]!r} of {len(batch[first])} characters cannot be encoded: "
            f"{reasons[first]}{others}"
        )
        self.quoting(repr(batch[first][:60]), reasons[first])


class PersonaError(InputError):
    """An item's personas cannot be indexed: none, too many, repeated ids, or no text."""


class IndexMismatchError(InputError):
    """The index was made by another encoder, dimension or project."""


class UnknownTenantError(InputError):
    """The index has no such tenant."""


class AuthenticationError(InputError):
    """Qdrant, or the encoder's endpoint, refused the API key."""


class IndexLockedError(InputError):
    """Another process has the embedded index open."""


class MissingExtraError(InputError):
    """An optional part of the package is not installed; the message names the extra."""


class EncoderError(P4RError):
    """The model or its adapter could not be loaded, does not fit, or changes nothing."""


class VerificationError(P4RError):
    """The published index differs from the artifacts or from the encoder's vectors."""


class TooMuchChangeError(P4RError):
    """A publish would change more for readers than allowed."""


class IndexUnavailableError(P4RError):
    """Qdrant cannot be reached, timed out, or failed."""


class IndexRefusedError(P4RError):
    """Qdrant answers, and refuses a request: its strict mode or a quota forbids it."""


class RateLimitedError(IndexUnavailableError):
    """Qdrant takes no more requests for now. `retry_after_s`: seconds until it takes the next."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageFullError(IndexUnavailableError):
    """There is no space left where the index lives."""
