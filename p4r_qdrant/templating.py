"""HTML from templates in which every text is escaped."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, lone surrogates, and marks that change the direction of the text after them.

Marks for a single letter (U+200E, U+200F, U+061C) stay: right-to-left languages need them, and
`isolated` keeps their effect inside the text.
"""


def _day(seconds: int) -> str:
    """Seconds since 1970 as a date and a time in UTC; as they are if they are no such time."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


class Templates:
    """The templates of a folder. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def render(self, template: str, **values: object) -> str:
        """The page of a template. All texts are escaped; unsafe characters become U+FFFD.

        Raises jinja2.UndefinedError where the template uses a value that is missing.
        """
        page = self._environment.get_template(template).render(values)
        return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", page)

    @cached_property
    def _environment(self) -> Environment:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup

        environment = Environment(
            loader=FileSystemLoader(self._folder),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        # For texts from a data set: their writing direction does not reach the text around them.
        environment.filters["day"] = _day
        environment.filters["isolated"] = lambda text: Markup("<bdi>{}</bdi>").format(text)
        return environment
