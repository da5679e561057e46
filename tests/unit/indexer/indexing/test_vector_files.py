"""Vectors encoded elsewhere: found by place or by name, refused where they do not fit."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.indexing.items import index_artifacts
from indexer.indexing.vector_files import VectorFile, opened
from p4r_qdrant import Interaction, PersonaReranker
from p4r_qdrant.errors import IndexMismatchError, InputError
from p4r_qdrant.records import ItemPersonas
from tests.support import publishing
from tests.support.engines import embedded
from tests.support.memory_index import MemoryIndex
from tests.support.messages import sentence
from tests.support.publishing import run

parquet = pytest.importorskip("pyarrow.parquet")
arrow = pytest.importorskip("pyarrow")


@pytest.fixture
def folder(tmp_path: Path) -> ArtifactFolder:
    return ArtifactFolder(publishing.catalogue_at(tmp_path / "catalogue", items=9))


def names(folder: ArtifactFolder) -> list[tuple[str, str]]:
    return [
        (record.item_id, one.persona_id) for record in records(folder) for one in record.personas
    ]


def records(folder: ArtifactFolder) -> list[ItemPersonas]:
    lines = (folder.path / "personas.jsonl").read_text().splitlines()
    return [ItemPersonas.model_validate_json(line) for line in lines]


def matrix_for(folder: ArtifactFolder, dimension: int = 6, seed: int = 0) -> Any:
    shape = (len(names(folder)), dimension)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def saved(folder: ArtifactFolder, kind: str, matrix: Any, rows: Any = None) -> Path:
    path = folder.path.parent / f"vectors.{kind}"
    if kind == "npy":
        np.save(path, matrix)
        return path
    rows = names(folder) if rows is None else rows
    table = {
        "other": arrow.array([0] * len(rows)),
        "vector": arrow.array([one.tolist() for one in matrix]),
        "persona_id": arrow.array([persona for _, persona in rows]),
        "item_id": arrow.array([item for item, _ in rows]),
    }
    parquet.write_table(arrow.table(table), path, row_group_size=5)
    return path


def refused(path: Path, folder: ArtifactFolder, fingerprint: str = "ours") -> str:
    with pytest.raises(InputError) as caught, opened(path, folder, fingerprint):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["npy", "parquet"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_each_persona_gets_its_vector(folder: ArtifactFolder, kind: str, dtype: Any) -> None:
    matrix = matrix_for(folder).astype(dtype)
    rows = names(folder)
    order = list(range(len(rows))) if kind == "npy" else list(range(len(rows)))[::-1]
    path = saved(folder, kind, matrix[order], [rows[one] for one in order])
    with opened(path, folder, "ours") as source:
        assert (source.dimension, source.fingerprint, source.name) == (6, "ours", "ours")
        start = 0
        for record in records(folder):
            end = start + len(record.personas)
            np.testing.assert_array_equal(source.of(record), matrix[start:end].astype(np.float32))
            start = end


def test_what_is_written_and_when_it_is_written_again(folder: ArtifactFolder) -> None:
    index = MemoryIndex(6)

    def indexed(matrix: Any) -> tuple[int, int]:
        with opened(saved(folder, "npy", matrix), folder, "ours") as source:
            report = index_artifacts(folder, source, index, domain="x", refusals=Refusals())
            return report.written, report.unchanged

    matrix = matrix_for(folder)
    assert indexed(matrix) == (9, 0)
    assert indexed(matrix) == (0, 9)
    matrix[3] += 1e-3
    assert indexed(matrix) == (1, 8), "a vector has changed, the texts have not"


@pytest.mark.parametrize("content", [b"hello", pickle.dumps([1.0, 2.0])])
def test_a_pickle_is_named_and_not_advised(folder: ArtifactFolder, content: bytes) -> None:
    path = folder.path / "v.npy"
    path.write_bytes(content)
    said = refused(path, folder)
    assert "v.npy holds Python objects (a pickle), or no array at all" in said
    assert "allow_pickle" not in said


@pytest.mark.parametrize(
    "change", [(b"{", b"("), (b"{", b"[{"), (b"(", b"  "), (b"'<f4'", b"'\n4'"), (b"f4", b"\0\0")]
)
def test_a_damaged_head_is_one_sentence(
    folder: ArtifactFolder, change: tuple[bytes, bytes]
) -> None:
    path = saved(folder, "npy", matrix_for(folder))
    path.write_bytes(path.read_bytes().replace(*change, 1))
    with pytest.raises(InputError) as caught, opened(path, folder, "x"):
        pass
    assert "is not an array that NumPy can map" in sentence(caught)


@pytest.mark.parametrize("value", [np.nan, 0, 1e300])
def test_vectors_of_which_none_can_be_used_leave_nothing_behind(
    folder: ArtifactFolder, tmp_path: Path, value: float
) -> None:
    matrix = np.full(matrix_for(folder).shape, value, dtype=np.float64)
    with (
        opened(saved(folder, "npy", matrix), folder, "ours") as source,
        pytest.raises(InputError, match="only 0 of 9 items"),
    ):
        run(folder.path, source, embedded(tmp_path / "index"))
    assert not (tmp_path / "index").exists()


def test_a_vector_that_points_nowhere_is_refused_and_the_others_go_on(
    folder: ArtifactFolder,
) -> None:
    matrix, refusals = matrix_for(folder), Refusals()
    matrix[0] = np.nan
    matrix[1] = 0
    with opened(saved(folder, "npy", matrix), folder, "ours") as source:
        report = index_artifacts(folder, source, MemoryIndex(6), domain="x", refusals=refusals)
    assert (report.written, report.refused) == (7, 2)
    assert "personas.jsonl:1: vector 0 of item 'item-0' holds NaN" in refusals.sentences[0]
    assert "is zero" in refusals.sentences[1]


def test_of_a_repeated_item_the_first_line_counts(folder: ArtifactFolder) -> None:
    rows = [publishing.item(number) for number in (0, 1, 0, 2)]
    publishing.write_personas(folder.path, rows)
    matrix = matrix_for(folder)
    with opened(saved(folder, "npy", matrix), folder, "ours") as source:
        first, _, _, last = records(folder)
        np.testing.assert_array_equal(source.of(first), matrix[:1])
        np.testing.assert_array_equal(source.of(last), matrix[4:])


def test_a_file_that_does_not_fit(folder: ArtifactFolder) -> None:
    matrix = matrix_for(folder)
    count = len(matrix)
    short = refused(saved(folder, "npy", matrix[1:]), folder)
    assert f"{count - 1} rows of 6 numbers" in short
    assert f"{count} personas" in short
    for wrong in (matrix[0], matrix.astype(int), matrix.astype(object), matrix[:, :0]):
        assert str(folder.path.parent) in refused(saved(folder, "npy", wrong), folder)
    path = saved(folder, "npy", matrix)
    path.write_bytes(path.read_bytes()[:100])
    assert "not an array" in refused(path, folder)
    path.write_bytes(b"")
    assert "not an array" in refused(path, folder)
    assert "no such file" in refused(folder.path / "gone.npy", folder)
    (folder.path / "x.csv").touch()
    assert "FILE.npy or FILE.parquet" in refused(folder.path / "x.csv", folder)


def test_a_parquet_file_that_does_not_fit(folder: ArtifactFolder) -> None:
    matrix, rows = matrix_for(folder), names(folder)
    assert "no vector for 2 personas" in refused(
        saved(folder, "parquet", matrix[2:], rows[2:]), folder
    )
    assert "twice" in refused(
        saved(folder, "parquet", matrix[[0, *range(len(rows))]], [rows[0], *rows]), folder
    )
    stranger = [*rows, ("stranger", "s_P0")]
    with opened(
        saved(folder, "parquet", matrix[[*range(len(rows)), 0]], stranger), folder, "ours"
    ) as source:
        np.testing.assert_array_equal(source.of(records(folder)[0]), matrix[:1])
    path = saved(folder, "parquet", matrix)
    table = parquet.read_table(path)
    for column in ("item_id", "persona_id", "vector"):
        parquet.write_table(table.drop_columns([column]), path)
        assert f"no column {column!r}" in refused(path, folder)
    ragged = [one.tolist() for one in matrix]
    ragged[2] = ragged[2][1:]
    parquet.write_table(table.set_column(1, "vector", arrow.array(ragged)), path)
    assert "must have the same length" in refused(path, folder)
    texts = arrow.array(["x"] * len(rows))
    parquet.write_table(table.set_column(1, "vector", texts), path)
    assert "not a Parquet file of vectors" in refused(path, folder)
    path.write_bytes(b"PAR1")
    assert "not a Parquet file of vectors" in refused(path, folder)


def test_a_broken_line_would_move_the_rows_after_it(folder: ArtifactFolder) -> None:
    path = saved(folder, "npy", matrix_for(folder))
    rows = [*(publishing.item(number) for number in range(8)), "{"]
    publishing.write_personas(folder.path, rows)
    assert "personas.jsonl:9" in refused(path, folder)


@pytest.mark.parametrize("fingerprint", ["", "a b", "x" * 65, "ä", "a/b"])
def test_a_name_that_could_not_stand_in_a_collections(
    folder: ArtifactFolder, fingerprint: str
) -> None:
    assert "--fingerprint" in refused(saved(folder, "npy", matrix_for(folder)), folder, fingerprint)


def test_they_are_published_and_found_out_when_they_are_not_what_was_written(
    folder: ArtifactFolder, tmp_path: Path
) -> None:
    settings = embedded(tmp_path / "index")
    matrix = matrix_for(folder)
    with opened(saved(folder, "npy", matrix), folder, "v1.2") as source:
        assert isinstance(source, VectorFile)
        first = run(folder.path, source, settings)
    with opened(saved(folder, "npy", matrix_for(folder, seed=1)), folder, "v1.3") as source:
        second = run(folder.path, source, settings)
    assert (second.previous, second.written) == (first.version, 9)
    with PersonaReranker.from_settings(settings) as reranker:
        ranking = reranker.rerank(matrix_for(folder, seed=1)[0], ["item-0", "item-1"])
        assert ranking.items[0].item_id == "item-0"
        assert ranking.items[0].score == pytest.approx(1)
        assert ranking.fingerprint == "v1.3"
        with pytest.raises(IndexMismatchError, match=r"another encoder \(v1.3\)"):
            reranker.rerank([Interaction("i", 1, summary="salt")], ["item-0"])
