"""Commands that pay for answers: a failure that came before the first answer leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from indexer.ledger import LEDGER, LedgerLockedError


@contextmanager
def undone_unless_paid(folder: Path) -> Iterator[None]:
    """Remove what the block has made in a folder, and the folder, if it fails without an answer.

    What was there before stays as it is. Once the folder's ledger has a line or a batch, all stays:
    it is paid for. So it does where another process holds the ledger.
    """
    new_folders = [one for one in (folder, *folder.parents) if not one.exists()]
    before = set(folder.rglob("*"))
    try:
        yield
    except LedgerLockedError:
        raise
    except BaseException:
        if not _is_paid(folder):
            for path in sorted(folder.rglob("*"), reverse=True):  # a folder after what is in it
                if path not in before:
                    _remove(path)
            for path in new_folders:
                _remove(path)
        raise


def _is_paid(folder: Path) -> bool:
    """Whether there is an answer, a failure or a batch in the folder's ledger."""
    files = (folder / LEDGER).rglob("*.jsonl")
    return any(path.stat().st_size for path in files if path.is_file())


def _remove(path: Path) -> None:
    with suppress(OSError):  # somebody else uses it
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
