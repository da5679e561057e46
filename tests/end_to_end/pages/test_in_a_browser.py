"""Both pages in a real browser: nothing is wider than the screen of a phone, tablet or computer."""

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.audit.page import page as audit_page
from indexer.audit.run import audit
from indexer.evaluation.experiment.page import page as experiment_page
from tests.support.artifact_rows import aspect_tuple
from tests.support.auditing import catalogue, words
from tests.support.experiment_results import results
from tests.support.jsonl import write

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (390, 768, 1280)
LONG = "unbroken" * 60

FRAMES = """<!DOCTYPE html><body><script>
const frames = [...document.querySelectorAll("iframe")];
addEventListener("load", () => {{
  const found = frames.map((frame) => frame.contentDocument.documentElement.scrollWidth);
  document.body.textContent = "widths " + JSON.stringify(found);
}});
</script>{frames}<script>frames.push(...document.querySelectorAll("iframe"));</script>"""


def audit_of_long_words(folder: Path) -> str:
    files = catalogue()
    files["aspects"].append(aspect_tuple("a", "u8", **{LONG[:70]: LONG}))
    for item in files["personas"]:
        for persona in item["personas"]:
            persona["name"] = persona["description"] = f"tea {LONG}"
    files["personas"][0]["personas"][0]["evidence"] = ["u1", LONG]
    for name, rows in files.items():
        write(folder, f"{name}.jsonl", rows)
    return audit_page(audit(ArtifactFolder(folder), words, Refusals()), LONG)


def measured_widths(pages: list[str], folder: Path) -> list[int]:
    """The width that each page needs at each of WIDTHS, in pixels, with everything unfolded."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    frames = "".join(
        f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{escape(page)}"></iframe>'
        for page in (re.sub("<details>", "<details open>", page) for page in pages)
        for width in WIDTHS
    )
    path = folder / "frames.html"
    path.write_text(FRAMES.format(frames=frames), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--hide-scrollbars"]
    command += ["--window-size=1400,1000", f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found = re.search(r"widths (\[[\d,]+\])", run.stdout)
    assert found, run.stderr[-2000:]
    return [int(width) for width in json.loads(found[1])]


def test_nothing_is_wider_than_the_screen(tmp_path: Path) -> None:
    pages = [audit_of_long_words(tmp_path), experiment_page(results(LONG, generator=LONG))]
    assert measured_widths([*pages, experiment_page(results())], tmp_path) == [*WIDTHS] * 3
