"""What a publish would change for readers, and the gate that stops it: both engines."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.indexing import publish as publishing
from p4r_qdrant import Settings, open_index
from p4r_qdrant.errors import TooMuchChangeError
from p4r_qdrant.index.changes import Changes
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.segments import Example, Segment, to_text
from tests.support.publishing import (
    catalogue_at,
    check_whole,
    encoder,
    item,
    live,
    names,
    run,
    truth,
    version,
    write_personas,
)

ITEMS = 30


def check_first(vectors: Mapping[str, Any], reader: Any, own: str, found: Sequence[str]) -> None:
    """Check that no item outside of `found` scores more than one in it, by brute force."""
    scores = {
        item_id: max(float(row @ reader) / float(np.linalg.norm(row)) for row in rows)
        for item_id, rows in vectors.items()
        if item_id != own
    }
    best = sorted(scores.values(), reverse=True)[:10]
    np.testing.assert_allclose([scores[one] for one in found], best, atol=2e-5)


def check_readers(changes: Changes, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Compare each reader's first items with the brute force; order among ties is free."""
    assert changes.readers
    for one in changes.readers:
        own, _, place = one.persona_id.rpartition("_P")
        for vectors, found in ((before, one.before), (after, one.after)):
            reader = np.asarray(vectors[own][int(place)])
            reader = reader / np.linalg.norm(reader)
            check_first(vectors, reader, own, found)


def stored(settings: Settings) -> dict[str, Any]:
    with open_index(settings) as index:
        return {one[0].item_id: dict(one[0].fields) for one in index.items()}


def recorded(settings: Settings, name: str) -> Changes | None:
    with open_versions(settings) as versions:
        texts = {one.name: one.metadata.changes for one in versions.all()}
    return Changes.from_text(texts[name])


def test_an_update_of_the_live_version(index_settings: Settings, tmp_path: Path) -> None:
    folder, one = catalogue_at(tmp_path / "artifacts", ITEMS), encoder(1)
    first = run(folder, one, index_settings, preview=False, max_change=0.0)
    assert (first.changes, first.is_live) == (None, True), "nothing was live"
    before, was = truth(folder, one).vectors, stored(index_settings)
    write_personas(
        folder,
        [
            *(item(number) for number in range(3, ITEMS - 4)),
            *(item(number, text="quite another") for number in range(ITEMS - 4, ITEMS)),
            *(item(number) for number in range(ITEMS, ITEMS + 2)),
        ],
    )
    preview = run(folder, one, index_settings, preview=True)
    assert stored(index_settings) == was, "nothing was written"
    assert not preview.is_live
    changes = preview.changes
    assert changes is not None
    assert (changes.items_before, changes.items_after) == (ITEMS, ITEMS - 1)
    assert (changes.gained, changes.lost, changes.changed) == (2, 3, 4)
    assert changes.examples_lost == ("item-0", "item-1", "item-2")
    check_readers(changes, before, truth(folder, one).vectors)
    assert 0 < changes.share < 1
    with pytest.raises(TooMuchChangeError, match=r"change, and --max-change 0\.01"):
        run(folder, one, index_settings, max_change=0.01)
    assert stored(index_settings) == was
    done = run(folder, one, index_settings, max_change=changes.share)
    assert done.is_live
    assert done.changes == changes
    check_whole(index_settings, folder, one)
    name = live(index_settings)
    assert recorded(index_settings, name or "") == changes
    same = run(folder, one, index_settings, max_change=0.0)
    assert same.changes is not None
    assert same.changes.share == 0


def test_a_new_version(index_settings: Settings, tmp_path: Path) -> None:
    folder, old, new = catalogue_at(tmp_path / "artifacts", ITEMS), encoder(1), encoder(4)
    run(folder, old, index_settings)
    was = live(index_settings)
    preview = run(folder, new, index_settings, preview=True)
    assert (preview.is_live, live(index_settings)) == (False, was)
    assert preview.version == version(index_settings, new)
    assert preview.changes is not None
    assert recorded(index_settings, preview.version) == preview.changes
    check_readers(preview.changes, truth(folder, old).vectors, truth(folder, new).vectors)
    assert (preview.changes.gained, preview.changes.lost, preview.changes.changed) == (0, 0, 0)
    with pytest.raises(TooMuchChangeError):
        run(folder, new, index_settings, max_change=preview.changes.share - 0.01)
    assert live(index_settings) == was
    check_whole(index_settings, folder, old)
    done = run(folder, new, index_settings, max_change=preview.changes.share)
    assert (done.written, done.unchanged) == (0, ITEMS), "the preview had written them"
    assert (done.is_live, live(index_settings), done.previous) == (True, done.version, was)
    check_whole(index_settings, folder, new)


def test_without_a_persona_that_stays_nothing_can_be_compared(
    index_settings: Settings, tmp_path: Path
) -> None:
    folder, one = catalogue_at(tmp_path / "artifacts"), encoder(1)
    run(folder, one, index_settings)
    write_personas(folder, [item(number, text="all new") for number in range(12)])
    preview = run(folder, one, index_settings, preview=True).changes
    assert preview is not None
    assert (preview.share, preview.readers, preview.changed) == (1.0, (), 12)
    with pytest.raises(TooMuchChangeError, match="no persona stays as it is"):
        run(folder, one, index_settings, max_change=0.99)
    assert run(folder, one, index_settings, max_change=1.0).is_live


def test_the_first_preview_builds_the_version(index_settings: Settings, tmp_path: Path) -> None:
    folder, one = catalogue_at(tmp_path / "artifacts"), encoder(1)
    preview = run(folder, one, index_settings, preview=True)
    assert (preview.changes, preview.is_live, live(index_settings)) == (None, False, None)
    assert run(folder, one, index_settings).unchanged == 12
    check_whole(index_settings, folder, one)


def test_a_kill_during_the_comparison(
    index_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, old, new = catalogue_at(tmp_path / "artifacts"), encoder(1), encoder(2)
    run(folder, old, index_settings)
    was = live(index_settings)

    def killed(*_: Any) -> Changes:
        raise KeyboardInterrupt

    for name, source in (("of_versions", new), ("of_update", old)):
        with monkeypatch.context() as patched:
            patched.setattr(publishing, name, killed)
            with pytest.raises(KeyboardInterrupt):
                run(folder, source, index_settings, max_change=1.0)
        assert live(index_settings) == was
        check_whole(index_settings, folder, old)
    assert run(folder, new, index_settings, max_change=1.0).is_live
    assert names(index_settings) == {was, version(index_settings, new)}


def test_items_of_broken_lines_stay(index_settings: Settings, tmp_path: Path) -> None:
    folder, one = catalogue_at(tmp_path / "artifacts"), encoder(1)
    run(folder, one, index_settings)
    rows: list[Any] = [item(number) for number in range(11)]
    write_personas(folder, [*rows, '{"item_id": "item-11", "personas"'])
    changes = run(folder, one, index_settings, preview=True).changes
    assert changes is not None
    assert (changes.items_after, changes.lost, changes.share) == (12, 0, 0.0)
    assert ArtifactFolder(folder).personas().exists()
    assert json.loads(changes.to_text())["readers"]


def test_each_segment_has_a_reader(index_settings: Settings, tmp_path: Path) -> None:
    folder, one = catalogue_at(tmp_path / "artifacts", ITEMS), encoder(1)
    run(folder, one, index_settings)
    examples = [("item-3", "item-3_P1"), ("item-7", "item-7_P3"), ("item-99", "item-99_P0")]
    made = tuple(
        Segment(
            id=f"s{number}",
            name="Readers",
            personas=1,
            items=1,
            examples=(Example(item_id=item_id, persona_id=persona_id, name="One"),),
        )
        for number, (item_id, persona_id) in enumerate(examples)
    )
    with open_index(index_settings) as index:
        index.record(segments=to_text(made))
    changes = run(folder, encoder(4), index_settings, preview=True).changes
    assert changes is not None
    readers = [reader.persona_id for reader in changes.readers]
    assert readers[:2] == ["item-3_P1", "item-7_P3"]
    assert len(set(readers)) == 12
    check_readers(changes, truth(folder, one).vectors, truth(folder, encoder(4)).vectors)
