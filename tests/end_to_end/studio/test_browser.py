"""The studio in a real browser, on a phone and on a desktop, over a catalogue of hostile texts."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("fastapi")

from p4r_qdrant import Persona, open_index
from p4r_qdrant.artifact_names import HISTORY
from p4r_qdrant.index.changes import Changes, ReaderChange
from p4r_qdrant.index.history import History, PublishRecord, SegmentSize
from p4r_qdrant.index.segments import Example, Segment, to_text
from tests.support.browser import PHONE_FIRST, WIDTHS, Watched, chromium
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.hostile_texts import HOSTILE_TEXTS
from tests.support.maps import record_map
from tests.support.polling import wait_until
from tests.support.serving import ADMIN, DIMENSION, make_app, make_index, running, with_service

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MAPPED = ["ships", *(f"hostile {number}" for number in range(len(HOSTILE_TEXTS))), "roses"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("studio")
    settings = embedded(folder / "index")
    make_index(settings)
    encoder = HashEncoder(DIMENSION)
    with open_index(settings, encoder=encoder) as index:
        for number, text in enumerate(HOSTILE_TEXTS):
            own = [
                Persona(
                    persona_id=f"P{number}", name=text, description=text, preference_rationale=text
                )
            ]
            fields = {"item_title": text, "summary": text, "category": text, "own": text}
            index.replace_item(f"hostile {number}", own, encoder.encode_personas(own), fields)
        index.record(**hostile_records())
        record_map(index, folder / "maps", MAPPED)
    publishes_of(folder)
    app = make_app(with_service(settings, studio=True))
    app.state.studio.artifacts = folder
    with running(app) as address:
        yield address


def publishes_of(folder: Path) -> None:
    """A history of three publishes, of hostile texts."""
    with closing(History(folder / HISTORY)) as history:
        for number in range(3):
            with history.recording() as recording:
                one = Persona(
                    persona_id="p", name=f"{number}", description="x", preference_rationale="y"
                )
                recording.settle("ships", [one])
                mix = {text: place + number for place, text in enumerate(HOSTILE_TEXTS)}
                record = PublishRecord(0, f"2026-01-0{number + 1}", f"v{number}", 5, 9, mix)
                recording.finish(record, ["ships"])
        sizes = [SegmentSize(f"s{n}", text, n) for n, text in enumerate(HOSTILE_TEXTS)]
        history.note_segments(PublishRecord(0, "", "v2", 0, 0, {}, sizes))


def hostile_records() -> dict[str, str]:
    """Segments and the changes of a version, of hostile texts."""
    segments = tuple(
        Segment(
            id=f"s{number}",
            name=text,
            personas=number,
            items=1,
            examples=(Example(item_id=f"hostile {number}", persona_id="p", name=text),),
        )
        for number, text in enumerate(HOSTILE_TEXTS)
    )
    readers = tuple(ReaderChange("p", text, (text,), ("ships",)) for text in HOSTILE_TEXTS)
    changes = Changes(1, 1, 1, 1, 1, HOSTILE_TEXTS[:20], HOSTILE_TEXTS[20:40], readers)
    return {"segments": to_text(segments), "changes": changes.to_text()}


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("width", WIDTHS)
def test_each_page_on_a_phone_and_on_a_desktop(
    address: str, browser: "Browser", width: int
) -> None:
    watched = Watched(browser, address, width, dark=width == WIDTHS[0])
    page = watched.page
    page.goto(f"{address}/studio/versions")
    assert page.evaluate("document.compatMode") == "CSS1Compat"
    watched.said.clear()  # Chromium reports the status 401 of the login page
    page.focus("#key")  # by keyboard alone
    page.keyboard.type(ADMIN)
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.url == f"{address}/studio/versions"
    watched.check()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.goto(f"{address}/studio")
    while True:
        watched.check()
        following = page.query_selector("a[rel=next]")
        if following is None:
            break
        with page.expect_navigation():
            following.click()
    for item_id in ("ships", *(f"hostile {number}" for number in (0, 16, 35, 39, 43, 44))):
        page.goto(f"{address}/studio/item?id={item_id.replace(' ', '+')}")
        watched.check()
    page.goto(f"{address}/studio/search?person=old+roses")
    assert "Roses" in page.inner_text("main")
    watched.check()
    page.goto(f"{address}/studio/segments")
    assert len(page.query_selector_all("ul.cards > li")) == len(HOSTILE_TEXTS)
    watched.check()
    page.goto(f"{address}/studio/drift")
    assert len(page.query_selector_all("figure")) == 2 + 24 + 24
    page.click("summary")
    watched.check()
    page.goto(f"{address}/studio/reader")
    page.fill("#person", "pruning old roses")
    page.fill("#candidates", "cakes\nroses\nhostile 0")
    page.select_option("#method", "standard")
    with page.expect_navigation():
        page.click("main button")
    assert "Roses" in page.inner_text("ol.found li:first-child")
    bars = page.query_selector_all("ol.found rect.personas")
    assert any((box := one.bounding_box()) and box["width"] > 5 for one in bars)
    page.fill("#top", "1")
    with page.expect_navigation():
        page.click("main form button")
    with page.expect_navigation():
        page.click("ol.found li:last-child button")
    assert "It is number 3." in page.inner_text("#reasons")
    watched.check()
    with page.expect_navigation():
        page.click("header button")
    assert page.url == f"{address}/studio/login"
    watched.check()


@pytest.mark.parametrize("width", PHONE_FIRST)
def test_the_map(address: str, browser: "Browser", width: int) -> None:
    watched = Watched(browser, address, width, dark=width == WIDTHS[0])
    page = watched.page
    page.goto(f"{address}/studio/login")
    page.fill("#key", ADMIN)
    with page.expect_navigation():
        page.press("#key", "Enter")
    page.goto(f"{address}/studio/map")
    page.get_by_text(f"{len(MAPPED)} personas", exact=True).wait_for()
    drawn = (
        "() => { const one = document.getElementById('map'); const all = one.getContext('2d')"
        ".getImageData(0, 0, one.width, one.height).data; const seen = new Set();"
        "for (let i = 0; i < all.length; i += 4) if (all[i + 3] === 255)"
        "seen.add([all[i], all[i + 1], all[i + 2]].join()); return seen.size; }"
    )
    wait_until(lambda: page.evaluate(drawn) == 2)
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    assert box is not None
    across, down = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    half = 0.47 * min(box["width"], box["height"])
    for place in (1, 17, 36, 40, 44):  # hostile texts in what the script shows
        off = half * (2 * place / (len(MAPPED) - 1) - 1)
        page.mouse.move(across + off, down + off)
        page.locator(f"#shown[data-number='{place}']").wait_for()
    watched.check()
    page.mouse.move(across - half, down - half)
    page.get_by_text("tall ships under sail").wait_for()
    page.select_option("#only-segment", "1")
    wait_until(lambda: page.evaluate(drawn) == 1)
    page.select_option("#only-segment", "")
    page.select_option("#by", "category")
    assert page.is_visible("#only-category")
    assert not page.is_visible("#only-segment")
    page.select_option("#only-category", "0")
    wait_until(lambda: page.evaluate(drawn) == 1)
    page.get_by_role("button", name="List what is in view").focus()  # by keyboard alone
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert f"{len(MAPPED) // 2} of {len(MAPPED)} personas" in page.inner_text("main")
    watched.check()
    page.goto(f"{address}/studio/map")
    wait_until(lambda: page.evaluate(drawn) == 2)
    page.click("#lasso")
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    assert box is not None
    across, down = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(across + half - 5, down + half - 5)
    page.mouse.down()
    for off, lower in ((9, -5), (9, 9), (-5, 9)):
        page.mouse.move(across + half + off, down + half + lower, steps=3)
    with page.expect_navigation():
        page.mouse.up()
    assert page.inner_text("ol.found li h2") == "Roses"
    watched.check()
    page.goto(f"{address}/studio/map")
    wait_until(lambda: page.evaluate(drawn) == 2)
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    assert box is not None
    across, down = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.focus("#map")
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    page.locator("#shown h2").wait_for()
    page.click("#whole")
    page.mouse.move(across + half, down + half)
    with page.expect_navigation():
        page.mouse.click(across + half, down + half)
    assert page.url == f"{address}/studio/item?id=roses"
    watched.check()


def test_the_map_without_scripts(address: str, browser: "Browser") -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{address}/studio/login")
    page.fill("#key", ADMIN)
    with page.expect_navigation():
        page.press("#key", "Enter")
    page.goto(f"{address}/studio/map")
    assert "this browser runs none" in page.inner_text("main")
    assert not page.is_visible("#map")
    page.click("main a")
    assert page.url == f"{address}/studio/segments"


def test_a_script_would_not_run(address: str, browser: "Browser") -> None:
    watched = Watched(browser, address, 1280, dark=False)
    watched.page.goto(f"{address}/studio/login")
    watched.page.evaluate(
        "const one = document.createElement('script');"
        "one.textContent = 'document.title = \"run\"'; document.body.append(one)"
    )
    assert watched.page.title() != "run"
    assert any("Content Security Policy" in one for one in watched.said)
