"""A publish that kills its own process at a given step.

    python -m tests.support.publish_process '[SETTINGS, FOLDER, ENCODER, POINT]'

The process dies before the step that POINT names: "upsert 1" is the second upsert.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from indexer.collaborative import fitting
from indexer.indexing import items, publish
from p4r_qdrant import Settings
from p4r_qdrant.index import replacing
from p4r_qdrant.index.edge.columns import EdgeColumnSets
from p4r_qdrant.index.edge.engine import EdgeEngine
from p4r_qdrant.index.edge.versions import EdgeVersions
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.server.columns import ServerColumnSets
from p4r_qdrant.index.server.engine import ServerEngine
from p4r_qdrant.index.server.versions import ServerVersions
from tests.support import publishing
from tests.support.hash_encoder import HashEncoder

STEPS: dict[str, list[tuple[Any, str]]] = {
    "encode": [(HashEncoder, "encode_texts")],
    "upsert": [(EdgeEngine, "upsert"), (ServerEngine, "upsert")],
    "settle": [(replacing, "settle")],
    "delete": [(EdgeEngine, "delete"), (ServerEngine, "delete")],
    "strangers": [(EdgeEngine, "delete_unchanged"), (ServerEngine, "delete_unchanged")],
    "columns": [(EdgeColumnSets, "write"), (ServerColumnSets, "write")],
    "half": [(fitting, "_largest")],
    "set": [(EdgeColumnSets, "drop"), (ServerColumnSets, "drop")],
    "verify": [(publish, "verify_scores")],
    "record": [(PersonaIndex, "record")],
    "switch": [(EdgeVersions, "switch"), (ServerVersions, "switch")],
}


def deadly(step: Callable[..., Any], after: int) -> Callable[..., Any]:
    """The step, which kills the process once it has been done `after` times."""
    done = 0

    def dies(*arguments: Any, **named: Any) -> Any:
        nonlocal done
        if done == after:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return step(*arguments, **named)

    return dies


if __name__ == "__main__":
    stored, folder, number, point = json.loads(sys.argv[1])
    sections = json.loads(stored)
    sections["qdrant"]["api_key"] = os.environ["KEY"]
    step, times = point.split()
    for owner, name in STEPS[step]:
        setattr(owner, name, deadly(getattr(owner, name), int(times)))
    items.CHUNK = 2
    settings = Settings.load(qdrant=sections["qdrant"], index=sections["index"])
    publishing.run(Path(folder), publishing.encoder(number), settings)
