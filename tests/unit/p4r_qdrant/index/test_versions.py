"""Names of versions."""

import pytest

from p4r_qdrant.index.versions import is_named


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("books-f.1", True),
        ("books-f.1-r2", True),
        ("books-f.1-r10", True),
        ("books-f.1-r", False),
        ("books-f.1-r2-users", False),
        ("books-f.1-columns-2", False),
        ("books-fx1", False),
        ("more-books-f.1", False),
    ],
)
def test_a_version_beside_another_of_its_encoder(name: str, ours: bool) -> None:
    assert is_named(name, "books-f.1") is ours
