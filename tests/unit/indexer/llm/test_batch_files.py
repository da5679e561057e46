"""The record of batches stays readable across versions."""

from indexer.llm.batch.files import Batch


def test_a_record_of_an_earlier_version_is_read() -> None:
    """`validated` was called `judged`."""
    earlier = Batch.model_validate(
        {
            "name": "n",
            "url": "http://localhost/v1",
            "campaign": "c",
            "step": "aspects",
            "requests": 1,
            "tokens": 1,
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "file_id": "f",
            "judged": True,
        }
    )
    assert earlier.validated
    assert Batch.model_validate_json(earlier.model_dump_json()) == earlier
