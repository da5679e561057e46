"""`python -m p4r_qdrant`: the `p4r` command line.

This package must not depend on `indexer`, which may be left out of a deployment. The command is
therefore found by its entry point, as the script `p4r` is.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points


def main() -> None:
    """Run the command `p4r` of this installation."""
    found = entry_points(group="console_scripts", name="p4r")
    if not found:
        sys.stderr.write("p4r: the command is not installed: pip install p4r-qdrant\n")
        sys.exit(1)
    sys.argv[0] = "p4r"
    next(iter(found)).load()()


if __name__ == "__main__":
    main()
