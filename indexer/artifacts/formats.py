"""The number of the format of an artifact folder or a ledger.

A folder without `format.json` has format 1, the only one so far. A release with another format
writes the number there: {"format": 2}.
"""

from __future__ import annotations

import json
from pathlib import Path

from p4r_qdrant.errors import InputError

FORMAT = 1
NAME = "format.json"


def check_format(folder: Path) -> None:
    """Raise InputError if this release cannot read the folder."""
    path = folder / NAME
    try:
        stored = json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    except NotADirectoryError:
        return  # the command that opens the folder reports it
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); restore it from a backup") from None
    number = stored.get("format") if isinstance(stored, dict) else None
    if number != FORMAT:
        raise InputError(
            f"{folder} has format {str(number)[:20]}, this release reads format {FORMAT}; update "
            "p4r-qdrant"
        )
