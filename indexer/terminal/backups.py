"""What `p4r backup`, `restore` and `copy` print."""

from __future__ import annotations

from pathlib import Path

from indexer.backups.manifest import Manifest
from indexer.backups.restore import Restored
from indexer.terminal.console import err, out


def print_backup(folder: Path, manifest: Manifest) -> None:
    """Print what a backup holds."""
    out.say(f"{described(manifest)}, {manifest.size / 1e6:,.1f} MB: {folder}")
    if manifest.left_out:
        err.say(
            f"{manifest.left_out} items are half written, by a process that was killed, and are "
            "not in it: `p4r index` repairs them",
            style="yellow",
        )


def print_restored(done: Restored) -> None:
    """Print what was restored, and how to go back."""
    out.say(f"{described(done.manifest)} restored: {done.live} of {done.location} is live")
    if done.before:
        out.say(f"before: {done.before} (p4r publish --rollback switches back)")


def described(manifest: Manifest) -> str:
    """What a backup holds, as a part of a sentence."""
    personas, users = manifest.of("personas"), manifest.of("interactions")
    counts = {
        "versions": len(manifest.source.versions),
        "items": sum(one.items for one in personas),
        "personas": sum(one.records for one in personas),
        "users": sum(one.items for one in users),
        "interactions": sum(one.records for one in users),
        "jobs": sum(one.records for one in manifest.of("jobs")),
    }
    return ", ".join(
        f"{count:,} {what if count > 1 else what.removesuffix('s')}"
        for what, count in counts.items()
        if count
    )
