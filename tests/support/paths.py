"""Where the checkout and the bookshop are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
BOOKSHOP = ROOT / "examples" / "bookshop"
