"""Requests to an LLM that a test can tell apart by their number."""

from typing import Any

from indexer.llm import Request
from indexer.prompts import Prompt

KEY = "sk-s3cr3t-k3y"
SECRET_TEXT = "the reviewer lives at 12 Rose Lane"
SCHEMA = {
    "type": "object",
    "properties": {"x": {"type": "integer"}},
    "required": ["x"],
    "additionalProperties": False,
}


def request(number: int = 0, **more: Any) -> Request:
    prompt = Prompt("Extract.", f"review {number}: {SECRET_TEXT}")
    return Request("aspects", prompt, SCHEMA, "m", about={"n": str(number)}, **more)


def requests(count: int, **more: Any) -> list[Request]:
    return [request(number, **more) for number in range(count)]
