"""Every template escapes what it is given, and says what it lacks."""

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from indexer.pages import rendering
from indexer.pages.charts import Bar, BarChart, BarGroup, HistogramChart, Series
from p4r_qdrant.templating import Templates
from tests.support.html_page import HOSTILE, Page
from tests.support.paths import ROOT

TEMPLATES = sorted((ROOT / "indexer" / "pages" / "templates").iterdir())


@pytest.fixture
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with templates of the test, beside those of the package."""
    for path in TEMPLATES:
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(rendering, "render", Templates(tmp_path).render)
    return tmp_path


def test_texts_are_escaped_wherever_they_stand(templates: Path) -> None:
    (templates / "x.html").write_text(
        "{% extends 'base.html' %}{% block title %}{{ x }}{% endblock %}"
        "{% block body %}<p class=\"{{ x }}\" title='{{ x }}'>{{ x }} {{ x|isolated }}"
        "{{ [x, x]|join(x) }}</p>{% endblock %}"
    )
    page = Page(rendering.render("x.html", x=HOSTILE))
    page.check_harmless()
    assert page.text.count("<script>alert(1)</script>") == 6
    assert page.text.count("{{ 7 * 7 }} {% raw %}") == 6, "a template in a text is a text"
    assert "\ufffdgnp.exe\ufffd \u05d0\u200f \ufffd[2J\ufffd" in page.text


def test_charts_escape_their_texts(templates: Path) -> None:
    (templates / "x.html").write_text(
        "{% extends 'base.html' %}{% import 'charts.html' as charts %}{% block body %}"
        "{{ charts.bars(bars) }}{{ charts.histogram(histogram) }}{% endblock %}"
    )
    bar = Bar(HOSTILE, 1, HOSTILE, low=0.5, high=2, mark=1.5)
    bars = BarChart(HOSTILE, [BarGroup(HOSTILE, [bar])])
    series = [Series(HOSTILE, [1, 0]), Series(HOSTILE, [0, 2])]
    histogram = HistogramChart(HOSTILE, HOSTILE, HOSTILE, [0, 1, 2], series, (0.5, HOSTILE))
    page = Page(rendering.render("x.html", bars=bars, histogram=histogram))
    page.check_harmless()
    assert page.text.count("<script>alert(1)</script>") == 10
    assert [value for name, value in page.attributes if name == "aria-label"]


def test_a_missing_value_is_an_error(templates: Path) -> None:
    (templates / "x.html").write_text("{{ there }} {{ forgotten }}")
    with pytest.raises(UndefinedError, match="'forgotten' is undefined"):
        rendering.render("x.html", there=1)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_switches_escaping_off(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\|\s*safe|autoescape|Markup", text)
    assert not re.search(r"=\s*\{\{", text), "an attribute without quotes"
    assert not re.search(r"https?:|//", text), "something from elsewhere"


@pytest.mark.parametrize("character", ["\x00", "\x7f", "\x9b", "\u202e", "\u2067", "\ud800"])
def test_unsafe_characters_are_replaced(character: str, templates: Path) -> None:
    (templates / "x.html").write_text("{{ x }}")
    page = rendering.render("x.html", x=f"a{character}b\n\tc")
    assert page == "a\ufffdb\n\tc"
    page.encode()


def test_bars_share_one_scale() -> None:
    chart = BarChart("", [BarGroup("", [Bar("", 2, "", high=4), Bar("", 3, "", mark=1)])])
    assert [chart.at(value) for value in (-1, 0, 2, 4, 9)] == [
        "0.00",
        "0.00",
        "50.00",
        "100.00",
        "100.00",
    ]
    assert BarChart("", [BarGroup("", [Bar("", 0, "")])]).at(0) == "0.00", "nothing but zeros"
    assert BarChart("", []).at(1) == "100.00"
    assert BarChart("", [BarGroup("", [Bar("", 0.2, "")])], maximum=1).at(0.2) == "20.00"


def test_a_histogram_labels_some_of_its_edges() -> None:
    edges = [round(n / 20, 2) for n in range(-4, 21)]
    chart = HistogramChart("", "", "", edges, [Series("", [0] * 24)])
    assert chart.ticks() == [-0.2, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert chart.highest == 1
    assert (chart.at(-0.2), chart.at(0.4), chart.at(1.0)) == ("0.00", "50.00", "100.00")
