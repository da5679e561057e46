"""Files that come with the package: the example catalogue and the prompts.

In a checkout they lie beside the packages; in an installed wheel inside this one.
"""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).parent / "_resources"
_CHECKOUT = Path(__file__).parent.parent


def resource(name: str) -> Path:
    """The folder or file `name` ("examples/bookshop"); raises FileNotFoundError."""
    for root in (_INSTALLED, _CHECKOUT):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"{name} does not come with this installation of p4r-qdrant")
