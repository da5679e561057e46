"""`p4r add`: what arrives is reasoned on, encoded and in the index; killed anywhere, paid once."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from devtools.scripted_llm import Call, Reply, ScriptedLLM, fails, says
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.journal import Journal
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ARRIVALS
from indexer.artifacts.opening import MAX_LINE, TOO_LONG
from indexer.indexing.items import ItemIndexer
from indexer.ledger import Ledger
from indexer.llm import LLM, LLMRefusedError
from indexer.prompts import Domain
from indexer.reasoning import run
from indexer.reasoning.alignment_targets import AlignmentOptions
from indexer.reasoning.item_steps import item_steps
from indexer.reasoning.step import Sources
from indexer.updates.add import Added, StreamingIndexer
from indexer.updates.inbox import incoming
from indexer.updates.item_reasoning import ItemReasoner
from p4r_qdrant.settings import LLMSettings
from tests.support import warm
from tests.support.engines import embedded, opened
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import read
from tests.support.obliging_llm import obliging
from tests.support.paths import BOOKSHOP, ROOT, copy_bookshop
from tests.support.progress import RecordedProgress
from tests.support.reviewing import decide, in_review

MADE = ("summaries", "aspects", "personas")


def bookshop(name: str) -> list[dict[str, Any]]:
    return read(BOOKSHOP / f"{name}.jsonl")


def as_lines(records: Iterable[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(one).encode() + b"\n" for one in records]


ITEMS = bookshop("items")[:5]
KNOWN = {one["item_id"] for one in ITEMS}
REVIEWS = [
    review
    for item in ITEMS
    for review in [one for one in bookshop("reviews") if one["item_id"] == item["item_id"]][:3]
]
"""Three of each: the scripted model writes a persona for each of the first four."""
ALL = as_lines([*ITEMS, *REVIEWS])


class Shop:
    """One artifact folder, its index, and what was told of it."""

    def __init__(self, path: Path, llm: ScriptedLLM) -> None:
        self.path = path
        self.llm = llm
        self.encoder = HashEncoder()
        self.told: list[Added] = []
        self.refusals = Refusals()
        path.mkdir(exist_ok=True)

    def add(self, lines: Iterable[bytes], settle_s: float = 0.0, again: str = "") -> list[Added]:
        """Run to the end of the input, and reason on one item again; what was told of each item."""
        self.told = []
        self.refusals = Refusals()
        settings = LLMSettings(base_url=self.llm.url, attempts=2)
        folder = ArtifactFolder(self.path)

        async def go() -> None:
            async with LLM(settings, ledger) as llm:
                sources = Sources(folder, Domain.load("books"), settings)
                await StreamingIndexer(
                    ItemReasoner(
                        sources, journal, ledger, llm, item_steps(sources, self.refusals), index
                    ),
                    ItemIndexer(self.encoder, index, self.refusals),
                    settle_s=settle_s,
                    reported=self.told.append,
                ).run(iter(lines))

        with (
            Ledger(self.path / "ledger") as ledger,
            Journal(folder) as journal,
            opened(embedded(self.path.with_suffix(".index")), self.encoder.dimension) as index,
        ):
            if again:
                journal.ask_again(again)
            asyncio.run(go())
        return self.told

    def indexed(self) -> dict[str, list[str]]:
        """The personas' names in the index, by item."""
        with opened(embedded(self.path.with_suffix(".index")), self.encoder.dimension) as index:
            return {item[0].item_id: [one.name for one in item] for item in index.items()}

    def artifacts(self) -> dict[str, list[str]]:
        """The lines of each artifact, sorted."""
        return {
            name: sorted((self.path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
            for name in MADE
        }


@pytest.fixture
def shop(tmp_path: Path, llm: ScriptedLLM) -> Shop:
    return Shop(tmp_path / "shop", llm)


def asked(llm: ScriptedLLM) -> Counter[str]:
    """How often each prompt was sent."""
    return Counter(call.user for call in llm.calls)


def steps(calls: Iterable[Call]) -> list[str]:
    return [call.body["response_format"]["json_schema"]["name"] for call in calls]


def test_all_that_arrives_is_in_the_index_as_if_reasoned_in_bulk(
    shop: Shop, llm: ScriptedLLM, tmp_path: Path
) -> None:
    told = shop.add(ALL)
    assert {one.item_id for one in told} == KNOWN
    assert not any(one.problem for one in told)
    personas = {one["item_id"]: one["personas"] for one in read(shop.path / "personas.jsonl")}
    assert shop.indexed() == {item: [p["name"] for p in own] for item, own in personas.items()}
    assert not (shop.path / ARRIVALS).exists()
    before = len(llm.calls)
    bulk = tmp_path / "bulk"
    settings = LLMSettings(base_url=llm.url)
    folder = run.gather(shop.path / "items.jsonl", shop.path / "reviews.jsonl", None, bulk)
    shutil.copytree(shop.path / "ledger", bulk / "ledger")
    chosen = run.steps(
        list(MADE),
        Sources(folder, Domain.load("books"), settings),
        Refusals(),
        AlignmentOptions(per_user=1),
    )

    async def go() -> None:
        with Ledger(bulk / "ledger") as ledger:
            async with LLM(settings, ledger) as opened_llm:
                await run.reason(chosen, opened_llm, ledger, RecordedProgress())

    asyncio.run(go())
    assert len(llm.calls) == before, "the same prompts, so nothing is asked"
    assert shop.artifacts() == Shop(bulk, llm).artifacts()


def test_the_same_again_changes_nothing(shop: Shop, llm: ScriptedLLM) -> None:
    shop.add(ALL)
    before, content = len(llm.calls), shop.artifacts()
    encoded = len(shop.encoder.encoded)
    assert shop.add(ALL) == []
    assert len(llm.calls) == before
    assert len(shop.encoder.encoded) == encoded
    assert shop.artifacts() == content


def test_a_burst_for_one_item_costs_one_set_of_personas(shop: Shop, llm: ScriptedLLM) -> None:
    item = ITEMS[0]
    own = [one for one in bookshop("reviews") if one["item_id"] == item["item_id"]]
    assert len(own) > 5
    shop.add(as_lines([item, *own]), settle_s=5.0)  # the end of the input settles all
    assert steps(llm.calls).count("personas") == 1


def test_a_new_review_is_reasoned_on_alone_and_voids_the_alignments_of_its_item(
    shop: Shop, llm: ScriptedLLM
) -> None:
    shop.add(ALL)
    item = ITEMS[0]["item_id"]
    aligned = [
        {"user_id": "u", "item_id": one, "persona_id": f"{one}_P1", "justification": "J"}
        for one in sorted(KNOWN)
    ]
    path = shop.path / "alignments.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in aligned), encoding="utf-8")
    others = {one["item_id"]: one for one in read(shop.path / "personas.jsonl")}
    before = len(llm.calls)
    review = {"user_id": "new", "item_id": item, "rating": 5, "timestamp": 1_760_000_000}
    text = "Read it on the night bus, twice, and gave it to my sister."
    (told,) = shop.add(as_lines([review | {"title": "", "text": text}]))
    assert told.item_id == item
    assert told.written
    assert steps(llm.calls[before:]) == ["aspects", "personas"]
    for one in read(shop.path / "personas.jsonl"):
        assert (one == others[one["item_id"]]) == (one["item_id"] != item)
    assert [one["item_id"] for one in read(path)] == sorted(KNOWN - {item})


def test_an_unusable_answer_to_a_remark_leaves_the_earlier_one(
    shop: Shop, llm: ScriptedLLM
) -> None:
    shop.add(ALL)
    item, before = ITEMS[0]["item_id"], shop.indexed()
    decide(shop.path, "ask", item, next(iter(in_review(shop.path, item))), remark="Less bread.")

    def sulking(call: Call) -> Reply:
        return says("nonsense") if "Less bread." in str(call.body) else obliging(call)

    llm.script = sulking
    (told,) = shop.add([], again=item)
    assert (told.problem, told.written) == ("", False)
    assert "the answer without the remark serves" in told.notice
    assert shop.indexed() == before
    asked = next(one for one in in_review(shop.path, item).values() if one.state == "asked")
    assert asked.history[0].remark == "Less bread.", "the remark is not lost"


def test_the_policy_of_the_publish_holds(shop: Shop) -> None:
    shop.add(ALL[:2])
    with opened(embedded(shop.path.with_suffix(".index")), shop.encoder.dimension) as index:
        index.record(policy="approved-only")
    first, second = (json.loads(line)["item_id"] for line in ALL[:2])
    names = {one: list(in_review(shop.path, one)) for one in (first, second)}
    decide(shop.path, "approve", first, names[first][0])
    before = shop.indexed()
    review = {
        "user_id": "new",
        "rating": 5,
        "timestamp": 1_760_000_000,
        "title": "",
        "text": "Read it on the night bus, twice, and gave it to my sister.",
    }
    told = shop.add(as_lines([review | {"item_id": one} for one in (first, second)]))
    assert [(one.is_withheld, one.withheld > 0) for one in told] == [(True, True)] * 2, told
    assert shop.indexed() == {first: before[first][:1]}, "what is approved stays, and no other"


def test_changed_metadata_and_a_changed_review_take_the_place_of_the_old(
    shop: Shop, llm: ScriptedLLM
) -> None:
    shop.add(ALL)
    item = ITEMS[0] | {"description": "A pamphlet on the keeping of geese."}
    review = next(one for one in REVIEWS if one["item_id"] == item["item_id"])
    changed = review | {"text": "On second thought it is a fine companion for long ferry rides."}
    before = len(llm.calls)
    shop.add(as_lines([item, changed]))
    assert steps(llm.calls[before:]) == ["summaries", "aspects", "personas"]
    assert read(shop.path / "items.jsonl")[0]["description"] == item["description"]
    key = (review["user_id"], review["item_id"])
    found = [
        one
        for name in ("reviews", "aspects")
        for one in read(shop.path / f"{name}.jsonl")
        if (one["user_id"], one["item_id"]) == key
    ]
    assert len(found) == 2
    assert found[0]["text"] == changed["text"]
    assert "ferry rides" in json.dumps(found[1])


def test_artifacts_from_elsewhere_stay_and_are_not_paid_for_again(
    shop: Shop, llm: ScriptedLLM
) -> None:
    copy_bookshop(shop.path)
    before = {name: (shop.path / f"{name}.jsonl").read_bytes() for name in MADE}
    review = {"user_id": "new", "item_id": "salt-orchard", "rating": 4, "timestamp": 1_760_000_000}
    shop.add(
        as_lines([review | {"title": "", "text": "I read it aloud to the whole ward, slowly."}])
    )
    assert "summaries" not in steps(llm.calls)
    held_out = ArtifactFolder(shop.path).held_out()
    known = {(one["user_id"], one["item_id"]) for one in bookshop("aspects")}
    unknown = [
        one
        for one in bookshop("reviews")
        if one["item_id"] == "salt-orchard"
        and (one["user_id"], one["item_id"]) not in known | held_out
    ]
    assert steps(llm.calls).count("aspects") == 1 + len(unknown)
    for name in MADE:
        old, new = before[name].splitlines(), (shop.path / f"{name}.jsonl").read_bytes()
        kept = [line for line in old if name != "personas" or b'"salt-orchard"' not in line]
        assert all(line in new for line in kept), name


def test_held_out_reviews_are_kept_and_never_shown(shop: Shop, llm: ScriptedLLM) -> None:
    review = next(one for one in REVIEWS if len(one["text"]) > 60)
    split = {"user_id": review["user_id"], "test_item": review["item_id"], "valid_item": None}
    (shop.path / "splits.jsonl").write_text(json.dumps(split) + "\n", encoding="utf-8")
    shop.add(ALL)
    assert not any(review["text"][:60] in call.user for call in llm.calls)
    assert len(read(shop.path / "reviews.jsonl")) == len(REVIEWS)


def test_a_review_may_come_before_its_item(shop: Shop) -> None:
    item, review = ITEMS[0], REVIEWS[0]
    assert review["item_id"] == item["item_id"] or KNOWN
    review = next(one for one in REVIEWS if one["item_id"] == item["item_id"])
    (told,) = shop.add(as_lines([review]))
    assert "the item is not known yet" in told.problem
    (told,) = shop.add(as_lines([item]))
    assert (told.reviews, told.problem) == (1, "")
    assert list(shop.indexed()) == [item["item_id"]]


def test_what_is_no_record_is_refused_and_the_others_go_on(shop: Shop) -> None:
    bad = [b"{\n", b"[]\n", b'{"item_id": ""}\n', b"\xff\xfe\n", b'{"user_id": "u"}\n', b"", b"\n"]
    shop.add([*bad, *as_lines(ITEMS[:1])])
    assert shop.refusals.counts == {"broken record": 6}
    assert shop.refusals.sentences[-1] == f"line 6: {TOO_LONG}"
    assert len(shop.told) == 1


def test_an_item_the_llm_cannot_do_keeps_what_it_had(shop: Shop, llm: ScriptedLLM) -> None:
    shop.add(ALL)
    before = shop.indexed()

    def sulking(call: Call) -> Reply:
        (step,) = steps([call])
        return says({"personas": []}) if step == "personas" else obliging(call)

    llm.script = sulking
    item = ITEMS[0]["item_id"]
    review = {"user_id": "new", "item_id": item, "rating": 5, "timestamp": 1_760_000_000}
    text = "Read it on the night bus, twice, and gave it to my sister."
    (told,) = shop.add(as_lines([review | {"title": "", "text": text}]))
    assert "no usable personas" in told.problem
    assert shop.indexed() == before
    assert item in {one["item_id"] for one in read(shop.path / "personas.jsonl")}


def test_where_the_endpoint_refuses_nothing_is_lost(shop: Shop, llm: ScriptedLLM) -> None:
    count = 0

    def refusing(call: Call) -> Reply:
        nonlocal count
        count += 1
        return obliging(call) if count < 12 else fails(401, "no more")

    llm.script = refusing
    with pytest.raises(LLMRefusedError):
        shop.add(ALL)
    llm.script = obliging
    shop.add([])  # the input is not there any more
    assert set(shop.indexed()) == KNOWN
    assert len(read(shop.path / "reviews.jsonl")) == len(REVIEWS)


def test_a_torn_journal_is_taken_up_to_where_it_is_whole(shop: Shop) -> None:
    arrival = json.dumps({"item": ITEMS[0]})
    (shop.path / ARRIVALS).write_text(arrival + "\n" + arrival[:40], encoding="utf-8")
    (told,) = shop.add(as_lines(ITEMS[1:2])[:0])
    assert told.item_id == ITEMS[0]["item_id"]


# --- the command -------------------------------------------------------------------------------


def started(folder: Path, llm: ScriptedLLM, *options: str) -> subprocess.Popen[bytes]:
    return warm.Popen(
        [
            *(sys.executable, "-W", "error", "-m", "tests.support.cli_without_model"),
            *("add", *options, "--artifacts", str(folder / "out")),
            *("--domain", "books", "--settle", "0"),
        ],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "P4R_LLM__BASE_URL": llm.url,
            "P4R_LLM__CONCURRENCY": "2",
        },
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_growing_file_is_followed_until_ctrl_c(tmp_path: Path, llm: ScriptedLLM) -> None:
    source = tmp_path / "arrivals.log"
    first, second = as_lines(ITEMS[:2])
    source.write_bytes(first + second[:30])
    process = started(tmp_path, llm, str(source), "--follow")
    assert process.stdout is not None
    assert process.stdout.readline().startswith(ITEMS[0]["item_id"].encode())
    with source.open("ab") as file:
        file.write(second[30:])
    assert process.stdout.readline().startswith(ITEMS[1]["item_id"].encode())
    source.write_bytes(as_lines(ITEMS[2:3])[0])  # rotated
    assert process.stdout.readline().startswith(ITEMS[2]["item_id"].encode())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    assert len(read(tmp_path / "out" / "personas.jsonl")) == 3


def test_a_second_run_on_the_folder_is_refused(tmp_path: Path, llm: ScriptedLLM) -> None:
    (tmp_path / "out").mkdir()
    with Ledger(tmp_path / "out" / "ledger"):
        process = started(tmp_path, llm)
        _, errors = process.communicate(b"")
    assert process.returncode == 2
    assert b"another run is writing" in errors


# --- lines -------------------------------------------------------------------------------------


def test_a_line_that_is_far_too_long_comes_as_an_empty_one(tmp_path: Path) -> None:
    source = tmp_path / "lines"
    source.write_bytes(b"a\n" + b"x" * (2 * MAX_LINE + 7) + b"\nb\nc")
    assert list(incoming(source, follow=False)) == [b"a\n", b"", b"b\n", b"c"]


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path, llm: ScriptedLLM) -> None:
    process = started(tmp_path, llm, "nowhere.jsonl")
    _, errors = process.communicate(b"")
    assert process.returncode == 2
    assert b"p4r: nowhere.jsonl cannot be read: No such file or directory" in errors
