"""What an error says."""

import re

import pytest


def sentence(caught: pytest.ExceptionInfo[BaseException]) -> str:
    """The error's message, which must be one readable sentence without a program's innards."""
    check_sentence(caught.value)
    return str(caught.value)


def check_sentence(error: BaseException) -> None:
    """Check that the message of an error is one readable sentence."""
    text = str(error)
    assert text, "an error without words"
    assert "\n" not in text, text
    assert not re.search(r"Traceback|object at 0x|Kind\(|(?:^|[\s(\[])b'", text), text
    assert len(text) < 450, text
