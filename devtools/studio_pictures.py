"""The pictures of docs/tutorials/review.md and docs/how-to/studio.md: the studio, in Chromium.

    python -m devtools.studio_pictures [--output docs]

Works on a copy of examples/bookshop with an embedded index. Needs the extra `dev` and the system's
Chromium.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1280, 660
MOST_BYTES = 120_000
"""Bytes of a picture."""
P4R = [sys.executable, "-c", "from indexer.cli import main; main()"]
ARGUMENTS = ["--no-sandbox", "--disable-lcd-text"]
"""Without a sandbox, because this may run as root; the pages are our own."""
COLOURS = 64
"""Of a picture, so that its file is small."""
SHARES = (0.6, 0.8, 1.0)
"""Of the bookshop's items, in the publishes one after the other."""
REMARK = "Say what in the book tells the reader apart; two of these sound alike."


def environment(folder: Path) -> dict[str, str]:
    """That of the commands: an index of their own, no settings of the user."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("P4R_")}
    own = {"P4R_QDRANT__PATH": f"{folder}/index", "P4R_ENCODER__MODEL": "all-MiniLM-L6-v2"}
    return kept | own


@contextmanager
def studio(folder: Path) -> Iterator[str]:
    """Index a copy of the bookshop and open the studio on it; yields the address."""
    artifacts, own = folder / "bookshop", environment(folder)
    shutil.copytree(ROOT / "examples" / "bookshop", artifacts)
    personas = artifacts / "personas.jsonl"
    lines = personas.read_text(encoding="utf-8").splitlines(keepends=True)
    for share in SHARES:  # publishes of a catalogue that grows, for the page of the drift
        personas.write_text("".join(lines[: round(share * len(lines))]), encoding="utf-8")
        for command in (("publish", "--domain", "books"), ("segments",)):
            _run([*command, "--artifacts", str(artifacts)], own)
    _run(["review", "flag", "--artifacts", str(artifacts)], own)
    opened = [*P4R, "studio", "--port", "0", "--no-browser", "--artifacts", str(artifacts)]
    with subprocess.Popen(opened, env=own, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                sys.exit("p4r studio has ended without an address: see its messages above")
            yield address
        finally:
            process.terminate()


def _run(command: list[str], own: dict[str, str]) -> None:
    subprocess.run([*P4R, *command], env=own, cwd=ROOT, check=True)


@contextmanager
def window() -> "Iterator[Page]":
    """A page of 1280 pixels in the light colours."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        sys.exit("no Chromium on this machine: install the system's package chromium")
    with sync_playwright() as library:
        browser = library.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", locale="en-GB"
        )
        browser.close()


def press(page: "Page", what: "Locator") -> None:
    """Press a button or a link, and wait for the next page."""
    with page.expect_navigation():
        what.click()


def take(page: "Page", to: Path, top: "Locator | None" = None) -> None:
    """Save what the window shows, from the top of an element on."""
    if top is not None:
        top.evaluate("one => window.scrollTo(0, one.getBoundingClientRect().top + scrollY - 12)")
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(COLOURS).save(to, optimize=True)
    size = to.stat().st_size
    print(f"{to}: {size:,} bytes")
    if size > MOST_BYTES:
        sys.exit(
            f"{to} has {size:,} bytes, {MOST_BYTES:,} at most are wanted: show less of the page"
        )


def review(page: "Page", address: str, output: Path) -> None:
    """The steps of the tutorial, with a picture of each."""
    page.goto(f"{address}/review")
    take(page, output / "queue.png")
    press(page, page.locator("ol.found li:first-child a"))
    page.get_by_label("You decide as").fill("Ann Lee")
    press(page, page.get_by_role("button", name="Keep the name"))
    flagged = page.locator("section.card", has=page.locator(".flag")).first
    take(page, output / "persona.png", flagged)
    flagged.get_by_text("Edit the texts").click()
    flagged.get_by_label("Name", exact=True).fill("Doubting Map Reader")
    take(page, output / "edit.png", flagged.get_by_label("Remark"))
    press(page, flagged.get_by_role("button", name="Save the edit"))
    other = page.locator("section.card").filter(has_text="pending").first
    other.get_by_label("Remark").fill(REMARK)
    press(page, other.get_by_role("button", name="Ask the LLM again"))
    asked = page.locator("section.card").filter(has_text="has not answered yet").first
    asked.get_by_text("1 decision").click()
    take(page, output / "asked.png", asked)


def pages(page: "Page", address: str, output: Path) -> None:
    """The map and the drift."""
    page.goto(f"{address}/map")
    page.get_by_text("99 personas", exact=True).wait_for()
    box = page.locator("#map").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    take(page, output / "map.png", page.locator("#drawing"))
    page.goto(f"{address}/drift")
    take(page, output / "drift.png")


def main() -> None:
    """Make all pictures."""
    given = argparse.ArgumentParser(description="Make the pictures of the tutorial on reviewing.")
    given.add_argument("--output", type=Path, default=ROOT / "docs")
    output: Path = given.parse_args().output
    tutorial, how_to = output / "tutorials" / "review", output / "how-to" / "studio"
    for one in (tutorial, how_to):
        one.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, studio(Path(folder)) as address, window() as page:
        pages(page, address, how_to)
        review(page, address, tutorial)


if __name__ == "__main__":
    main()
