"""Progress that remembers what was reported."""

from indexer.reasoning.run import Estimate
from indexer.reasoning.step import Step, StepReport


class RecordedProgress:
    """Keeps the names of the tasks, and the count of each advance."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.counts: list[int] = []

    def start(self, task: str, total: int | None = None) -> None:
        self.tasks.append(task)

    def advance(self, count: int = 1) -> None:
        self.counts.append(count)

    def estimated(self, step: Step, estimate: Estimate) -> None:
        pass

    def written(self, step: Step, report: StepReport) -> None:
        pass
