"""A catalogue as artifacts, many encoders, and the right rankings for each encoder."""

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.indexing.items import Source
from indexer.indexing.publish import Published, PublishOptions, publish
from p4r_qdrant import Encoder, Interaction, PersonaReranker, Ranking, Settings, open_index, texts
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.records import ItemPersonas
from tests.support import warm
from tests.support.background import PAUSE_S
from tests.support.hash_encoder import HashEncoder
from tests.support.oracle import Catalogue, assert_congruent, brute_force
from tests.support.paths import ROOT

TEXT = "salt orchard ships bridge bread leek map river lamp storm quiet pan theodolite chain"
WORDS = TEXT.split()


def encoder(number: int, **options: Any) -> HashEncoder:
    """Encoder `number`: each has its own vectors, and some differ in their dimension."""
    return HashEncoder(24 + 8 * (number % 3), salt=f"-{number}", **options)


def item(number: int, personas: int | None = None, text: str = "") -> dict[str, Any]:
    words = [WORDS[(number * 5 + step * step) % len(WORDS)] for step in range(9)]
    return {
        "item_id": f"item-{number}",
        "personas": [
            {
                "persona_id": f"item-{number}_P{slot}",
                "name": f"{words[slot]} reader {slot}",
                "description": f"Likes {words[slot + 1]} and {words[slot + 2]} {number} {text}",
                "preference_rationale": f"There is {words[(slot + 4) % 9]} in it.",
            }
            for slot in range(1 + number % 4 if personas is None else personas)
        ],
    }


def write_personas(folder: Path, rows: Sequence[Any]) -> None:
    """Write lines: records, or texts as they are."""
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "personas.jsonl").write_text("".join(f"{line}\n" for line in lines))


def write_reviews(folder: Path, pairs: Sequence[tuple[str, str]], rating: float = 5) -> None:
    """Write reviews of (user, item) pairs, the first one the oldest."""
    rows = [
        {"user_id": user, "item_id": item, "rating": rating, "timestamp": n, "text": "Fine."}
        for n, (user, item) in enumerate(pairs)
    ]
    (folder / "reviews.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def catalogue_at(folder: Path, items: int = 12) -> Path:
    """An artifact folder of items with one to four personas."""
    write_personas(folder, [item(number) for number in range(items)])
    return folder


def run(
    folder: Path,
    source: Source,
    settings: Settings,
    refusals: Refusals | None = None,
    **options: Any,
) -> Published:
    refusals = refusals if refusals is not None else Refusals()
    return publish(
        ArtifactFolder(folder), source, settings, PublishOptions("x", **options), refusals
    )


def live(settings: Settings) -> str | None:
    with open_versions(settings) as versions:
        return versions.live()


def previous(settings: Settings) -> str | None:
    with open_versions(settings) as versions:
        return versions.previous()


def version(settings: Settings, encoder: Encoder) -> str:
    """The name of the version that an encoder has."""
    with open_versions(settings) as versions:
        return versions.named(encoder.fingerprint)


def names(settings: Settings) -> set[str]:
    with open_versions(settings) as versions:
        return {one.name for one in versions.all()}


def truth(folder: Path, encoder: Encoder) -> Catalogue:
    """The vectors that an index of this folder and encoder must hold."""
    lines = (folder / "personas.jsonl").read_text().splitlines()
    records = [ItemPersonas.model_validate_json(line) for line in lines]
    return Catalogue(
        {
            record.item_id: encoder.encode_texts(texts.persona_texts(record.personas)).astype(
                "float64"
            )
            for record in records
        }
    )


class Truths:
    """The scores of all items for some histories, by brute force, for each encoder."""

    def __init__(self, folder: Path, encoders: Sequence[Encoder]) -> None:
        self.histories = [
            [Interaction(f"h{one}", one, summary=" ".join(WORDS[one : one + 3]))]
            for one in range(len(WORDS) - 3)
        ]
        self.scores: dict[str, list[dict[str, list[float]]]] = {}
        for one in encoders:
            catalogue = truth(folder, one)
            self.item_ids = list(catalogue.vectors)
            vectors = one.user_vectors(self.histories, length=10, decay=0.85)
            self.scores[one.fingerprint] = [
                brute_force(catalogue, vector.vector, self.item_ids) for vector in vectors if vector
            ]

    def check(self, history: int, ranking: Ranking) -> None:
        """Check that the ranking is complete and ordered, with the encoder that it names."""
        scores = self.scores[ranking.fingerprint][history]
        assert sorted(one.item_id for one in ranking.items) == sorted(scores), "an item is lost"
        order = sorted(scores, key=lambda one: (-max(scores[one]), one))
        for one, expected in zip(ranking.items, order, strict=True):
            assert one.score is not None
            assert abs(one.score - max(scores[one.item_id])) < 2e-6, "another encoder's score"
            assert abs(one.score - max(scores[expected])) < 2e-6, "not in order"
        for one in ranking.items[:3]:
            assert one.persona is not None
            slot = int(re.sub(r".*_P", "", one.persona.persona_id))
            assert abs(scores[one.item_id][slot] - (one.score or 0)) < 2e-6, "another persona"
            assert one.because


def check_whole(settings: Settings, folder: Path, encoder: Encoder) -> None:
    """What is live is what the artifacts and the encoder say; every item is whole."""
    catalogue = truth(folder, encoder)
    with open_index(settings, encoder=encoder) as index:
        users = encoder.encode_texts(["salt and ships", "a quiet river"])
        assert_congruent(index, catalogue, users, [[*catalogue.vectors, "missing"]] * 2)
        assert set(index.item_ids()) == set(catalogue.vectors)
        assert index.hashes(list(catalogue.vectors)).keys() == catalogue.vectors.keys()
        assert index.stats().personas == sum(map(len, catalogue.vectors.values()))
        assert index.repair() == 0


def refreshing(settings: Settings, every_s: float) -> Settings:
    return settings.model_copy(
        update={"qdrant": settings.qdrant.model_copy(update={"refresh_s": every_s})}
    )


def by_fingerprint(*encoders: Encoder) -> Callable[[IndexMetadata], Encoder]:
    known = {one.fingerprint: one for one in encoders}
    return lambda made_with: known[made_with.fingerprint]


@contextmanager
def hammered(
    reranker: PersonaReranker, truths: Truths, threads: int = 3
) -> Iterator[dict[str, int]]:
    """Reranks again and again; yields how often each encoder has answered.

    Every answer is checked; the first thing that was wrong is raised at the end.
    """
    answered = dict.fromkeys(truths.scores, 0)
    over = threading.Event()

    def hammer(turn: int) -> None:
        while not over.wait(PAUSE_S):
            turn = (turn + 1) % len(truths.histories)
            ranking = reranker.rerank(truths.histories[turn], truths.item_ids, explain=3)
            truths.check(turn, ranking)
            answered[ranking.fingerprint] += 1

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(hammer, turn) for turn in range(threads)]
        try:
            yield answered
        finally:
            over.set()
            for future in futures:
                future.result()


def killed(settings: Settings, folder: Path, encoder: int, point: str) -> None:
    """Publish in a process that kills itself at a point."""
    key = settings.qdrant.api_key
    task = json.dumps([settings.model_dump_json(), str(folder), encoder, point])
    process = warm.run(
        [sys.executable, "-m", "tests.support.publish_process", task],
        cwd=ROOT,
        env=os.environ | {"KEY": key.get_secret_value() if key else ""},
        timeout=120,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
