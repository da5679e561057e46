"""Segments: clusters that are found, ids that stay, users that are too few or erased."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.ledger import Ledger
from indexer.segments import winning
from indexer.segments.audience import HEADER, erase_from_audience, write_audience
from indexer.segments.clustering import clusters, matched
from indexer.segments.segmenting import Options, Segmented, make_segments
from indexer.updates.erasing.artifacts import others_naming
from indexer.updates.erasing.run import erasing
from p4r_qdrant import Persona
from p4r_qdrant.arrays import normalised
from p4r_qdrant.errors import IndexMismatchError, InputError
from p4r_qdrant.index.history import all_publishes
from p4r_qdrant.index.maps import PersonaMap
from p4r_qdrant.index.payload import point_id
from p4r_qdrant.index.segments import from_text
from p4r_qdrant.index.wins import Wins
from p4r_qdrant.records import PersonaMatch
from p4r_qdrant.settings import HistorySettings
from tests.support.jsonl import write
from tests.support.memory_index import MemoryIndex
from tests.support.word_encoder import WordEncoder

WORDS = ("bread", "ships", "roses")


def encoder() -> WordEncoder:
    return WordEncoder(*WORDS)


def index_of(items: Sequence[tuple[str, str]]) -> MemoryIndex:
    """Items of one persona each, about a word."""
    made = encoder()
    index = MemoryIndex(dimension=len(WORDS), fingerprint=made.fingerprint)
    for item_id, word in items:
        one = Persona(
            persona_id=f"{item_id}_P0",
            name=f"{word.title()} person",
            description=f"Loves {word}, always {word}.",
            preference_rationale=f"There is {word} in it.",
        )
        index.replace_item(item_id, [one], made.encode_personas([one]))
    return index


def items(*numbers: int) -> list[tuple[str, str]]:
    return [(f"item-{one}", WORDS[one % 3]) for one in numbers]


@pytest.fixture
def folder(tmp_path: Path) -> ArtifactFolder:
    """Twelve users: eight of bread, three of ships, one of roses."""
    rows = [
        {"user_id": f"user-{n}", "item_id": f"item-{place}", "rating": 5, "timestamp": 1}
        for n, place in enumerate([0] * 8 + [1] * 3 + [2])
    ]
    write(tmp_path, "reviews.jsonl", rows)
    write(tmp_path, "personas.jsonl", [])
    summaries = [{"item_id": f"item-{n}", "summary": WORDS[n % 3]} for n in range(3)]
    write(tmp_path, "summaries.jsonl", summaries)
    return ArtifactFolder(tmp_path)


def made(folder: ArtifactFolder, index: MemoryIndex, **options: Any) -> Segmented:
    options = {"count": 3, "smallest": 3, **options}
    return make_segments(folder, index, encoder(), HistorySettings(), Options(**options))


def audience(folder: ArtifactFolder) -> list[list[str]]:
    with (folder.path / "audience.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_segments_are_found_named_counted_and_kept(folder: ArtifactFolder) -> None:
    index = index_of(items(*range(12)))
    found = made(folder, index, audience=True)
    by_name = {one.name.split(",")[0]: one for one in found.segments}
    assert by_name.keys() == {"Bread", "Ships", "Roses"}
    assert [one.personas for one in found.segments] == [4, 4, 4]
    bread, roses = by_name["Bread"], by_name["Roses"]
    assert (bread.users, bread.share, bread.items) == (8, 8 / 12, 4)
    assert (roses.users, roses.share) == (None, None), "one user is not told of"
    assert {one.item_id for one in bread.examples} <= {f"item-{n}" for n in (0, 3, 6, 9)}
    assert from_text(index.metadata.segments) == found.segments
    drawn = PersonaMap(folder.path / "maps", index.metadata.persona_map)
    points = [drawn.point_id(number) for number in range(len(drawn))]
    matches = index.explain([PersonaMatch("", 0.0, one) for one in points])
    at = [one.persona.item_id for one in matches if one.persona]
    groups = drawn.groups().segments.tolist()
    names = {one: found.segments[number].name for one, number in zip(at, groups, strict=True)}
    assert len(names) == 12
    assert all(WORDS[int(one[5:]) % 3].title() in name for one, name in names.items())
    rows = audience(folder)
    assert rows[0] == HEADER
    assert sorted(row[2] for row in rows[1:]) == sorted(f"user-{n}" for n in range(11))
    assert {row[0] for row in rows[1:9]} == {bread.id}
    assert found.left_out == 1
    assert (folder.path / "audience.csv").stat().st_mode & 0o777 == 0o600
    assert made(folder, index) == Segmented(found.segments, 12, 0), "the same again"


def test_ids_stay_where_the_cluster_does(folder: ArtifactFolder) -> None:
    first = {one.name: one.id for one in made(folder, index_of(items(*range(12)))).segments}
    grown = index_of(items(*range(2, 18)))
    again = {one.name: one.id for one in made(folder, grown).segments}
    assert again == first
    fewer = made(folder, index_of([(f"item-{n}", WORDS[n % 3]) for n in range(12) if n % 3]))
    assert {one.name: one.id for one in fewer.segments}.items() <= first.items()
    back = {one.name: one.id for one in made(folder, grown).segments}
    bread = next(name for name in first if name.startswith("Bread"))
    assert back[bread] not in first.values(), "an id is never given twice"
    assert {name: one for name, one in back.items() if name != bread}.items() <= first.items()


def two_each(name: str = "Bread person") -> MemoryIndex:
    """An index of items with two personas, one of bread and one of roses or ships."""
    made, index = encoder(), index_of([])
    for number in range(6):
        own = [
            Persona(persona_id=f"P{word}", name=told, description=word, preference_rationale=word)
            for word, told in (("bread", name), (("ships", "roses")[number % 2], "Another"))
        ]
        index.replace_item(f"item-{number}", own, made.encode_personas(own))
    return index


def test_how_often_personas_win_and_for_whom(folder: ArtifactFolder) -> None:
    index = two_each()
    found = made(folder, index)
    name, users = index.metadata.wins.split()
    assert users == "12"
    wins = Wins(folder.path / "maps", name)
    names = [one.name.split(",")[0] for one in found.segments]

    def won(item: str, number: int) -> tuple[int | None, dict[str, int]]:
        one = wins.of(point_id(item, number), index.get(item)[number])
        assert one is not None
        return one.share, {names[place]: share for place, share in one.segments}

    assert won("item-0", 0) == (75, {"Bread": 89}), "eight of bread, and the one of roses by chance"
    assert won("item-0", 1) == (25, {"Ships": 100})
    assert won("item-1", 0)[0] == 92, "all but the one of roses"
    assert won("item-1", 1) == (None, {}), "one user is not told of"
    other = two_each("Other words").get("item-0")[0]
    assert wins.of(point_id("item-0", 0), other) is None, "it has other texts now"
    assert wins.of(point_id("elsewhere", 0), index.get("item-0")[0]) is None
    assert "user" not in (folder.path / "maps" / f"{name}.wins").read_text("latin1")
    few = ArtifactFolder(folder.path)
    make_segments(few, index, encoder(), HistorySettings(), Options(3, smallest=13))
    assert index.metadata.wins == "", "too few to be told"


def test_users_beyond_the_most_are_chosen_by_their_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"user-{number}" for number in range(100)]
    assert winning.asked_users(ids) == list(range(100))
    monkeypatch.setattr(winning, "MOST_USERS", 10)
    chosen = [ids[one] for one in winning.asked_users(ids)]
    assert len(chosen) == 10
    shifted = ids[50:] + ids[:50]
    assert {shifted[one] for one in winning.asked_users(shifted)} == set(chosen)


@given(st.binary(max_size=40))
def test_a_broken_file_of_wins(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / f"{'0' * 32}.wins").write_bytes(content)
        for name in ("0" * 32, "", "../x"):
            with pytest.raises(InputError, match="run p4r segments again"):
                Wins(Path(folder), name)


def test_the_history_knows_the_sizes_of_segments(folder: ArtifactFolder) -> None:
    index = index_of(items(*range(12)))
    found = made(folder, index)
    made(folder, index)
    [record] = all_publishes(folder.path / "history.sqlite")
    assert (record.items, record.personas) == (12, 12)
    assert [(one.id, one.personas) for one in record.segments] == [
        (one.id, one.personas) for one in found.segments
    ]


def test_what_cannot_be_segmented(folder: ArtifactFolder) -> None:
    with pytest.raises(InputError, match="holds no personas"):
        made(folder, MemoryIndex(dimension=3, fingerprint="words"))
    with pytest.raises(IndexMismatchError):
        made(folder, MemoryIndex(dimension=4, fingerprint="others"))
    one = made(folder, index_of(items(0)))
    assert [segment.personas for segment in one.segments] == [1]
    for broken in ("{", "[]", '{"members": {"x": []}, "following": 1}', '{"members": {"s1": [1]}}'):
        (folder.path / "segments.json").write_text(broken)
        with pytest.raises(InputError, match="is broken: put it back"):
            made(folder, index_of(items(0)))


def test_histories_that_cannot_be_read_are_told(folder: ArtifactFolder) -> None:
    with (folder.path / "reviews.jsonl").open("a") as file:
        file.write('{"user_id": "half')
    assert made(folder, index_of(items(*range(12)))).refusals.total == 1


def test_without_users(folder: ArtifactFolder) -> None:
    index = index_of(items(*range(6)))
    found = make_segments(folder, index, None, HistorySettings(), Options(3))
    assert {one.users for one in found.segments} == {None}


def test_an_erased_user_leaves_the_audience(folder: ArtifactFolder, tmp_path: Path) -> None:
    made(folder, index_of(items(*range(12))), audience=True)
    with (
        Ledger(tmp_path / "ledger") as ledger,
        erasing(folder, ledger, ["user-3", "user-9"], Refusals()) as erased,
    ):
        pass
    left = {row[2] for row in audience(folder)[1:]}
    assert left == {f"user-{n}" for n in range(8) if n != 3}, "two of ships would be too few"
    assert erased.places[0].removed["lines of audience.csv"] == 4
    assert json.loads((folder.path / "segments.json").read_text())["members"]
    assert erased.places[0].removed["counts of wins"] == 1
    [drawn] = (folder.path / "maps").iterdir()
    drawn.write_bytes(b'numbers that read "user-3" by chance')
    assert others_naming(folder, ["user-3"]) == []


def test_an_audience_that_is_none_is_removed(tmp_path: Path) -> None:
    assert erase_from_audience(tmp_path, ["a"]) == 0
    huge = ",".join(HEADER) + "\ns1,n,"
    for text in (
        huge + "u," + "9" * 5000,
        huge + "u" * 200_000 + ",5",
        "",
        "a,b\n1,2\n",
        ",".join(HEADER) + "\ns1,n,user\n",
        "\0\xff",
    ):
        (tmp_path / "audience.csv").write_text(text)
        erase_from_audience(tmp_path, ["a"])
        assert not (tmp_path / "audience.csv").exists()


user_ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(
    lambda one: one == one.strip()
)


@given(st.dictionaries(user_ids, st.integers(0, 3), max_size=12), st.integers(2, 4), st.data())
def test_no_segment_in_an_audience_is_small(
    tmp_path_factory: pytest.TempPathFactory,
    users: dict[str, int],
    smallest: int,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("audience")
    rows = [(f"s{place}", 'a "name", with\nbreaks', user) for user, place in users.items()]
    left_out = write_audience(folder, rows, smallest)

    def listed() -> list[list[str]]:
        with (folder / "audience.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))[1:]

    assert len(listed()) == len(users) - left_out
    assert all(users[row[2]] == int(row[0][1:]) for row in listed())
    gone = data.draw(st.sets(st.sampled_from(sorted(users)))) if users else set()
    erase_from_audience(folder, gone)
    sizes = Counter(row[0] for row in listed())
    assert all(size >= smallest for size in sizes.values())
    assert not gone & {row[2] for row in listed()}


def test_ids_are_matched_by_overlap() -> None:
    a, b, c = ({("i", f"{name}{n}") for n in range(6)} for name in "abc")
    before = {"s1": a, "s2": b}
    assert matched({}, [a, b], 1) == ["s1", "s2"]
    assert matched(before, [b, a], 3) == ["s2", "s1"]
    assert matched(before, [c, a | {("i", "new")}], 3) == ["s3", "s1"]
    assert matched(before, [a | b], 3)[0] in ("s1", "s2")
    assert matched(before, [], 3) == []
    halves = [set(sorted(a)[:1]), set(sorted(a)[1:])]
    assert matched(before, halves, 3) == ["s3", "s1"]


def test_clusters_of_equal_and_of_few_vectors() -> None:
    same = normalised(np.ones((5, 3), np.float32))
    labels, centres = clusters(same, 4)
    assert (labels.tolist(), len(centres)) == ([0] * 5, 1)
    apart = np.eye(3, dtype=np.float32)
    labels, centres = clusters(apart, 10)
    assert len(set(labels.tolist())) == len(centres) == 3
    again, _ = clusters(apart, 10)
    assert again.tolist() == labels.tolist()
