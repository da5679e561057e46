import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).parents[1] / "conftest.py"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project of one test that needs a server and one that does not; no Docker, not in CI."""
    for name in ("CI", "P4R_TEST_QDRANT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("P4R_TEST_NO_DOCKER", "1")
    pytester.makeini(
        "[pytest]\n"
        "addopts = --strict-markers -p no:langsmith_plugin -p no:locust -p no:schemathesis\n"
        "markers = integration: as ours"
    )
    # One worker for two tests need not import what forked ones share.
    text = CONFTEST.read_text(encoding="utf-8") + "\ndel pytest_xdist_setupnodes\n"
    pytester.makeconftest(text)
    pytester.makepyfile("def test_with(qdrant_server): ...\ndef test_without(): ...")
    return pytester


def test_missing_engine_is_told_loudly(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "!* 1 TESTS DID NOT RUN !*",
            "For want of a real Qdrant, because P4R_TEST_NO_DOCKER is set:",
            "    test_missing_engine_is_told_loudly.py::test_with",
            "To run them: start Docker, or set P4R_TEST_QDRANT_URL*",
        ]
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_missing_engine_fails_the_run_in_ci(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv("CI", "true")
    result = project.runpytest_subprocess("-n", str(workers))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["!* 1 TESTS DID NOT RUN !*", "CI is set, so this run has FAILED."])


def test_nothing_is_told_when_everything_ran(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    result = project.runpytest_subprocess("-m", "not integration")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.no_fnmatch_line("*DID NOT RUN*")


def test_a_server_named_by_url_must_be_ready(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P4R_TEST_QDRANT_URL", "http://127.0.0.1:9")
    result = project.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*names http://127.0.0.1:9, but no Qdrant is ready there*"])


def test_processes_can_be_interrupted_though_the_run_ignores_sigint(
    project: pytest.Pytester,
) -> None:
    """A shell starts `make test &` so."""
    project.makepyfile(
        """
        import signal, subprocess, sys
        def test_interrupt():
            # A signal just before a long sleep would be noticed at its end.
            program = "import time; print('ready', flush=True)\\nwhile True: time.sleep(0.01)"
            with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1) as process:
                process.stdout.readline()
                process.send_signal(signal.SIGINT)
                assert process.wait(30) == -signal.SIGINT
        """
    )
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *pytest_command]
    assert project.run(*ignoring).ret == pytest.ExitCode.OK


def test_what_else_is_wanting_is_told_too(project: pytest.Pytester) -> None:
    project.makepyfile(
        "from tests.support.not_run import LOCAL_LLM, not_run\n"
        "def test_with():\n    not_run('so', LOCAL_LLM)"
    )
    result = project.runpytest_subprocess()
    result.stdout.fnmatch_lines(
        [
            "!* 1 TESTS DID NOT RUN !*",
            "For want of a real LLM on this machine, because so:",
            "To run them: pip install *",
        ]
    )
