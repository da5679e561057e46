"""The page of an audit: one file, nothing runs in it, nothing is fetched, nothing breaks out."""

from collections.abc import Callable

from indexer.audit.figures import Audit
from indexer.audit.page import page
from indexer.audit.wording import sections
from tests.support.artifact_rows import aligned, aspect_tuple, persona
from tests.support.auditing import catalogue, words
from tests.support.html_page import HOSTILE, MARKUP, Page


def hostile(audited: Callable[..., Audit]) -> Audit:
    """Hostile texts and ids in every place where a folder may hold one."""
    files = catalogue()
    files["items"].append({"item_id": MARKUP, "title": "ok"})
    files["items"][0]["title"] = f"< {HOSTILE} <"
    files["aspects"].append(aspect_tuple("a", MARKUP, **{HOSTILE: HOSTILE}))
    texts = (HOSTILE, HOSTILE)
    files["personas"][0]["personas"] = [
        persona(f"{MARKUP}{n}", HOSTILE, texts, MARKUP, f"no {MARKUP}", "u4") for n in range(2)
    ]
    files["personas"][1]["personas"][0]["name"] = HOSTILE
    files["alignments"].append(aligned(MARKUP, "a", f"unknown {MARKUP}"))
    return audited(files, words())


def test_hostile_texts_stay_texts(audited: Callable[..., Audit]) -> None:
    found = Page(page(hostile(audited), HOSTILE))
    found.check_harmless()
    assert found.text.count("<script>alert(1)</script>") > 20
    assert "$name &amp;" in found.text
    assert "{{ 7 * 7 }}" in found.text, "a template in a text is a text"


def test_it_is_whole_and_always_the_same(audited: Callable[..., Audit]) -> None:
    figures = audited(catalogue(), words())
    html = page(figures, "folder")
    assert html == page(figures, "folder")
    assert html.count("<figure") == 7
    assert "prefers-color-scheme: dark" in html
    found = Page(html)
    found.check_harmless()
    found.check_tables()
    for text in ("LEAK: ", "Tea Lover", "Most similar pairs", "Worst grounded", "should be 0"):
        assert text in found.text


def test_every_part_says_what_it_means(audited: Callable[..., Audit]) -> None:
    found = Page(page(audited(catalogue(), words()), "folder"))
    assert found.text.count("What this says") == 1 + 7
    assert "Two personas of one item have a similarity of 0.35" in found.text
    assert "75% of the alignments choose the nearest persona; chance would give 50%." in found.text


def test_problems_come_first(audited: Callable[..., Audit]) -> None:
    figures = audited(catalogue(), words())
    ordered = sorted(sections(figures), key=lambda one: one.rank)
    names = ["evidence", "alignments", "aspects", "personas", "agreement"]
    problems = [one for one in ordered if one.conclusion.problem]
    assert [one.name for one in problems] == names, "leaks before other problems"
    assert problems[0].conclusion.text.startswith("1 citation of held-out interactions. 1 cit")
    found = Page(page(figures, "folder"))
    assert found.headings[1 : 1 + len(problems)] == [one.title for one in problems]
    assert "5 parts need attention:" in found.text
    files = {"items": [], "aspects": [aspect_tuple("a", "u1", taste="tea")]}
    assert "The audit found no defect" in Page(page(audited(files), "folder")).text


def test_slots_are_words(audited: Callable[..., Audit]) -> None:
    files = {"aspects": [aspect_tuple("a", "u", purchase_purpose=None, usage="x")]}
    found = Page(page(audited(files), "folder"))
    assert "purchase purpose" in found.text
    assert "purchase_purpose" not in found.html


def test_what_is_not_there_is_said(audited: Callable[..., Audit]) -> None:
    found = Page(page(audited({"aspects": catalogue()["aspects"]}), "folder"))
    assert found.text.count("Not measured: ") == 6
    assert "LEAK" not in found.text
