"""The page of an audit: one file, nothing runs in it, nothing is fetched, nothing breaks out."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from indexer.audit import page
from indexer.audit.figures import Audit
from p4r_qdrant.errors import MissingExtraError
from tests.unit.indexer.audit.test_audit import aligned, audited, catalogue, persona, told, words

__all__ = ["audited"]  # the fixture

HOSTILE = "</bdi></p><script>alert(1)</script><img src=//x onerror=alert(1)>\"' $name ${leak} &amp;"
SVG = {"svg", "defs", "style", "g", "path", "use", "clippath", "rect"}
OURS = {"html", "head", "meta", "title", "body", "h1", "h2", "h3", "p", "div", "b", "span", "bdi"}
OURS |= {"section", "table", "tr", "th", "td", "em", "figure", "figcaption", "footer", "i", "ul"}
VOID = {"meta"}

pytest.importorskip("matplotlib")


class Reader(HTMLParser):
    """Tags, attributes and texts; raises where a tag is closed that was not opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile(audited: Callable[..., Audit]) -> Audit:
    files = catalogue()
    files["items"].append({"item_id": HOSTILE, "title": "ok"})
    files["items"][0]["title"] = f"< {HOSTILE} <"
    files["aspects"].append(told("a", HOSTILE, **{HOSTILE: HOSTILE}))
    texts = (HOSTILE, HOSTILE)
    files["personas"][0]["personas"] = [
        persona(f"{HOSTILE}{n}", HOSTILE, texts, HOSTILE, f"no {HOSTILE}", "u4") for n in range(2)
    ]
    files["personas"][1]["personas"][0]["name"] = HOSTILE
    files["alignments"].append(aligned(HOSTILE, "a", f"unknown {HOSTILE}"))
    return audited(files, words())


def test_hostile_texts_stay_texts(audited: Callable[..., Audit]) -> None:
    found = page.page(hostile(audited), HOSTILE)
    read = Reader(found)
    assert read.tags <= SVG | OURS | {"li"}
    assert read.text.count("<script>alert(1)</script>") > 10
    assert "$name ${leak} &amp;" in read.text, "a template in a text is a text"
    assert not [name for name, _ in read.attributes if name.startswith("on")]


def test_nothing_is_fetched(audited: Callable[..., Audit]) -> None:
    found = page.page(hostile(audited), "folder")
    for name, value in Reader(found).attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert str(value).startswith("#")
    assert not re.search(r"url\((?!#)|@import", found)
    assert "default-src 'none'" in found


def test_it_is_whole_and_always_the_same(audited: Callable[..., Audit]) -> None:
    found = audited(catalogue(), words())
    told_page = page.page(found, "folder")
    assert told_page == page.page(found, "folder")
    assert told_page.count("<svg") == 6
    assert "prefers-color-scheme: dark" in told_page
    assert "currentColor" in told_page
    assert page._INK not in told_page
    text = Reader(told_page).text
    for word in ("LEAK: ", "Tea Lover", "Most alike pairs", "Worst grounded", "lower is better"):
        assert word in text


def test_what_is_not_there_is_said(audited: Callable[..., Audit]) -> None:
    found = page.page(audited({"aspects": catalogue()["aspects"]}), "folder")
    assert Reader(found).text.count("Not there: ") == 6
    assert "LEAK" not in found


def test_without_matplotlib(
    audited: Callable[..., Audit], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(page, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"p4r-qdrant\[data\]"):
        page.page(audited(catalogue()), "folder")
