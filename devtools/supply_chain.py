"""What this project installs: known vulnerabilities, licences, a software bill of materials.

    python -m devtools.supply_chain --tools .cache/audit/bin --sbom FILE

Looks at the environment of this interpreter with tools from another one (`make audit-deps`). Ends
with 1 if a package has a known vulnerability, or a licence that is not allowed. Where no database
of vulnerabilities can be reached, it says so and passes.
"""

import argparse
import json
import re
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python"),
    *("ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
    *("ZPL-2.1", "Academic Free License (AFL)", "Apache Software License", "BSD License"),
    *("DFSG approved", "ISC License (ISCL)", "MIT License", "Python Software Foundation License"),
    "Mozilla Public License 2.0 (MPL 2.0)",
}
"""Licences that a service may ship: permissive, or with conditions for their own files only."""
UNDECLARED = {
    "asttokens": "Apache-2.0",
    "bleach": "Apache-2.0",
    "kubernetes-validate": "Apache-2.0",
    "promql-parser": "MIT",
    "protobuf": "BSD-3-Clause",
    "tiktoken": "MIT",
    "transformers": "Apache-2.0",
}
"""Packages whose metadata name no licence, with the licence in their files."""
VENDOR = ("cuda-", "nvidia-")
"""NVIDIA's libraries, which a build of torch for CUDA requires; the image has none by default."""
ACCEPTED: dict[str, str] = {}
"""Vulnerabilities that do not concern this project, by id: why."""


def bill_of_materials(tools: Path, output: Path) -> dict[str, Any]:
    """Write the packages of this environment to a file, as CycloneDX JSON; returns the content."""
    command: list[str | Path] = [
        tools / "cyclonedx-py",
        "environment",
        sys.executable,
        "--output-reproducible",
    ]
    command += ["--no-validate", "--output-format", "JSON", "--output-file", output]
    subprocess.run(command, check=True, stderr=subprocess.PIPE, timeout=300)
    return dict(json.loads(output.read_bytes()))


def licences(component: dict[str, Any]) -> set[str]:
    """The licences of one component: SPDX identifiers, or what its metadata call them."""
    found = set[str]()
    for one in component.get("licenses", ()):
        own = one.get("license", {})
        text = one.get("expression") or own.get("id") or own.get("name", "")
        text = text.rpartition(" :: ")[2]
        found.update(re.split(r" (?:AND|OR) ", re.sub(r" WITH \S+", "", text)))
    names = {name.strip("() ") if " (" not in name else name for name in found}
    return names - {""} or {UNDECLARED.get(component["name"], "none")}


def licence_problems(components: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A sentence for each component with a licence that is not allowed."""
    for one in components:
        if one["name"].startswith(VENDOR):
            continue
        for name in sorted(licences(one) - ALLOWED):
            yield f"{one['name']} {one.get('version', '')}: its licence is {name[:80]!r}"


def vulnerability_report(tools: Path) -> dict[str, Any]:
    """What pip-audit says of this environment; {} where it ends without a report."""
    site = sysconfig.get_path("purelib")
    command: list[str | Path] = [
        tools / "pip-audit",
        "--path",
        site,
        "--skip-editable",
        "--format",
        "json",
    ]
    command += ["--progress-spinner", "off"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    try:
        return dict(json.loads(run.stdout))
    except ValueError:  # it ends with a traceback where a name cannot be resolved
        return {}


def vulnerabilities(report: dict[str, Any]) -> tuple[list[str], int]:
    """A sentence for each vulnerability that is not accepted, and the number of packages asked."""
    asked = [one for one in report.get("dependencies", ()) if "skip_reason" not in one]
    found = [
        f"{one['name']} {one['version']}: {vulnerability['id']}, "
        f"fixed in {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for one in asked
        for vulnerability in one["vulns"]
        if not ACCEPTED.keys() & {vulnerability["id"], *vulnerability.get("aliases", ())}
    ]
    return found, len(asked)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=Path, required=True, help="folder of the tools' commands")
    parser.add_argument("--sbom", type=Path, required=True, help="where the bill is written")
    options = parser.parse_args()
    if not (options.tools / "pip-audit").exists():
        print("NOT CHECKED: the tools could not be installed; no network?")
        return 0
    options.sbom.parent.mkdir(parents=True, exist_ok=True)
    components = bill_of_materials(options.tools, options.sbom)["components"]
    print(f"{len(components)} packages: {options.sbom}")
    counts = Counter(" and ".join(sorted(licences(one))) for one in components)
    for name, count in counts.most_common():
        print(f"{count:5} {name}")
    problems = list(licence_problems(components))
    found, asked = vulnerabilities(vulnerability_report(options.tools))
    if asked:
        print(f"{asked} of {len(components)} packages were looked up for known vulnerabilities")
    else:
        print("NOT CHECKED: no database of vulnerabilities could be reached")
    for problem in (*problems, *found):
        print(f"problem: {problem}")
    return 1 if problems or found else 0


if __name__ == "__main__":
    sys.exit(main())
