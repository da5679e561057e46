"""A run of `p4r reason` builds each question and renders each prompt once."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devtools.scripted_llm import ScriptedLLM
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.ledger import Ledger, request_key
from indexer.llm import LLM
from indexer.prompts import Domain, Prompt
from indexer.reasoning import run
from indexer.reasoning.alignment_targets import AlignmentOptions
from indexer.reasoning.questions import Questions
from indexer.reasoning.step import Question, Sources
from p4r_qdrant.settings import LLMSettings
from tests.support.obliging_llm import obliging
from tests.support.paths import BOOKSHOP
from tests.support.progress import RecordedProgress

ARTIFACTS = ("summaries", "aspects", "personas", "alignments")


@dataclass
class Work:
    """What a run did."""

    asked: int
    renders: Counter[tuple[str, str]]
    """By (template, material)."""
    builds: Counter[str]
    """Passes over the questions of a step."""


@pytest.fixture
def run_once(tmp_path: Path) -> Iterator[Callable[[], Work]]:
    """Run all steps over the bookshop, in the same folder each time, and count."""
    with ScriptedLLM(obliging) as server:

        def counted() -> Work:
            work = Work(-len(server.calls), Counter(), Counter())
            with pytest.MonkeyPatch.context() as patch:
                count(work, patch)
                reason(server, tmp_path)
            work.asked += len(server.calls)
            return work

        yield counted


def count(work: Work, patch: pytest.MonkeyPatch) -> None:
    render = Domain.render

    def counting_render(domain: Domain, step: str, *, material: str, **more: Any) -> Prompt:
        work.renders[step, material] += 1
        return render(domain, step, material=material, **more)

    def counting(build: Callable[[Any], Iterator[Question]]) -> Callable[[Any], Iterator[Question]]:
        def questions(step: Any) -> Iterator[Question]:
            work.builds[step.name] += 1
            return build(step)

        return questions

    patch.setattr(Domain, "render", counting_render)
    for kind in run.STEPS.values():
        patch.setattr(kind, "questions", counting(kind.questions))


def reason(server: ScriptedLLM, output: Path) -> None:
    items, reviews, splits = (BOOKSHOP / f"{name}.jsonl" for name in ("items", "reviews", "splits"))
    folder = run.gather(items, reviews, splits, output)
    settings = LLMSettings(base_url=server.url)
    steps = run.steps(
        list(run.STEPS),
        Sources(folder, Domain.load("books"), settings),
        Refusals(),
        AlignmentOptions(),
    )

    async def go() -> None:
        with Ledger(folder.path / "ledger") as ledger:
            async with LLM(settings, ledger) as llm:
                await run.reason(steps, llm, ledger, RecordedProgress())

    asyncio.run(go())


def test_each_prompt_is_rendered_once(run_once: Callable[[], Work]) -> None:
    """It was three times: to estimate, to ask, and to write."""
    first, again = run_once(), run_once()
    assert (first.asked, again.asked) == (first.renders.total(), 0)
    assert first.asked > 200
    assert first.renders == again.renders
    assert set(first.renders.values()) == {1}
    assert first.builds == again.builds == dict.fromkeys(ARTIFACTS, 1)


def test_a_large_catalogue_is_streamed_and_renders_again_only_what_it_asks(
    run_once: Callable[[], Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.reasoning.questions.HELD_CHARACTERS", 0)
    first = run_once()
    written = {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in ARTIFACTS}
    again = run_once()
    assert set(first.renders.values()) == {2}, "once for the estimate, once to be sent"
    assert set(again.renders.values()) == {1}
    assert (first.asked, again.asked) == (len(first.renders), 0)
    monkeypatch.undo()
    run_once()
    for name, content in written.items():
        assert (tmp_path / f"{name}.jsonl").read_bytes() == content


def test_the_keys_of_existing_ledgers_stay(tmp_path: Path) -> None:
    """A prompt rendered late has the key that it always had."""
    (tmp_path / "domain.toml").write_text(
        'item = "book"\nperson = "reader"\n[[slots]]\nname = "taste"\nasks = "what they like"\n'
    )
    (tmp_path / "summary.md").write_text("Describe the $item in $language.\n---\n$material\n")
    (tmp_path / "items.jsonl").write_text('{"item_id": "b1", "title": "Salt"}\n')
    domain = Domain.load(f"{tmp_path}/")
    [step] = run.steps(
        ["summaries"],
        Sources(ArtifactFolder(tmp_path), domain, LLMSettings(model="m")),
        Refusals(),
        AlignmentOptions(per_user=1),
    )
    expected = request_key(
        template="summaries",
        content=[
            "Describe the book in the language of the material.",
            "title: Salt",
            {
                "type": "object",
                "properties": {"summary": {"type": "string"}},
                "required": ["summary"],
                "additionalProperties": False,
            },
        ],
        model="m",
        parameters={"temperature": 0.0, "max_tokens": 400},
    )
    questions = Questions(step)
    assert [one.key for one in questions.requests()] == [expected]
    assert [one.key for question in step.questions() for one in question.requests] == [expected]
