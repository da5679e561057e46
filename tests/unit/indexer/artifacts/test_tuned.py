"""tuned.json: written whole, read back, refused in one sentence."""

from pathlib import Path

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.names import TUNED
from indexer.artifacts.tuned import Tuned, TunedFit, read_tuned, write_tuned
from p4r_qdrant.errors import InputError
from p4r_qdrant.rerank.scoring import Scoring, Weights
from p4r_qdrant.settings import HistorySettings

WHOLE = Tuned(
    fingerprint="f",
    history=HistorySettings(length=7, decay=0.9),
    collaborative=TunedFit(share=1.0, l2=100.0, decay=0.85),
    scoring=Scoring(candidates=Weights(generator=0.5), catalogue=None),
    valid={"whole catalogue: chosen": 0.25},
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    folder = ArtifactFolder(tmp_path)
    assert read_tuned(folder) is None
    write_tuned(folder, WHOLE)
    assert read_tuned(folder) == WHOLE


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "JSON"),
        ("[1]", "JSON"),
        ('{"fingerprint": "f", "history": {}, "scoring": 1}', "scoring"),
        (WHOLE.model_dump_json().replace("100.0", "-1.0"), "collaborative.l2"),
        (WHOLE.model_dump_json().replace("0.5", "-0.5"), "scoring.candidates.generator"),
    ],
)
def test_a_broken_file_is_one_sentence(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / TUNED).write_text(text)
    with pytest.raises(InputError, match="run p4r tune again") as refusal:
        read_tuned(ArtifactFolder(tmp_path))
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
