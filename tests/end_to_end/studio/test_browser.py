"""The studio in a real browser, on a phone and on a desktop, over a catalogue of hostile texts."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("fastapi")

from p4r_qdrant import Persona, open_index
from p4r_qdrant.index.changes import Changes, ReaderChange
from p4r_qdrant.index.segments import Example, Segment, to_text
from tests.support.browser import WIDTHS, Watched, chromium
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder
from tests.support.hostile_texts import HOSTILE_TEXTS
from tests.support.serving import ADMIN, DIMENSION, make_app, make_index, running, with_service

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = embedded(tmp_path_factory.mktemp("studio") / "index")
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
    with running(make_app(with_service(settings, studio=True))) as address:
        yield address


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


def test_a_script_would_not_run(address: str, browser: "Browser") -> None:
    watched = Watched(browser, address, 1280, dark=False)
    watched.page.goto(f"{address}/studio/login")
    watched.page.evaluate(
        "const one = document.createElement('script');"
        "one.textContent = 'document.title = \"run\"'; document.body.append(one)"
    )
    assert watched.page.title() != "run"
    assert any("Content Security Policy" in one for one in watched.said)
