"""Damaged files of records: read line by line, or refused as a whole in one sentence."""

import json
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from indexer.artifacts.candidate_lists import read_candidates
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, as_line, read_lines
from indexer.artifacts.splits import read_splits
from indexer.datasets.plain import plain
from indexer.datasets.sources import LeftOut, read_rows
from indexer.indexing import vector_files
from indexer.ledger import Ledger
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Aspects, Item, ItemPersonas, Review
from tests.support.campaign import Campaign
from tests.support.messages import check_sentence
from tests.support.paths import BOOKSHOP
from tests.support.wild import changed, damaged, encoded

MODELS: dict[str, type[Item | Review | Aspects | ItemPersonas]] = {
    "items": Item,
    "reviews": Review,
    "aspects": Aspects,
    "personas": ItemPersonas,
}


def wild_artifact(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
    good = b"".join((BOOKSHOP / f"{name}.jsonl").read_bytes().splitlines(keepends=True)[:3])
    first = json.loads(good.splitlines()[0])
    return st.tuples(st.just(name), damaged(good) | changed(first).map(encoded))


def test_artifact_files(campaign: Campaign, tmp_path: Path) -> None:
    """Each is read, with broken lines counted, or refused as a whole in one sentence."""
    path = tmp_path / "artifact.jsonl"

    def check(given: tuple[str, bytes]) -> None:
        name, data = given
        path.write_bytes(data)
        refusals = Refusals()
        try:
            if name == "splits":
                list(read_splits(path, refusals))
            elif name == "candidates":
                list(read_candidates(path, refusals))
            else:
                for _, _, record in read_lines(path, MODELS[name], refusals):
                    as_line(record).encode()
        except InputError as error:
            check_sentence(error)
        for sentence in refusals.sentences:
            assert "\n" not in sentence

    wild = st.sampled_from([*MODELS, "splits", "candidates"]).flatmap(wild_artifact)
    campaign("fuzz: artifacts", "one file").fuzz(wild, check)


CSV = (
    b'user_id,item_id,rating,timestamp,text\nu1,i1,4,2020-01-02,"one, two"\nu2,i2,5,17,"a ""b"""\n'
)


def test_files_of_other_people(campaign: Campaign, tmp_path: Path) -> None:
    """What `p4r prepare plain` reads, under any name."""
    form = plain()
    lines = (BOOKSHOP / "reviews.jsonl").read_bytes().splitlines(keepends=True)

    def check(given: tuple[str, bytes]) -> None:
        suffix, data = given
        path = tmp_path / f"reviews{suffix}"
        path.write_bytes(data)
        refusals = Refusals()
        try:
            for _, row in read_rows(path, refusals):
                try:
                    json.dumps(form.review(row)).encode()
                except (ValueError, LeftOut):
                    continue
        except InputError as error:
            check_sentence(error)

    good = [CSV, CSV.replace(b",", b"\t"), b"".join(lines[:2])]
    wild = st.sampled_from(good).flatmap(damaged) | st.binary(max_size=80)
    suffixes = st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet", ""])
    campaign("fuzz: files of other people", "one file").fuzz(st.tuples(suffixes, wild), check)


def test_ledgers(campaign: Campaign, tmp_path: Path) -> None:
    """An answer that is whole is kept, whatever is around it; nothing else is taken for one."""
    with Ledger(tmp_path / "good") as ledger:
        for number in range(3):
            ledger.put("aspects", f"{number:032x}", {"answer": {"text": f"number {number}"}})
    good = (tmp_path / "good" / "aspects.jsonl").read_bytes()
    whole = [line for line in good.splitlines() if line]
    path = tmp_path / "ledger" / "aspects.jsonl"
    path.parent.mkdir()

    def check(data: bytes) -> None:
        path.write_bytes(data)
        with Ledger(path.parent) as ledger:
            ledger.put("aspects", "f" * 32, {"answer": {"text": "new"}})
            assert ledger.get("aspects", "f" * 32) == {"answer": {"text": "new"}}
            for number, line in enumerate(whole):
                if line in data.split(b"\n")[:-1] and data.count(f"{number:032x}".encode()) == 1:
                    found = ledger.get("aspects", f"{number:032x}")
                    assert found == {"answer": {"text": f"number {number}"}}
        assert path.read_bytes().endswith(b"\n")

    plain_bytes = damaged(good).filter(lambda data: not data.startswith(b"\x1f\x8b"))
    campaign("fuzz: ledger", "one file").fuzz(plain_bytes, check)


def test_vector_files(campaign: Campaign, tmp_path: Path) -> None:
    """A .npy file has the right vectors or is refused in one sentence; nothing in it is run."""
    folder, path = ArtifactFolder(BOOKSHOP), tmp_path / "vectors.npy"
    lines = (BOOKSHOP / "personas.jsonl").read_text().splitlines()
    items = [ItemPersonas.model_validate_json(line) for line in lines]
    vectors = np.random.default_rng(0).standard_normal((sum(len(one.personas) for one in items), 4))
    np.save(path, vectors.astype(np.float32))
    good = path.read_bytes()

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            with vector_files.opened(path, folder, "x") as opened:
                for item in items:
                    assert opened.of(item).shape == (len(item.personas), opened.dimension)
        except InputError as error:
            check_sentence(error)

    campaign("fuzz: vectors.npy", "one file").fuzz(damaged(good), check)
