"""Why requests of a step have no usable answer: the reasons, with counts and examples."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from indexer.llm import Answer

_VARIES = re.compile(r"'[^']*'|\"[^\"]*\"|\d[\d,.]*")


def reason_of(answer: Answer) -> str:
    """Why an answer cannot be used: its last problem."""
    return answer.problems[-1] if answer.problems else "no answer"


def kind_of(reason: str) -> str:
    """The same text for reasons that differ only in numbers or quotations."""
    return _VARIES.sub("...", reason)


@dataclass
class Failures:
    """The failed requests of one step. `final` ones are not asked again by another run."""

    total: int = 0
    final: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _examples: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, answer: Answer) -> None:
        """Count a failed request; reasons that differ only in numbers or quotations are one."""
        reason = reason_of(answer)
        kind = kind_of(reason)
        self.total += 1
        self.final += answer.final
        self._counts[kind] += 1
        place = ", ".join(f"{name} {value!r}" for name, value in answer.request.about.items())
        self._examples.setdefault(kind, (reason, place))

    def commonest(self, most: int = 5) -> list[tuple[int, str, str]]:
        """(count, reason, the ids of a record for which it was so) of the commonest reasons."""
        return [(count, *self._examples[kind]) for kind, count in self._counts.most_common(most)]

    def sentence(self) -> str:
        """The commonest reason, in words."""
        (count, reason, _), *others = self.commonest()
        return f"{reason} ({count:,} of {self.total:,})" if others else reason
