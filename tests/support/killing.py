"""Runs `p4r` in processes of their own that are killed at random moments of their work."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import warm
from tests.support.campaign import Attempt
from tests.support.paths import ROOT

KILLED = -9


@dataclass(frozen=True)
class Ended:
    """How a process ended, and how many steps it took (0: killed)."""

    code: int
    out: str
    err: str
    steps: int = 0

    @property
    def sentence(self) -> str:
        """The one line that says what went wrong, of a process that has failed as it may."""
        assert self.code in (1, 2), self
        assert "Traceback" not in self.err + self.out, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("p4r: ")]
        assert len(lines) == 1, self.err
        return lines[0].removeprefix("p4r: ")


@dataclass(frozen=True)
class Command:
    """A `p4r` command."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    given: bytes = b""
    """Standard input."""
    longest_wait_s: float = 0.03
    """The longest time between a step and the kill."""

    def start(self, folder: Path, dies: tuple[int, float] | None = None) -> warm.Popen:
        """Start it in a folder; `dies`: the step and the seconds after it at which it is killed."""
        own = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
            "MORTAL_STEPS": str(_steps(folder)),
        }
        if dies is not None:
            own["MORTAL_DIES"] = f"{dies[0]} {dies[1]}"
        _steps(folder).unlink(missing_ok=True)
        return warm.Popen(
            [sys.executable, "-W", "error", "-m", "tests.support.mortal_p4r", *self.arguments],
            env=own | dict(self.environment),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, folder: Path, dies: tuple[int, float] | None = None) -> Ended:
        """Run it to its end."""
        return self.ended(self.start(folder, dies), folder)

    def ended(self, process: warm.Popen, folder: Path) -> Ended:
        """Wait for what `start` has started."""
        with process:
            try:
                out, err = process.communicate(self.given, timeout=120)
            except BaseException:
                process.kill()
                raise
        report = _steps(folder).read_text() if _steps(folder).exists() else ""
        return Ended(process.returncode, out.decode(), err.decode(), int(report or 0))

    def succeed(self, folder: Path) -> Ended:
        """Run it; AssertionError if it fails."""
        done = self.run(folder)
        assert done.code == 0, done.err
        return done

    def killed(self, folder: Path, attempt: Attempt, steps: int) -> Ended:
        """Run it and kill it at a random moment of so many steps; it may end before."""
        wait_s = attempt.random.choice((0.0, attempt.random.random() * self.longest_wait_s))
        ended = self.run(folder, (attempt.random.randint(1, steps), wait_s))
        if ended.code == KILLED:
            attempt.killed()
        elif ended.code:
            assert ended.sentence
        return ended


def _steps(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.steps")


def files(folder: Path, pattern: str = "*.jsonl") -> dict[str, bytes]:
    """The files below a folder, by their path in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    }


def paid_again(prompts: Iterable[str]) -> int:
    """How many prompts were sent beyond the first time each."""
    asked = Counter(prompts)
    return asked.total() - len(asked)
