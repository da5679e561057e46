"""What an error says."""

import re

import pytest


def sentence(caught: pytest.ExceptionInfo[BaseException]) -> str:
    """The error's message, which must be one readable sentence without a program's innards."""
    text = str(caught.value)
    assert text, "an error without words"
    assert "\n" not in text, text
    assert not re.search(r"Traceback|object at 0x|Kind\(|\bb'", text), text
    assert len(text) < 450, text
    return text
