"""Errors that a library raises, as one sentence of ours."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from p4r_qdrant.errors import P4RError

_log = logging.getLogger(__name__)
_LONGEST = 200


@contextmanager
def translated(error_of: Callable[[str], P4RError]) -> Iterator[None]:
    """Context manager around calls of a library: whatever it raises becomes `error_of(reason)`.

    The original goes to the debug log. Interrupts and errors of ours pass.
    """
    try:
        yield
    except (P4RError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        _log.debug("a library raised an error", exc_info=True)
        raise error_of(reason_of(error)) from None


def reason_of(error: BaseException) -> str:
    """What an error says, as a part of a sentence: its first sentence, or its type.

    Later sentences advise to call the library in another way, which our user cannot.
    """
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return ": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])
    lines = [line.strip() for line in str(error).splitlines()]
    said = re.split(r"(?<=[.!?])\s", next(filter(None, lines), ""), maxsplit=1)[0]
    if isinstance(error, (LookupError, AttributeError, TypeError)) or not said:
        said = f"{type(error).__name__} {said}".rstrip()  # what it says is a mere name
    return said[:_LONGEST].rstrip(".:,; ")
