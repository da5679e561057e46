"""`p4r reason` from raw reviews to alignments, with a scripted LLM behind the real protocol."""

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from devtools.scripted_llm import Call, Reply, ScriptedLLM, fails, says
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.audit.run import audit
from indexer.ledger import Ledger
from indexer.llm import LLM
from indexer.prompts import Domain
from indexer.reasoning import run
from indexer.reasoning import sanitizing as material
from indexer.reasoning.alignment_targets import AlignmentOptions
from indexer.reasoning.step import Sources
from p4r_qdrant.encoder import loading
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.records import Alignment, Aspects, ItemPersonas, Summary
from p4r_qdrant.resources import resource
from p4r_qdrant.settings import LLMSettings
from tests.support.command_line import Run
from tests.support.injections import INJECTIONS
from tests.support.jsonl import read, write
from tests.support.obliging_llm import obliging
from tests.support.paths import BOOKSHOP, copy_bookshop
from tests.support.progress import RecordedProgress
from tests.support.reasoning import ARTIFACTS, Reason, owned, p4r


def held_out() -> set[tuple[str, str]]:
    return {
        (one["user_id"], item)
        for one in read(BOOKSHOP / "splits.jsonl")
        for item in (one["test_item"], one["valid_item"])
    }


def test_the_whole_of_it(reason: Reason, llm: ScriptedLLM, tmp_path: Path) -> None:
    done = reason()
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    summaries, aspects, personas, alignments = (read(out / f"{one}.jsonl") for one in ARTIFACTS)
    assert len(summaries) == 24
    assert [Summary.model_validate(one).item_id for one in summaries] == [
        one["item_id"] for one in read(BOOKSHOP / "items.jsonl")
    ]
    reviewed_pairs = {(one["user_id"], one["item_id"]) for one in aspects}
    assert len(reviewed_pairs) == len(aspects) > 90
    assert not reviewed_pairs & held_out()
    assert all(Aspects.model_validate(one) for one in aspects)
    for one in map(ItemPersonas.model_validate, personas):
        evidence = {user for persona in one.personas for user in persona.evidence}
        assert {(user, one.item_id) for user in evidence} <= reviewed_pairs, (
            "evidence that does not exist"
        )
        reviewed = [user for user, item in reviewed_pairs if item == one.item_id]
        assert (1 if len(reviewed) < 2 else 2) <= len(one.personas) <= 7
        assert all(persona.evidence for persona in one.personas) or not reviewed
    own = {one["item_id"]: {p["persona_id"] for p in one["personas"]} for one in personas}
    assert alignments
    for aligned in map(Alignment.model_validate, alignments):
        assert (aligned.user_id, aligned.item_id) not in held_out()
        assert aligned.persona_id in own[aligned.item_id]
    prompts = "\n".join(call.user for call in llm.calls)
    for review in read(BOOKSHOP / "reviews.jsonl"):
        if (review["user_id"], review["item_id"]) in held_out() and len(review["text"]) > 60:
            assert review["text"][:60] not in prompts, "a held-out review was shown to the LLM"
    folder = ArtifactFolder(out)
    refusals = Refusals()
    assert len(list(folder.index_rows("books", refusals))) == 24
    assert refusals.total == 0


def test_run_again_it_asks_nothing_and_writes_the_same(
    reason: Reason, llm: ScriptedLLM, tmp_path: Path
) -> None:
    reason()
    before = {name: (tmp_path / "out" / f"{name}.jsonl").read_bytes() for name in ARTIFACTS}
    asked = len(llm.calls)
    again = reason()
    assert again.returncode == 0, again.stderr
    assert len(llm.calls) == asked
    for name, content in before.items():
        assert (tmp_path / "out" / f"{name}.jsonl").read_bytes() == content


def test_killed_on_the_way_it_goes_on(reason: Reason, llm: ScriptedLLM, tmp_path: Path) -> None:
    """Stopped after 60 answers by a refusal, then by kill -9; in the end nothing is asked twice."""
    whole = reason(folder="whole")
    assert whole.returncode == 0, whole.stderr
    seen: dict[str, int] = {}
    limit = 60

    def counting(call: Call) -> Reply:
        if len(seen) >= limit and call.user not in seen:
            return fails(401, "no more")
        seen[call.user] = seen.get(call.user, 0) + 1
        return obliging(call)

    llm.script = counting
    stopped = reason(P4R_LLM__CONCURRENCY="2")
    assert stopped.returncode == 2
    assert sum(line.startswith("p4r: ") for line in stopped.stderr.splitlines()) == 1
    assert "Traceback" not in stopped.stderr
    limit = 10_000
    finished = reason()
    assert finished.returncode == 0, finished.stderr
    assert max(seen.values()) == 1, "an answer was paid for twice"
    for name in ARTIFACTS:
        mine, other = (tmp_path / one / f"{name}.jsonl" for one in ("out", "whole"))
        assert mine.read_bytes() == other.read_bytes()


def test_a_dry_run_asks_nothing_and_says_what_it_would_cost(
    reason: Reason, llm: ScriptedLLM
) -> None:
    prices = {"P4R_LLM__PRICE_INPUT": "1", "P4R_LLM__PRICE_OUTPUT": "2"}
    done = reason("--dry-run", **prices)
    assert done.returncode == 0, done.stderr
    assert not llm.calls
    assert "summaries" in done.stdout
    assert "$" in done.stdout
    assert "once the steps before it have run" in done.stdout


def test_a_new_review_is_asked_about_alone(
    reason: Reason, llm: ScriptedLLM, tmp_path: Path
) -> None:
    reason()
    source = tmp_path / "grown"
    source.mkdir()
    for name in ("items", "reviews", "splits"):
        content = (BOOKSHOP / f"{name}.jsonl").read_text(encoding="utf-8")
        (source / f"{name}.jsonl").write_text(content, encoding="utf-8")
    review = {
        "user_id": "somebody-new",
        "item_id": "beans-mostly",
        "rating": 4.0,
        "timestamp": 1_750_000_000,
        "title": "Good soups",
        "text": "I cooked four of the soups on a camping stove and all of them were fine.",
    }
    with (source / "reviews.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(review) + "\n")
    asked = len(llm.calls)
    done = reason(source=source)
    assert done.returncode == 0, done.stderr
    steps = [call.body["response_format"]["json_schema"]["name"] for call in llm.calls[asked:]]
    assert steps == ["aspects", "personas"]


def test_an_erased_user_is_nowhere_and_only_his_items_are_asked_about_again(
    reason: Reason, llm: ScriptedLLM, tmp_path: Path
) -> None:
    reason()
    out = tmp_path / "out"
    phrases = [
        " ".join(re.findall(r"\w+", one["text"])[:5])
        for one in read(out / "reviews.jsonl")
        if one["user_id"] == "maren-o"
    ]

    def found() -> list[tuple[str, str]]:
        texts = {path.name: path.read_text(encoding="utf-8") for path in out.rglob("*.jsonl")}
        return [
            (n, one) for n, text in texts.items() for one in ("maren-o", *phrases) if one in text
        ]

    assert len({phrase for _, phrase in found()}) > 4
    erased = p4r("erase", "maren-o", "--artifacts", str(out), cwd=tmp_path)
    assert erased.returncode == 0, erased.stderr
    assert found() == []
    asked = len(llm.calls)
    again = reason(source=out)
    assert again.returncode == 0, again.stderr
    asked_about = {
        call.user.partition("Description: ")[2].partition("\n")[0]
        for call in llm.calls[asked:]
        if call.body["response_format"]["json_schema"]["name"] == "personas"
    }
    summaries = {one["item_id"]: one["summary"] for one in read(out / "summaries.jsonl")}
    assert asked_about == {summaries[item] for item in erased.stdout.split()}
    assert found() == []


def test_a_changed_template_asks_its_step_anew_and_says_so_first(
    reason: Reason, llm: ScriptedLLM, tmp_path: Path
) -> None:
    own = tmp_path / "fables"
    shutil.copytree(resource("prompts") / "books", own)
    for name in ("aspects", "personas"):
        shutil.copy(resource("prompts") / "products" / f"{name}.md", own)
    domain = ("--domain", str(own))
    prices = {"P4R_LLM__PRICE_INPUT": "1", "P4R_LLM__PRICE_OUTPUT": "2"}
    first = reason(*domain, **prices)
    assert "summaries: 24 to ask, 0 known, about " in first.stderr
    assert "template has changed" not in first.stderr
    asked = len(llm.calls)
    template = own / "personas.md"
    template.write_text("Be kind. " + template.read_text(encoding="utf-8"), encoding="utf-8")
    dry = reason(*domain, "--dry-run", **prices)
    assert "personas: the template has changed since 20 answers were given" in dry.stdout
    assert len(llm.calls) == asked
    done = reason(*domain, **prices)
    steps = [call.body["response_format"]["json_schema"]["name"] for call in llm.calls[asked:]]
    assert steps == ["personas"] * 20  # four have no reviews, and a template of their own
    announced = [line for line in done.stderr.splitlines() if "to ask" in line]
    assert len(announced) == 1
    assert announced[0].startswith("personas: 20 to ask, 4 known, about ")
    assert "$0.0" in announced[0]
    assert announced[0].endswith("the template has changed since 20 answers were given")


@pytest.mark.parametrize(
    ("more", "settings", "sentence"),
    [
        (["--steps", "poems"], {}, "there is no step 'poems'"),
        (["--profile", "after"], {}, "there is no profile 'after'"),
        (["--strategy", "luck"], {}, "there is no strategy 'luck'"),
        (["--domain", "poems"], {}, "there is no domain 'poems'"),
        ([], {"P4R_LLM__BASE_URL": "https://api.openai.com/v1"}, "no key for OpenAI"),
        ([], {"P4R_LLM__BASE_URL": "nonsense"}, "P4R_LLM"),
    ],
)
def test_mistakes_are_one_sentence(
    reason: Reason, more: list[str], settings: dict[str, str], sentence: str
) -> None:
    done = reason(*more, **settings)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_alignments_by_similarity_ask_nobody(
    p4r: Run,
    remembering_encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """No key, no endpoint, no request; and the audit finds nothing that agrees better."""
    monkeypatch.setattr(loading, "load_encoder", lambda _: remembering_encoder)
    out = copy_bookshop(tmp_path / "out")
    aspects = read(out / "aspects.jsonl")
    write(out, "aspects.jsonl", aspects[: len(aspects) // 3])  # encoding all takes 20 seconds
    (out / "alignments.jsonl").unlink()
    names = ("items", "reviews", "splits")
    command = [
        "reason",
        *(text for one in names for text in (f"--{one}", f"{BOOKSHOP}/{one}.jsonl")),
    ]
    command += ["--domain", "books", "--artifacts", str(out)]
    command += ["--steps", "alignments", "--strategy", "similarity"]
    settings = {
        "P4R_LLM__BASE_URL": "https://api.openai.com/v1",
        "P4R_ENCODER__MODEL": "all-MiniLM-L6-v2",
    }
    estimated = p4r(*command, "--dry-run", **settings)
    assert estimated.code == 0, estimated.err
    assert estimated.out.splitlines()[1].split() == ["alignments", "0", "0", "0", "0", "$0.0000"]
    assert not (out / "alignments.jsonl").exists()
    done = p4r(*command, **settings)
    assert done.code == 0, done.err
    assert "alignments: 74 interactions without aspects" in done.out
    alignments = [Alignment.model_validate(one) for one in read(tmp_path / "out/alignments.jsonl")]
    assert len(alignments) > 20
    reviewed_pairs = {(one["user_id"], one["item_id"]) for one in read(out / "aspects.jsonl")}
    pairs = {(one.user_id, one.item_id) for one in alignments}
    assert pairs <= reviewed_pairs - held_out()
    folder = ArtifactFolder(tmp_path / "out")
    found = audit(folder, lambda: remembering_encoder, Refusals())
    assert found.similarity
    assert found.similarity.agreement
    assert found.similarity.agreement.agreement == 1


def test_an_answer_that_breaks_the_rules_is_asked_again_then_given_up(
    reason: Reason, llm: ScriptedLLM, tmp_path: Path
) -> None:
    """Evidence that does not exist, ten personas, twins: each is told what was wrong."""
    wrong = [
        says({"personas": [_persona("A", ["R99"]), _persona("B", [])]}),
        says({"personas": [_persona(f"N{number}", ["R1"]) for number in range(10)]}),
        says({"personas": [_persona("Twin", ["R1"]), _persona("Twin", ["R2"])]}),
    ]
    corrections: list[str] = []

    def script(call: Call) -> Reply:
        if "Notes:" in call.user and "The Salt Orchard" in call.user.partition("Notes:")[0]:
            corrections.append(call.last)
            return wrong[(len(corrections) - 1) % len(wrong)]
        return obliging(call)

    llm.script = script
    done = reason("--steps", "summaries,aspects,personas")
    assert done.returncode == 0, done.stderr
    assert "salt-orchard" not in {
        one["item_id"] for one in read(tmp_path / "out" / "personas.jsonl")
    }
    assert "cites none of the reviewers" in corrections[1]
    assert "10 personas" in corrections[2]
    assert "1 inputs whose answer is missing" in done.stdout


def _persona(name: str, evidence: list[str]) -> dict[str, Any]:
    texts = {"description": f"{name} reads.", "preference_rationale": f"{name} likes it."}
    return {"name": name, **texts, "evidence": evidence}


def test_an_endpoint_that_does_not_keep_to_the_schemas_choices(
    reason: Reason, llm: ScriptedLLM, tmp_path: Path
) -> None:
    """ "[r1]" is R1, "(b)" is B and "..." is null: none of that is worth asking again."""

    def script(call: Call) -> Reply:
        reply = obliging(call)
        value = json.loads(reply.content or "")
        for persona in value.get("personas", ()):
            if "evidence" in persona:
                persona["evidence"] = [f"[{label.lower()}]" for label in persona["evidence"]]
        if "choice" in value:
            value["choice"] = f"({value['choice'].lower()})"
        for slot in value if call.step == "aspects" else ():
            value[slot] = value[slot] or "..."
        return says(value)

    llm.script = obliging
    assert reason(folder="strict").returncode == 0
    calls, llm.script = len(llm.calls), script
    done = reason()
    assert done.returncode == 0, done.stderr
    assert len(llm.calls) == 2 * calls
    for name in ARTIFACTS:
        mine, other = (tmp_path / one / f"{name}.jsonl" for one in ("out", "strict"))
        assert mine.read_bytes() == other.read_bytes()


def test_the_schemas_bind_counts_and_choices(reason: Reason, llm: ScriptedLLM) -> None:
    assert reason().returncode == 0
    for call in llm.calls:
        schema = call.body["response_format"]["json_schema"]["schema"]
        if call.step == "alignments":
            options = re.findall(r"^([A-Z])\. ", call.user.partition("Options:")[2], re.M)
            assert schema["properties"]["choice"]["enum"] == options
        if call.step == "personas":
            personas = schema["properties"]["personas"]
            notes = re.findall(r"^(R\d+) \(", call.user, re.M)
            assert (personas["minItems"], personas["maxItems"]) == (
                (2, min(7, len(notes) + 1)) if len(notes) > 1 else (1, 2)
            )
            if notes:
                evidence = personas["items"]["properties"]["evidence"]
                assert evidence["items"]["enum"] == notes
                assert evidence["minItems"] == 1


# --- injections --------------------------------------------------------------------------------


def injected(folder: Path) -> Path:
    """Forty books, each with one decent review and one that gives orders."""
    folder.mkdir()
    items, reviews = [], []
    for number, text in enumerate(INJECTIONS):
        item = f"book-{number}"
        items.append({"item_id": item, "title": f"Harbour {number}", "description": "Of boats."})
        good = "A quiet story of boats and weather that I read aloud to my aunt."
        for user, said in ((f"reader-{number}", good), (f"villain-{number}", text)):
            row = {"user_id": user, "item_id": item, "rating": 4, "timestamp": 1_700_000_000}
            reviews.append(row | {"title": "", "text": said})
    for name, rows in (("items", items), ("reviews", reviews), ("splits", [])):
        content = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(content, encoding="utf-8")
    return folder


def test_no_injection_gets_through_to_a_model_that_obeys(
    reason: Reason, llm: ScriptedLLM, tmp_path: Path
) -> None:
    done = reason(source=injected(tmp_path / "source"))
    assert done.returncode == 0, done.stderr
    assert owned(tmp_path / "out") == []
    personas = read(tmp_path / "out" / "personas.jsonl")
    assert len(personas) == 40, "an attack must not cost an item its personas"
    assert "sentences that address a model" in done.stdout


def test_without_the_defence_they_get_through(
    llm: ScriptedLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the test above would prove nothing."""
    for module in ("summaries", "aspects", "personas", "alignments"):
        monkeypatch.setattr(
            f"indexer.reasoning.{module}.problem_with", lambda *_, **__: None, raising=False
        )
    monkeypatch.setattr("indexer.reasoning.aspects.cleaned", lambda text: material.Cleaned(text))
    source = injected(tmp_path / "source")
    folder = run.gather(
        source / "items.jsonl", source / "reviews.jsonl", source / "splits.jsonl", tmp_path / "out"
    )
    settings = LLMSettings(base_url=llm.url)
    chosen = run.steps(
        ["summaries", "aspects", "personas"],
        Sources(folder, Domain.load("books"), settings),
        Refusals(),
        AlignmentOptions(per_user=1),
    )

    async def go() -> None:
        with Ledger(folder.path / "ledger") as ledger:
            async with LLM(settings, ledger) as opened:
                await run.reason(chosen, opened, ledger, RecordedProgress())

    asyncio.run(go())
    assert len(owned(tmp_path / "out")) > 20
