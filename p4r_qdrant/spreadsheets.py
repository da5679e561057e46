"""Texts that no spreadsheet takes for a formula, and back."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet would compute."""


def formula_safe(text: str) -> str:
    """The text, with a quote before it if a spreadsheet would compute it."""
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def from_formula_safe(text: str) -> str:
    """The text that `formula_safe` was given."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_FORMULA) else text
