"""From artifacts to an index: what is encoded, what is skipped, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.indexing import items
from indexer.indexing.items import IndexReport, ItemIndexer, index_artifacts
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import write
from tests.support.memory_index import MemoryIndex
from tests.support.progress import RecordedProgress

STAMPS = ("generation", "updated_at")


def item(item_id: str, personas: int = 2, text: str = "text") -> dict[str, Any]:
    return {
        "item_id": item_id,
        "personas": [
            {
                "persona_id": f"{item_id}_P{number}",
                "name": f"Name {number}",
                "description": f"Description {text} {item_id}",
                "preference_rationale": f"This persona appreciates this item because {text}.",
                "evidence": ["u"],
            }
            for number in range(personas)
        ],
    }


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    write(
        tmp_path, "personas.jsonl", [item(f"item-{number}", 1 + number % 7) for number in range(9)]
    )
    summaries = [
        {"item_id": f"item-{number}", "summary": f"About {number}."} for number in range(9)
    ]
    write(tmp_path, "summaries.jsonl", summaries)
    items = [
        {"item_id": f"item-{number}", "title": f"T{number}", "price": number} for number in range(9)
    ]
    write(tmp_path, "items.jsonl", items)
    return tmp_path


def test_an_item_whose_text_is_refused_does_not_stop_the_others(catalogue: Path) -> None:
    index = MemoryIndex()
    report, refusals, _ = run(catalogue, index, HashEncoder(8, cannot="text item-3"))
    assert (report.written, report.refused) == (8, 1)
    assert "personas.jsonl:4: the text 'Name 0. Description text item-3" in refusals.sentences[0]
    assert "item-3" not in set(index.item_ids())


def run(
    catalogue: Path,
    index: MemoryIndex,
    encoder: HashEncoder | None = None,
    domain: str = "books",
) -> tuple[IndexReport, Refusals, HashEncoder]:
    encoder = encoder or HashEncoder(index.metadata.dimension)
    refusals = Refusals()
    report = index_artifacts(
        ArtifactFolder(catalogue), encoder, index, domain=domain, refusals=refusals
    )
    return report, refusals, encoder


def state(index: MemoryIndex) -> dict[str, Any]:
    """Everything an index holds, but for when it was written."""
    return {
        point.id: (
            {name: value for name, value in point.payload.items() if name not in STAMPS},
            point.vector.tolist(),
        )
        for point in index.points.values()
    }


def test_a_catalogue_is_indexed(catalogue: Path) -> None:
    index = MemoryIndex(32)
    report, _, encoder = run(catalogue, index)
    assert report == IndexReport(written=9, unchanged=0, refused=0)
    assert len(index.points) == sum(1 + number % 7 for number in range(9))
    assert len(encoder.encoded) == len(index.points)
    assert encoder.encoded[0] == "Name 0. Description text item-0 Text. About 0."
    [first] = index.get("item-0")
    assert first.fields["item_title"] == "T0"
    assert first.fields["summary"] == "About 0."
    assert first.fields["domain"] == "books"
    assert first.fields["evidence_count"] == 1
    for point in index.points.values():
        own = index.get(point.payload["item_id"])[point.payload["slot"]]
        text = f"{own.name}. {own.description} {own.preference_rationale} {own.fields['summary']}"
        np.testing.assert_allclose(point.vector, encoder.encode_texts([text])[0], atol=1e-6)


def test_what_did_not_change_is_neither_encoded_nor_written(catalogue: Path) -> None:
    index = MemoryIndex(32)
    run(catalogue, index)
    generations = {point.id: point.payload["generation"] for point in index.points.values()}
    report, _, encoder = run(catalogue, index)
    assert report == IndexReport(written=0, unchanged=9, refused=0)
    assert encoder.encoded == []
    assert {one.id: one.payload["generation"] for one in index.points.values()} == generations


@pytest.mark.parametrize("file", ["personas.jsonl", "summaries.jsonl", "items.jsonl"])
def test_what_changed_is_written(file: str, catalogue: Path) -> None:
    index = MemoryIndex(32)
    run(catalogue, index)
    path = catalogue / file
    change = {"personas.jsonl": ("Name 0", "Name X"), "summaries.jsonl": ("About 3", "About X")}
    old, new = change.get(file, ('"price": 3', '"price": 300'))
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace(old, new)
    write(catalogue, file, lines)
    report, _, encoder = run(catalogue, index)
    assert report == IndexReport(written=1, unchanged=8, refused=0)
    assert len(encoder.encoded) == 4
    fresh = MemoryIndex(32)
    run(catalogue, fresh)
    assert state(index) == state(fresh)


def test_another_domain_is_a_change(catalogue: Path) -> None:
    index = MemoryIndex(32)
    run(catalogue, index)
    report, _, _ = run(catalogue, index, domain="products")
    assert report.written == 9


def test_fewer_personas_leave_none_behind(catalogue: Path) -> None:
    index = MemoryIndex(32)
    run(catalogue, index)
    write(catalogue, "personas.jsonl", [item("item-6", 2)])
    assert len(index.get("item-6")) == 7
    assert run(catalogue, index)[0].written == 1
    assert [one.persona_id for one in index.get("item-6")] == ["item-6_P0", "item-6_P1"]
    assert len(index.get("item-5")) == 6, "what the file no longer names stays until removed"


def test_items_that_cannot_be_indexed_are_counted_and_the_others_go_on(catalogue: Path) -> None:
    twice = item("twice", 2)
    twice["personas"][1]["persona_id"] = twice["personas"][0]["persona_id"]
    nameless = item("nameless", 2)
    nameless["personas"][1]["name"] = " "
    rows = [
        item("first"),
        item("none", 0),
        item("eight", 8),
        item("fifty", 50),
        twice,
        nameless,
        "{",
        item("odd"),
        item("deep"),
        item("huge"),
        item("last"),
    ]
    path = write(catalogue, "personas.jsonl", rows)
    odd = '{"item_id": "odd", "price": NaN}'
    deep = '{"item_id": "deep", "x": ' + "[" * 50 + "]" * 50 + "}"
    huge = '{"item_id": "huge", "x": 1' + "0" * 30 + "}"
    write(catalogue, "items.jsonl", [odd, deep, huge])
    index = MemoryIndex(32)
    report, refusals, encoder = run(catalogue, index)
    assert report == IndexReport(written=2, unchanged=0, refused=9)
    assert sorted({one.payload["item_id"] for one in index.points.values()}) == ["first", "last"]
    assert not any(
        "eight" in text or "fifty" in text or "twice" in text for text in encoder.encoded
    )
    told = "\n".join(refusals.sentences)
    for line, said in {
        2: "item 'none' has no personas",
        3: "item 'eight' has 8 personas, at most 7",
        4: "item 'fifty' has 50 personas",
        5: "item 'twice' has the persona id 'twice_P0' twice",
        6: "personas.1.name: ",
        7: "Invalid JSON",
        8: "the field 'price' of item 'odd' is not JSON",
        9: "the field 'x' of item 'deep' is nested deeper",
        10: "the field 'x' of item 'huge' holds a number of more than 64 bits",
    }.items():
        assert f"{path}:{line}: {said}" in told
    again, _, _ = run(catalogue, index)
    assert again == IndexReport(written=0, unchanged=2, refused=9)


def test_more_personas_where_the_settings_allow_them(catalogue: Path) -> None:
    write(catalogue, "personas.jsonl", [item("eight", 8)])
    assert run(catalogue, MemoryIndex(32, max_personas=8))[0].written == 1


@pytest.mark.parametrize("chunk", [1, 2, 4, 256])
@pytest.mark.parametrize("survives", [0, 1, 7, 20, 30])
def test_killed_while_encoding_and_run_again(
    survives: int, chunk: int, catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "CHUNK", chunk)
    whole, index = MemoryIndex(32), MemoryIndex(32)
    run(catalogue, whole)
    total = len(whole.points)
    with pytest.raises(KeyboardInterrupt):
        run(catalogue, index, HashEncoder(32, fail_after=survives))
    held = len(index.points)
    report, _, encoder = run(catalogue, index)
    assert state(index) == state(whole)
    assert len(encoder.encoded) == total - held, "what was written is not encoded again"
    assert report.written + report.unchanged == 9


@pytest.mark.parametrize("step", ["payloads", "upsert", "delete", "clear_mark"])
def test_killed_while_writing_changes_and_run_again(step: str, catalogue: Path) -> None:
    index = MemoryIndex(32)
    run(catalogue, index)
    changed = [item(f"item-{number}", 7 - number % 7, "new") for number in range(9)]
    write(catalogue, "personas.jsonl", changed)
    index.fail_before = step
    with pytest.raises(KeyboardInterrupt):
        run(catalogue, index)
    index.fail_before = ""
    index.repair()
    run(catalogue, index)
    whole = MemoryIndex(32)
    run(catalogue, whole)
    assert state(index) == state(whole)


def test_progress_counts_every_item(catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "CHUNK", 4)
    steps = RecordedProgress()
    encoder = HashEncoder(32)
    index_artifacts(
        ArtifactFolder(catalogue),
        encoder,
        MemoryIndex(32),
        domain="books",
        refusals=Refusals(),
        progress=steps,
    )
    assert steps.counts == [4, 4, 1]
    assert encoder.calls == 3


@pytest.mark.parametrize("spooled", [1, 1 << 20])
def test_changed_items_wait_until_writing_is_allowed(
    spooled: int, catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "CHUNK", 2)
    monkeypatch.setattr(items, "SPOOLED", spooled)
    index, encoder, steps = MemoryIndex(32), HashEncoder(32), RecordedProgress()
    rows = ArtifactFolder(catalogue).index_rows("books", Refusals())
    written_when_ready = []

    def ready() -> bool:
        if len(rows) >= 5:
            written_when_ready.append(len(state(index)))
        return len(rows) >= 5

    indexer = ItemIndexer(encoder, index, Refusals())
    report = indexer.index_all(rows, ready=ready, progress=steps)
    assert written_when_ready[0] == 0
    assert (report.written, report.unchanged) == (9, 0)
    assert steps.counts == [2, 2, 2, 2, 1]
    whole = MemoryIndex(32)
    run(catalogue, whole)
    assert state(index) == state(whole)
    assert indexer.index_all(rows, ready=lambda: False) == IndexReport(0, 9, 0)


def test_wild_ids_and_texts_come_back_as_they_were(catalogue: Path) -> None:
    ids = ["🎻", "quote'\"\\", "a/b?c", "x" * 500, "null", "../.."]
    rows = [item(one) for one in ids]
    rows[0]["personas"][0]["name"] = "tab\tand\nline <b>&amp;</b> 🎻"
    write(catalogue, "personas.jsonl", rows)
    write(
        catalogue, "items.jsonl", [{"item_id": one, "größe (cm)": {"x": [1, None]}} for one in ids]
    )
    index = MemoryIndex(32)
    assert run(catalogue, index)[0].written == len(ids)
    for one in ids:
        assert index.get(one)[0].item_id == one
        assert index.get(one)[0].fields["größe (cm)"] == {"x": [1, None]}
    assert index.get("🎻")[0].name == "tab\tand\nline <b>&amp;</b> 🎻"
    json.dumps([point.payload for point in index.points.values()])
