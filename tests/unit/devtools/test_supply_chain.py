"""The audit of dependencies: what fails it, and what it says where nothing can be looked up."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devtools import supply_chain
from devtools.supply_chain import licence_problems, licences, vulnerabilities
from tests.support.paths import ROOT


def component(*found: dict[str, Any], name: str = "x") -> dict[str, Any]:
    return {"name": name, "version": "1", "licenses": list(found)}


def named(name: str) -> dict[str, Any]:
    return {"license": {"name": name}}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (component({"license": {"id": "MIT"}}), {"MIT"}),
        (component({"expression": "MPL-2.0 AND (ISC OR MIT)"}), {"MPL-2.0", "ISC", "MIT"}),
        (component({"expression": "Apache-2.0 WITH LLVM-exception"}), {"Apache-2.0"}),
        (component(named("License :: OSI Approved :: BSD License")), {"BSD License"}),
        (component(named("License :: OSI Approved :: ISC License (ISCL)")), {"ISC License (ISCL)"}),
        (component(name="protobuf"), {"BSD-3-Clause"}),
        (component(), {"none"}),
    ],
)
def test_the_licences_of_a_package(one: dict[str, Any], expected: set[str]) -> None:
    assert licences(one) == expected


def test_a_licence_that_is_not_allowed_is_a_problem() -> None:
    bill = [
        component({"license": {"id": "MIT"}}),
        component({"expression": "MIT AND GPL-3.0-only"}, name="copyleft"),
        component(named("Proprietary"), name="nvidia-cublas"),
        component(name="silent"),
    ]
    assert list(licence_problems(bill)) == [
        "copyleft 1: its licence is 'GPL-3.0-only'",
        "silent 1: its licence is 'none'",
    ]


FLAW = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2", "1.1"]}
REPORT = {
    "dependencies": [
        {"name": "a", "version": "1", "vulns": []},
        {"name": "b", "version": "1", "vulns": [FLAW, {"id": "GHSA-2", "fix_versions": []}]},
        {"name": "c", "skip_reason": "not found"},
    ]
}
SKIPPED = {"dependencies": [{"name": "a", "skip_reason": "not found"}]}


def test_known_vulnerabilities_but_those_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["b 1: PYSEC-1, fixed in 2, 1.1", "b 1: GHSA-2, fixed in no version yet"]
    assert vulnerabilities(REPORT) == (found, 2)
    monkeypatch.setitem(supply_chain.ACCEPTED, "CVE-1", "that function is not called here")
    assert vulnerabilities(REPORT) == (found[1:], 2)
    assert vulnerabilities({}) == ([], 0)


@pytest.fixture
def audit(tmp_path: Path) -> Any:
    """Runs the command with tools that write a bill and say something of vulnerabilities."""

    def run(said: str | None) -> subprocess.CompletedProcess[str]:
        tools = tmp_path / "bin"
        if said is not None:
            tools.mkdir()
            bill = json.dumps({"components": [component({"license": {"id": "MIT"}})]})
            scripts = {"cyclonedx-py": f"echo '{bill}' > ${{@: -1}}", "pip-audit": said}
            for name, script in scripts.items():
                (tools / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
                (tools / name).chmod(0o755)
        command: list[str | Path] = [sys.executable, "-m", "devtools.supply_chain"]
        command += ["--tools", tools, "--sbom", tmp_path / "new" / "sbom.json"]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    return run


@pytest.mark.parametrize(
    ("said", "code", "sentence"),
    [
        (None, 0, "NOT CHECKED: the tools could not be installed"),
        ("echo Traceback >&2; exit 1", 0, "NOT CHECKED: no database of vulnerabilities"),
        (f"echo '{json.dumps(SKIPPED)}'", 0, "NOT CHECKED: no database"),
        (f"echo '{json.dumps(REPORT)}'; exit 1", 1, "problem: b 1: PYSEC-1"),
    ],
    ids=["no tools", "no network", "nothing known", "a flaw"],
)
def test_the_command(audit: Any, said: str | None, code: int, sentence: str) -> None:
    done = audit(said)
    assert (done.returncode, done.stderr) == (code, "")
    assert sentence in done.stdout
