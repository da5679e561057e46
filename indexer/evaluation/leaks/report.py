"""What leak checks find."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from indexer.artifacts.lines import Refusals
from p4r_qdrant.errors import InputError

_KEPT = 3


class LeakError(InputError):
    """Held-out interactions reach something that is made before scoring."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: the records it looked at, the number of leaks, and the first of them.

    unproven: why the check could not be made; then the result is not clean. vouched: what cannot
    be checked at all, so that the caller is responsible for it.
    """

    name: str
    looked_at: int
    leaks: int = 0
    examples: tuple[str, ...] = ()
    unproven: str = ""
    vouched: str = ""


@dataclass(frozen=True)
class LeakReport:
    """All checks of one catalogue."""

    checks: list[Check] = field(default_factory=list)

    def __add__(self, other: LeakReport) -> LeakReport:
        return LeakReport([*self.checks, *other.checks])

    @property
    def leaks(self) -> int:
        """The number of leaks of all checks."""
        return sum(check.leaks for check in self.checks)

    @property
    def clean(self) -> bool:
        """Whether every check could be made and found nothing."""
        return not any(check.leaks or check.unproven for check in self.checks)

    def require_clean(self) -> None:
        """Raise LeakError unless `clean`."""
        for check in self.checks:
            if check.leaks:
                raise LeakError(
                    f"{check.leaks} held-out interactions leak ({check.name}), the first: "
                    f"{check.examples[0]}; make it again from training interactions alone"
                )
        for check in self.checks:
            if check.unproven:
                raise LeakError(f"{check.name}: {check.unproven}")

    def record(self) -> list[dict[str, Any]]:
        """As JSON."""
        return [asdict(check) for check in self.checks]


class Findings:
    """The number of leaks of one check, and the first few."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, sentence: str) -> None:
        """Count one leak."""
        self.count += 1
        if len(self.first) < _KEPT:
            self.first.append(sentence)

    def check(self, name: str, looked_at: int, refusals: Refusals | None = None) -> Check:
        """The result. A line that cannot be read may hide a leak, and makes the check unproven."""
        unproven = ""
        if refusals is not None and refusals.total:
            unproven = f"{refusals.total} lines cannot be read, the first: {refusals.sentences[0]}"
        return Check(name, looked_at, self.count, tuple(self.first), unproven)
