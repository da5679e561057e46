"""The page of an experiment: what it says, in which words, and that no text breaks out of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.evaluation import significance
from indexer.evaluation.experiment import conclusions
from indexer.evaluation.experiment.ablations import SUMMARY_ONLY
from indexer.evaluation.experiment.csv_tables import csv_tables
from indexer.evaluation.experiment.figures import figures
from indexer.evaluation.experiment.page import page
from indexer.evaluation.experiment.paper_layout import paper_layout, table4
from indexer.evaluation.experiment.pooled import pooled, pooled_page, sentences
from indexer.evaluation.experiment.wording import (
    form_name,
    generator_name,
    line_name,
    named_values,
    variant_name,
)
from indexer.metrics import metric_names, ndcg
from tests.support.experiment_results import results
from tests.support.html_page import HOSTILE, Page


def test_hostile_texts_stay_texts() -> None:
    found = Page(page(results(HOSTILE, generator=HOSTILE)))
    found.check_harmless()
    found.check_tables()
    assert found.text.count("<script>alert(1)</script>") > 60
    assert "{{ 7 * 7 }}" in found.text, "a template in a text is a text"


def test_the_most_important_comes_first() -> None:
    found = Page(page(results()))
    assert found.headings[:3] == ["text: reranking by personas", "Main results", "Examples"]
    first = found.text.index("What this says")
    assert first < found.text.index("Data and measures") < found.text.index("Main results")
    assert found.text.count("What this says") == 8


def test_the_papers_layout_has_its_tables_and_says_what_is_left_out() -> None:
    made = results()
    found = Page(page(made)).text
    for text in (
        "Table 6: summaries in place of personas",
        "Table 7: one request with 20 candidates",
        "500.0 ms",
        "2,000 MB on the GPU",
        "Table 10: the number of personas of an item",
        "Figure 4: time until the last answer, by users, with 20 candidates",
        "Figure 4: time until the last answer, by candidates, with 1 user",
        "Figure 5: explanations of personas against text",
        "60% [10%, 90%]",
        "Figure 6, personas against text: left out, the judge, text, fails its controls",
        "(text: 3 of 9 right), so no win rate is given.",
        "What is called the paper's own is printed in the paper, under its protocol: other data",
    ):
        assert text in found
    bare = Page(page(made | {"bench": None, "judged": None})).text
    assert "Table 7 and Figure 4, latency and memory: left out" in bare
    assert "add [peers.judge]" in bare
    none = Page(page(made | {"bench": None, "judged": None, "peers": None, "ablations": []})).text
    assert "Tables 4 and 5, LLM rerankers: left out, the experiment has no [peers]." in none
    assert "Table 6, summaries alone: left out" in none


def test_the_page_says_whether_the_judge_passed_its_controls() -> None:
    made = results()
    fit, none, unfit = made["judged"]
    text = Page(page(made)).text
    assert "Figure 5, explanations against texttext990.0020yesgiven" in text
    assert "Figure 6, personas against texttext390.9100nowithheld" in text
    assert "has passed all controls" in Page(page(made | {"judged": [fit]})).text
    failed = Page(page(made | {"judged": [none, unfit]})).text
    assert "nowithheld" in failed
    assert "has passed all controls" not in failed
    assert "ours wins" not in failed


def test_the_page_says_what_the_figures_of_llm_rerankers_mean() -> None:
    made = results()
    _, none, *more = conclusions.peers(made)
    assert "better than their generator beyond chance (corrected p below 0.05): none." in none
    assert not more
    *_, listwise, rated = made["peers"]["lines"]
    listwise["asked"] |= {"tau": {"mean": 0.01, "low": -0.02, "high": 0.04}}
    rated["own"] |= {"p_holm": 0.01}
    _, some, blind = conclusions.peers(made)
    assert "0.05): rated (with averages)." in some
    assert blind.startswith("The orders of listwise depend on the order of the prompt and not")
    assert blind in Page(page(made)).text
    made["peers"]["users"] = made["data"]["users"] - 1
    assert f"(a random sample of all {made['data']['users']:,})" in Page(page(made)).text


def test_the_methods_line_stands_last_and_beside_the_generator() -> None:
    made = results()
    rows = [one for one in made["ablations"] if one["name"] == SUMMARY_ONLY]
    made["ablations"] = [one | {"name": "Eq. 10", "group": "as it is"} for one in rows] + rows
    group, *_ = paper_layout(made)["table6"]
    assert [one.line for one in group.rows] == [
        *("generator alone", variant_name(SUMMARY_ONLY), variant_name("Eq. 10"))
    ]
    assert all(len(one.values) == 9 for one in group.rows)


def test_latency_is_drawn() -> None:
    names = [name for name, _ in figures(results())]
    assert "latency.png" in names
    assert "latency.png" not in [name for name, _ in figures(results() | {"bench": None})]


def test_names_in_place_of_fields() -> None:
    found = Page(page(results()))
    for text in ("candidates per user", "encoder: trained adapter", "persona prior 0.5"):
        assert text in found.text
    for field in ("training_interactions", "p_holm", "itemknn", "ease,", "fused, untrained"):
        assert field not in found.text
    assert generator_name("itemknn") == "item-kNN"
    assert generator_name("mine") == "mine"
    assert line_name("fused, trained, options") == "generator and personas (trained, with options)"
    assert line_name("generator alone") == "generator alone"
    assert variant_name("at most 1 personas an item") == "at most 1 persona per item"
    assert variant_name("at most 7 personas an item") == "at most 7 personas per item"
    assert variant_name("decay 0.7") == "decay 0.7"
    assert form_name({"prior": 0.5, "aggregation": "soft"}) == (
        "persona prior 0.5, score of an item soft"
    )
    settings = {"seeds": [1, 2], "encoder": {"adapter": None}, "a_new_one": True, "lists": {}}
    assert named_values(settings) == [
        ("random seeds", "1, 2"),
        ("encoder: trained adapter", "none"),
        ("a new one", "yes"),
        ("lists made elsewhere", "none"),
    ]


def test_conclusions_are_made_of_the_figures() -> None:
    found = results()
    overall = list(conclusions.overall(found))
    assert overall[0] == (
        "With 10 candidates, generator and personas (untrained) of EASE is chosen on validation "
        "items. Its NDCG@10 on test items is 0.4000; against the strongest generator, EASE, that "
        "is +0.1000, +25.0% (beyond chance: 95% interval +0.0000 to +0.2000, corrected p 0.0200)."
    )
    assert overall[1] == (
        "Personas alone are better than the generator alone in 2 of 2 comparisons, beyond chance "
        "(corrected p below 0.05) in 2."
    )
    assert "EASE: NDCG@10 is 0.400 in the generator's own order, 0.400 (+25%" in overall[3]
    assert "4 of 4 reranked lines beat their own generator" in conclusions.main(found)
    assert conclusions.cold(found) == (
        "Of 5 users whose test item lost all its interactions, 40% have it among the first ten of "
        "the catalogue by personas alone. A generator that reads interactions alone cannot find it."
    )
    assert conclusions.trust(found) == (
        "2 checks found no held-out interactions in what was made. 1 list made elsewhere could "
        "not be checked."
    )
    assert "4 interactions with decay 1 is best: NDCG@10 0.4100" in conclusions.history(found)
    found["main"][1]["own"] = found["main"][1]["own"] | {"p_holm": 0.5}
    assert "beyond chance (corrected p below 0.05) in 1." in list(conclusions.overall(found))[1]
    found["primary"][0]["against"]["p_holm"] = 0.5
    assert "(not beyond chance: 95% interval" in next(conclusions.overall(found))
    found["primary"][0] |= {"line": "generator alone"}
    assert list(conclusions.primary(found)) == [
        "With 10 candidates, EASE is chosen on validation items: personas add nothing to it there."
    ]


def test_without_what_may_be_missing() -> None:
    found = results() | {"segments": [], "seeds": [], "examples": [], "cold": []}
    text = Page(page(found)).text
    assert "There are too few users to compare segments." in text
    assert "Examples" not in text
    assert "Items that nobody has bought yet" not in text
    assert "How much is chance?" not in text


@pytest.mark.parametrize("leaking", [True, False])
def test_a_leak_is_said_above_and_below(leaking: bool) -> None:
    found: dict[str, Any] = results() | {"leaking": leaking}
    assert page(found).count("It is not a result.") == 2 * leaking
    assert page(found).count("Attention: ") == 2 + 2 * leaking
    assert all(("leaking" in table) == leaking for _, table in csv_tables(found))


def test_the_page_is_always_the_same(tmp_path: Path) -> None:
    html = page(results())
    assert html == page(results())
    assert "prefers-color-scheme: dark" in html
    assert 'style="--share: 60%"' in html


def test_several_experiments_are_compared_over_all_users() -> None:
    first, second = results("first"), results("second")
    second["primary"][0]["ranks"] = {"ours": [1, 1], "theirs": [0, 2]}
    rows = pooled([first, second])
    assert [(row["data"], row["users"]) for row in rows] == [
        ("first", 4),
        ("second", 2),
        ("all data sets", 6),
    ]
    ours, theirs = np.array([1, 2, 0, 4, 1, 1]), np.array([2, 3, 0, 4, 0, 2])
    assert rows[2]["ndcg"] == pytest.approx(ndcg(ours))
    assert rows[2]["against"]["mean"] == pytest.approx(ndcg(ours) - ndcg(theirs))
    values = [row["against"]["p"] for row in rows]
    assert [row["against"]["p_holm"] for row in rows] == pytest.approx(significance.holm(values))
    [sentence] = sentences(rows)
    assert sentence.startswith("Over all 6 users, with 10 candidates, NDCG@10 is ")
    assert first["primary"][0]["against"]["p_holm"] == 0.02, "each report keeps its own"


def test_a_number_of_candidates_is_pooled_over_those_that_have_it() -> None:
    first, second, third = results("first"), results("second"), results("third")
    second["primary"][0]["candidates"] = 20
    rows = pooled([first, second, third])
    assert [(row["data"], row["candidates"]) for row in rows[3:]] == [("all data sets", 10)]
    assert rows[3]["users"] == rows[0]["users"] + rows[2]["users"]
    assert len(pooled([first, second])) == 2, "one alone is not pooled"


def test_the_page_of_several_experiments() -> None:
    found = Page(pooled_page([results(HOSTILE), results("second")], ["one", "two & 3"]))
    found.check_harmless("one/report.html", "two%20%26%203/report.html")
    found.check_tables()
    assert "all data sets" in found.text


def test_table_4_has_all_data_sets() -> None:
    first, second, without = results("first"), results("second"), results("third")
    without["peers"] = None
    only = second["peers"]["lines"].pop()
    here, there, *papers = table4([first, second, without])
    assert [here.title, there.title] == [
        f"{name}: EASE, 10 candidates, {first['peers']['users']:,} users"
        for name in ("first", "second")
    ]
    assert here.rows[-1].line == line_name(only["line"])
    assert here.rows[-1].values == [only["metrics"][name]["mean"] for name in metric_names()]
    assert here.rows[:-1] == there.rows
    assert all(one.theirs for one in papers)
    found = Page(pooled_page([first, second], ["one", "two"]))
    found.check_tables()
    assert "Table 4: data set, generator, reranker" in found.text
    assert "under its protocol" in found.text
    assert "Table 4" not in Page(pooled_page([without], ["three"])).text


def test_the_papers_own_figures_stand_beside_ours_and_nowhere_else() -> None:
    made = results()
    found = Page(page(made))
    found.check_tables()
    for text in (
        "the paper's own: Amazon-Books, BPR-MF, 20 candidates",
        "the paper's own: Yelp, LightGCN, 20 candidates",
        "77,974.08 ± 1,229.99",
        "by more than 30 percentage points in faithfulness",
        "EXP3RT from about 1,000 s to more than 10,000 s",
    ):
        assert text in found.text
    none = page(made | {"bench": None, "judged": None, "peers": None, "ablations": []})
    assert "the paper's own" not in Page(none).text.replace("What is called the paper's own", "")
    layout = paper_layout(made)
    counts = {4: 4, 5: 2, 6: 2, 10: 1}
    for number, count in counts.items():
        theirs = [one for one in layout[f"table{number}"] if one.theirs]
        assert len(theirs) == count, number
        columns = layout["segments"] if number == 5 else layout["metrics"]
        assert all(len(row.values) == len(columns) for one in theirs for row in one.rows)
        assert any(value for one in theirs for row in one.rows for value in row.values)


def test_the_papers_own_figures_were_read_without_a_slip() -> None:
    """What must hold of such figures, and the gains that the paper itself derives from them."""
    made = paper_layout(results())
    names = made["metrics"]
    read = {}
    for number in (4, 6, 10):
        for group in (one for one in made[f"table{number}"] if one.theirs):
            for row in group.rows:
                one = {n: v for n, v in zip(names, row.values, strict=True) if v is not None}
                read[number, group.title, row.line] = one
                for kind in ("HR", "MRR", "NDCG"):
                    by_cutoff = [one[f"{kind}@{k}"] for k in (5, 10, 20) if f"{kind}@{k}" in one]
                    assert by_cutoff == sorted(by_cutoff)
                for k in (5, 10, 20):
                    values = [one.get(f"{kind}@{k}") for kind in ("MRR", "NDCG", "HR")]
                    known = [value for value in values if value is not None]
                    assert known == sorted(known), (group.title, row.line, k)
    for title in ("Amazon-Books, BPR-MF", "Amazon-Books, LightGCN"):
        own = f"the paper's own: {title}, 20 candidates"
        for line in ("generator alone", "Persona4Rec, fine-tuned"):
            small, large = read[6, own, line], read[4, own, line]
            assert small.items() <= large.items(), "both tables say the same"
    gains = {"BPR-MF": (8.1, 10.2), "LightGCN": (7.5, 10.9)}
    for generator, expected in gains.items():
        own = f"the paper's own: Amazon-Books, {generator}, 20 candidates"
        alone, full = read[6, own, "generator alone"], read[6, own, "Persona4Rec, fine-tuned"]
        for name, gain in zip(("HR@10", "NDCG@10"), expected, strict=True):
            assert 100 * (full[name] / alone[name] - 1) == pytest.approx(gain, abs=0.051)
    in_segments = {
        "BPR-MF": (27.7, 35.6, 3.8, 4.2, 2.7, 4.1, 16.1, 5.9),
        "LightGCN": (12.5, 22.8, 4.5, 8.7, 1.6, 5.5, 18.8, 3.6),
    }
    for group in (one for one in made["table5"] if one.theirs):
        derived = in_segments[group.title.split(", ")[1]]
        alone, full = group.rows[0].values, group.rows[-1].values
        found = [100 * (b / a - 1) for a, b in zip(alone, full, strict=True) if a and b]
        assert found == pytest.approx(derived, abs=0.3)
