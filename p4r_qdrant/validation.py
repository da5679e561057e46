"""Problems of records in words."""

from __future__ import annotations

import json

from pydantic import ValidationError

_WANTED = {
    "dict_type": "an object",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "an object",
    "string_type": "a text",
}
"""What a field must be, by pydantic's name of the error."""


def validation_sentence(error: ValidationError) -> str:
    """The first problem of a record: the field and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        message = "is missing"
    elif wanted := _WANTED.get(first["type"]):
        message = f"{json.dumps(first['input'], default=str)[:40]} is not {wanted}"
    return f"{name}: {message}" if name else message
