"""The budget of a process: what is spent, what open calls may cost, and the ceilings."""

from __future__ import annotations

import json
import time
from dataclasses import replace

from indexer.ledger import Ledger
from indexer.llm.capabilities import Capabilities, RetryPrompt
from indexer.llm.errors import BudgetReachedError
from indexer.llm.request import Request, Tally, Usage, estimate_tokens, usage_of
from indexer.llm.wire import Completion
from p4r_qdrant.settings import LLMSettings
from p4r_qdrant.settings.llm import STEPS, section_of

HOUR_S = 3600


class Budget:
    """The budget of a process, for all its LLMs.

    With `ceiling_days` it counts against the ceilings what the ledger has recorded in that time.
    `tallies` holds the counts of each step that was asked about.
    """

    def __init__(self, settings: LLMSettings, ledger: Ledger) -> None:
        self.tallies: dict[str, Tally] = {}
        self.has_ceiling = settings.max_tokens is not None or settings.max_cost_usd is not None
        self._settings = settings
        self._reserved = Usage()
        self._by_hour: dict[int, Usage] = {}
        if self.has_ceiling and settings.ceiling_days is not None:
            self._read(ledger)

    def _read(self, ledger: Ledger) -> None:
        """Count what the ledger has recorded since `ceiling_days`, in hours."""
        first = self._first_hour()
        for step in ledger.steps():
            for record in ledger.entries(step, superseded=True):
                hour = int(record.get("time", 0)) // HOUR_S
                if hour >= first and "calls" in record:
                    self._count(hour, self._priced(step, usage_of(record)))

    def _priced(self, step: str, usage: Usage) -> Usage:
        """The usage with a cost, by the prices of now where it was not known."""
        if usage.cost_usd is not None or section_of(step) not in STEPS:
            return usage
        cost = self._settings.of(step).cost(usage.prompt_tokens, usage.completion_tokens)
        return replace(usage, cost_usd=cost)

    def _count(self, hour: int, spent: Usage) -> None:
        self._by_hour[hour] = self._by_hour.get(hour, Usage()) + spent

    def _first_hour(self) -> int:
        return int(time.time() - 86_400 * (self._settings.ceiling_days or 0)) // HOUR_S

    @property
    def counted(self) -> Usage:
        """What counts against the ceilings."""
        if self._settings.ceiling_days is None:
            return self.usage
        first = self._first_hour()
        return sum((one for hour, one in self._by_hour.items() if hour >= first), Usage())

    @property
    def usage(self) -> Usage:
        """What is spent so far, over all steps."""
        return sum((tally.usage for tally in self.tallies.values()), Usage())

    def tally(self, step: str) -> Tally:
        """The counts of a step."""
        return self.tallies.setdefault(step, Tally())

    def spend(self, request: Request, completion: Completion, factor: float = 1.0) -> Usage:
        """Count what a completion cost, at `factor` times the price.

        Tokens are estimated if the endpoint does not report them.
        """
        tokens = completion.tokens or (
            estimate_tokens(request.system + request.user),
            estimate_tokens(completion.thought + completion.text),
        )
        spent = self._used(request, 1, tokens, factor)
        tally = self.tally(request.step)
        tally.usage = tally.usage + spent
        self._count(int(time.time()) // HOUR_S, spent)
        return spent

    def worst(
        self,
        request: Request,
        retry: RetryPrompt,
        capabilities: Capabilities,
        factor: float = 1.0,
    ) -> Usage:
        """The most that one call can use."""
        text = f"{request.system}{request.user}{json.dumps(request.schema)}{retry.completion}"
        tokens = estimate_tokens(text) + 100, capabilities.limit(request, retry)
        return self._used(request, 0, tokens, factor)

    def exceeded(self, worst: Usage) -> str:
        """The ceiling that one more call might exceed, in words; "" if none."""
        after = self.counted + self._reserved + worst
        tokens, cost = self._settings.max_tokens, self._settings.max_cost_usd
        if tokens is not None and after.tokens > tokens:
            return f"the {tokens:,} tokens of P4R_LLM__MAX_TOKENS"
        if cost is not None and (after.cost_usd or 0) > cost:
            return f"the {cost:g} USD of P4R_LLM__MAX_COST_USD"
        return ""

    def reserve(self, worst: Usage) -> None:
        """Reserve what a call, or a batch of calls, may use."""
        self._reserved = self._reserved + worst

    def release(self, worst: Usage) -> None:
        """Release what was reserved for a call or a batch that has ended."""
        self._reserved = self._reserved + _negative(worst)

    def _used(self, request: Request, calls: int, tokens: tuple[int, int], factor: float) -> Usage:
        cost = self._settings.of(request.step).cost(*tokens)
        return Usage(calls, *tokens, None if cost is None else cost * factor)

    def reached(self, ceiling: str) -> BudgetReachedError:
        """The error for a ceiling that is reached."""
        spent, days = self.counted, self._settings.ceiling_days
        who = "this run" if days is None else f"this folder in the last {days:g} days"
        cost = "" if spent.cost_usd is None else f", {spent.cost_usd:.4f} USD"
        return BudgetReachedError(
            f"the next call might exceed {ceiling}: {who} has used "
            f"{spent.tokens:,} tokens{cost}; all answers are kept, run again to continue"
        )


def _negative(usage: Usage) -> Usage:
    cost = None if usage.cost_usd is None else -usage.cost_usd
    return Usage(-usage.calls, -usage.prompt_tokens, -usage.completion_tokens, cost)
