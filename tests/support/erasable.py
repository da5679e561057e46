"""A bookshop whose users can be erased."""

from pathlib import Path

from indexer.ledger import Ledger, request_key
from tests.support.jsonl import read
from tests.support.paths import BOOKSHOP, copy_bookshop

STEPS = ("summaries", "aspects", "personas", "alignments")


def ledger_key(step: str, number: int) -> str:
    return request_key(template=step, content=number, model="m")


def bookshop_with_ledger(folder: Path) -> None:
    """A copy of the bookshop, with a ledger that has an answer for each of its lines."""
    copy_bookshop(folder)
    with Ledger(folder / "ledger") as ledger:
        for step in STEPS:
            for number, one in enumerate(read(BOOKSHOP / f"{step}.jsonl")):
                about = {name: one[name] for name in ("item_id", "user_id") if name in one}
                ledger.put(step, ledger_key(step, number), {"about": about, "answer": one})
