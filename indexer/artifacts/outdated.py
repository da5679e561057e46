"""Which personas rest on somebody who was erased: FOLDER/outdated.json.

The live version keeps those that rest on others too until the items are reasoned on again. So a
version may hold them when another one becomes live, and a rollback would bring them back. The file
holds item ids and hashes, no words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from pathlib import Path

from indexer.artifacts.names import OUTDATED
from indexer.artifacts.writing import storage_errors
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Persona, StoredPersona
from p4r_qdrant.texts import plain_rationale
from p4r_qdrant.whole_files import write_whole

Outdated = Mapping[str, Set[str]]
"""Item id -> `persona_digest` of its personas."""


def persona_digest(persona: Persona | StoredPersona) -> str:
    """What tells the words of a persona, in an artifact or in the index, without holding them."""
    rationale = persona.preference_rationale
    if isinstance(persona, Persona):
        rationale = plain_rationale(rationale)  # as it is stored
    words = json.dumps([persona.name, persona.description, rationale])
    return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()


def note_outdated(folder: Path, found: Outdated) -> None:
    """Add personas to those that are noted. Raises InputError."""
    known = outdated_in(folder)
    every = {
        item: sorted({*known.get(item, ()), *found.get(item, ())}) for item in {*known, *found}
    }
    with storage_errors(path := folder / OUTDATED):
        if every:
            write_whole(path, json.dumps(every, ensure_ascii=False, sort_keys=True))


def outdated_in(folder: Path) -> dict[str, Set[str]]:
    """What is noted. Raises InputError if the file is broken."""
    path = folder / OUTDATED
    if not path.is_file():
        return {}
    try:
        noted = json.loads(path.read_bytes())
        return {str(item): {str(one) for one in digests} for item, digests in noted.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        raise InputError(
            f"{path} is broken: remove it, and delete older versions (p4r publish --drop-old)"
        ) from None
