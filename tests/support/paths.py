"""Where the checkout and the bookshop are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
BOOKSHOP = ROOT / "examples" / "bookshop"


def copy_bookshop(folder: Path) -> Path:
    """Copy the example into a folder, without what commands of other tests leave beside it.

    They name folders of theirs in derived.json, which an erasure in the copy would look at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*BOOKSHOP.glob("*.jsonl"), BOOKSHOP / "README.md"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
