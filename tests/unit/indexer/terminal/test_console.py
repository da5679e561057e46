"""What is printed is what was said: no markup, no emoji codes, nothing lost."""

import pytest
from rich.console import Console

from indexer.artifacts.lines import Refusals
from indexer.terminal.console import err, print_refusals
from indexer.terminal.index import print_personas, print_stats
from indexer.terminal.progress import ProgressBar
from indexer.terminal.ranking import print_ranking
from indexer.terminal.tables import print_counts
from p4r_qdrant.index.engine import IndexStats
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.records import Because, Interaction, RankedItem, Ranking, StoredPersona

WILD = "[bold]x[/bold] :book: [/] \\ <b>&amp;</b> 🎻"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def persona(text: str) -> StoredPersona:
    return StoredPersona(text, text, text, text, text, {"item_title": text, "summary": text})


def test_wild_texts_are_printed_to_the_letter(capsys: pytest.CaptureFixture[str]) -> None:
    ranking = Ranking(
        (
            RankedItem(WILD, 1, 0.5, 0.5, persona(WILD), (Because(WILD, "", 0.5, 1.0),), None, 2),
            RankedItem("plain", 2, None, generator_rank=1),
        )
    )
    print_ranking(WILD, ranking, {"plain": WILD}, [Interaction(WILD, 0)])
    print_personas(WILD, [persona(WILD)])
    print_stats(IndexStats(WILD, WILD, 1, 1, IndexMetadata("f", 3, WILD), {"detail": WILD}))
    print_counts(WILD, {WILD: 3})
    printed = capsys.readouterr().out
    assert printed.count(WILD) >= 19
    assert "📖" not in printed
    assert "▲1" in printed
    assert "▼1" in printed
    assert "100%" in printed


@pytest.mark.parametrize("width", [20, 40, 80])
def test_names_and_titles_that_do_not_fit_on_a_line_are_wrapped(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    long = " ".join(f"word{number}" for number in range(60))
    items = (RankedItem(long, 1, 0.5, 0.5, persona(long), generator_rank=2),)
    print_ranking(long, Ranking(items), {long: long}, [Interaction(long, 0, title=long)])
    print_personas(long, [persona(long)])
    printed = capsys.readouterr().out
    for number in range(60):
        assert printed.count(f"word{number}") >= 13, "nothing is cut"


def test_a_user_without_a_history_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_ranking("u", Ranking((RankedItem("a", 1, None, generator_rank=1),), False), {})
    printed = capsys.readouterr().out
    assert "No history: the generator's order was kept." in printed
    assert "·" in printed


def test_refusals_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    refusals = Refusals(keep=2)
    for number in range(5):
        refusals.add(f"{WILD}:{number}: {'long ' * 100}end", f"reason {number % 2}")
    print_refusals(refusals)
    print_refusals(Refusals())
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0] == f"refused: {WILD}:0: {'long ' * 100}end", "a sentence stays on one line"
    assert lines[2:] == ["... and 3 more", "refused in all: 3 reason 0, 2 reason 1"]


def test_progress_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(err, Console)
    with ProgressBar() as bar:
        bar.start("indexing", total=3)
        bar.advance()
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")
