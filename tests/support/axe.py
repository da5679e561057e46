"""axe-core: the accessibility faults of a page, found in the browser."""

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from p4r_qdrant.whole_files import write_whole
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

PACKAGE = "axe-core@4.14.1"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
"""Of its axe.min.js, which runs in the browser of the tests."""
_FAULTS = """async () => {
    const found = await axe.run(document, {resultTypes: ["violations"]});
    return found.violations
        .filter((one) => one.impact === "serious" || one.impact === "critical")
        .map((one) => `${one.id}: ${one.nodes[0].html} ${one.nodes[0].failureSummary}`);
}"""


def axe_script(work: Path) -> str:
    """The library, from npm or as an earlier run left it; the test is skipped where npm is away.

    work: an empty folder.
    """
    kept = ROOT / ".cache" / f"{PACKAGE}.js"
    if kept.is_file() and _is_right(kept.read_bytes()):
        return kept.read_text()
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on this machine, which brings axe-core: install the system's package")
    pack = subprocess.run(
        [npm, "pack", "--silent", PACKAGE], cwd=work, capture_output=True, timeout=120, check=False
    )
    if pack.returncode:
        pytest.skip(f"npm cannot bring {PACKAGE}: {pack.stderr.decode(errors='replace')[-200:]}")
    [archive] = work.glob("*.tgz")
    with tarfile.open(archive) as packed:
        file = packed.extractfile("package/axe.min.js")
        assert file is not None
        script = file.read()
    assert _is_right(script), f"{PACKAGE} is not what it was when its checksum was written here"
    kept.parent.mkdir(exist_ok=True)
    write_whole(kept, script)
    return script.decode()


def serious_faults(page: "Page", script: str) -> list[str]:
    """The serious and critical findings on a page, as it is shown now."""
    page.evaluate(script)
    faults: list[str] = page.evaluate(_FAULTS)
    return faults


def _is_right(script: bytes) -> bool:
    return hashlib.sha256(script).hexdigest() == SHA256
