"""Render a template of this package as one HTML file that needs no network and runs no script."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, lone surrogates, and marks that change the direction of the text after them.

Marks for a single letter (U+200E, U+200F, U+061C) stay: right-to-left languages need them, and
`isolated` keeps their effect inside the text.
"""


def render(template: str, **values: object) -> str:
    """The page of a template. All texts are escaped; unsafe characters become U+FFFD.

    Raises jinja2.UndefinedError where the template uses a value that is missing.
    """
    return _UNSAFE.sub(
        "\N{REPLACEMENT CHARACTER}", _environment().get_template(template).render(values)
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # For texts from a data set: their writing direction does not reach the text around them.
    environment.filters["isolated"] = lambda text: Markup("<bdi>{}</bdi>").format(text)
    return environment
