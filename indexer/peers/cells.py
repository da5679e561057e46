"""The cells of a benchmark: so many users at once, so many candidates each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, slots=True)
class Load:
    """What a request of one peer with so many candidates needs, by a dry run."""

    calls: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One peer with `users` requests at the same time and `candidates` in each.

    measured: False for figures that are extrapolated. requests: how many were measured. cold_s: the
    first request of a fresh connection; p50_s, p95_s: of the others, or of all at once. wall_s:
    from the first request to the last answer. calls, tokens and cost are those of one request.
    """

    peer: str
    users: int
    candidates: int
    measured: bool
    requests: int = 0
    cold_s: float | None = None
    p50_s: float | None = None
    p95_s: float | None = None
    wall_s: float | None = None
    calls: float = 0.0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    cost_usd: float | None = None
    failed_share: float | None = None
    note: str = ""

    @property
    def tokens(self) -> float:
        """Tokens of one request, in and out."""
        return self.prompt_tokens + self.completion_tokens


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """(p50, p95)."""
    low, high = np.quantile(np.array(seconds), [0.5, 0.95])
    return float(low), float(high)


def extrapolated(
    peer: str, users: int, candidates: int, known: Sequence[Cell], loads: Mapping[int, Load]
) -> Cell:
    """A cell from measured ones of the same peer; empty, with a note, if none was measured.

    A request takes time in proportion to its tokens. Of several users each waits for the others,
    as far as the measured cell with most users did.
    """
    if not known:
        return Cell(peer, users, candidates, measured=False, note="nothing could be measured")
    singles = [one for one in known if one.users == 1] or list(known)
    base = min(singles, key=lambda one: abs(one.candidates - candidates))
    ratio = loads[candidates].tokens / max(1e-9, loads[base.candidates].tokens)
    one_s = (base.p50_s or 0.0) * ratio
    shares = speedup(known)
    wall_s = one_s if users == 1 else users * one_s / min(users, shares)
    p50_s = one_s if users == 1 else wall_s / 2
    p95_s = (base.p95_s or 0.0) * ratio if users == 1 else 0.95 * wall_s
    calls = base.calls * loads[candidates].calls / max(1e-9, loads[base.candidates].calls)
    note = f"from {base.candidates} candidates"
    if users > 1:
        note += f", {shares:.1f} requests at a time" if shares > 1 else ", one after the other"
    return replace(
        base,
        users=users,
        candidates=candidates,
        measured=False,
        requests=0,
        cold_s=None if base.cold_s is None else base.cold_s * ratio,
        p50_s=p50_s,
        p95_s=p95_s,
        wall_s=wall_s,
        calls=calls,
        prompt_tokens=base.prompt_tokens * ratio,
        completion_tokens=base.completion_tokens * ratio,
        cost_usd=None if base.cost_usd is None else base.cost_usd * ratio,
        note=note,
    )


def speedup(known: Sequence[Cell]) -> float:
    """How many requests an endpoint works on at once, by the measured cell with most users."""
    most = max(known, key=lambda one: one.users)
    single = [o for o in known if o.users == 1 and o.candidates == most.candidates]
    if most.users == 1 or not single or not most.wall_s or not single[0].p50_s:
        return 1.0
    return max(1.0, most.users * single[0].p50_s / most.wall_s)
