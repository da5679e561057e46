"""The names of what the studio reads in an artifact folder; `indexer` writes it."""

from __future__ import annotations

MAPS = "maps"
"""A folder: see `index.maps` and `index.wins`."""
HISTORY = "history.sqlite"
"""See `index.history`."""
