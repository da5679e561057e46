"""The committed types of the TypeScript client are those of today's OpenAPI document."""

import copy

import pytest

from devtools.typescript_client import CLIENT, TYPES, document, heading


def test_the_types_are_those_of_the_document() -> None:
    with (CLIENT / TYPES).open(encoding="utf-8") as file:
        assert file.readline() == heading(document()), "the service has changed: make typescript"


def test_a_change_of_a_model_changes_the_heading_and_a_release_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = document()
    changed, released = copy.deepcopy(made), copy.deepcopy(made)
    changed["components"]["schemas"]["RerankBody"]["properties"]["top"]["title"] = "Count"
    released["info"]["version"] = "99"
    assert heading(changed) != heading(made)
    assert heading(released) == heading(made)
    monkeypatch.setenv("P4R_SERVICE__MAX_USERS", "7")
    assert heading(document()) == heading(made)
