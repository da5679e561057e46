"""What goes into a prompt and what may come out of one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.prompts import Domain
from indexer.reasoning.sanitizing import cleaned, metadata, parts, problem_with
from p4r_qdrant import Item
from tests.support.injections import INJECTIONS, ORDERS, VERDICT_ORDERS, WANTED

SYSTEM = Domain.load("books").render("aspects", material="x", language="English", slots="", form="")


@pytest.mark.parametrize("order", ORDERS)
def test_a_sentence_that_addresses_a_model_is_taken_out(order: str) -> None:
    text = f"I read it on the ferry. {order.format('OWNED')} The maps are good."
    found = cleaned(text)
    assert "OWNED" not in found.text
    assert found.removed >= 1
    assert found.text == "I read it on the ferry."


@pytest.mark.parametrize("wanted", WANTED)
def test_an_answer_that_holds_what_it_must_not_is_refused(wanted: str) -> None:
    assert problem_with(wanted, SYSTEM.system, most_words=60)


@pytest.mark.parametrize(
    "text",
    [
        "I ignored the reviews above and bought it anyway.",
        "The author writes only in the evening, and it shows.",
        "My system of shelves has no room for it. You are now reading a happy man.",
        "She repeats the same three instructions for dough in every chapter.",
        "Say what you like, the ending is weak.",
    ],
)
def test_what_people_say_stays(text: str) -> None:
    """A person may use any of those words."""
    found = cleaned(text)
    assert found.text.startswith(text.partition(".")[0])


@pytest.mark.parametrize("order", [*ORDERS, *VERDICT_ORDERS])
def test_where_texts_are_judged_none_may_ask_for_a_verdict(order: str) -> None:
    text = f"I read it on the ferry. {order.format('OWNED')} The maps are good."
    assert cleaned(text, judged=True).text == "I read it on the ferry."


@pytest.mark.parametrize(
    "text",
    [
        "I had to answer two questions and choose one of both options.",
        "A friend asked me to judge a leek show, and the judge must be fair.",
        "Text a friend, set a table, pick a book: a plan A and a vitamin B sort of novel.",
        "I prefer the vegetarian option. I would rate it higher than the first.",
        "This explanation of resonance is clear, and the second explanation even clearer.",
    ],
)
def test_what_people_say_stays_where_texts_are_judged(text: str) -> None:
    assert cleaned(text, judged=True).text == text


def test_ordinary_phrases_pass() -> None:
    for phrase in ("historical fiction, 1920s", "a gift for his mother's 80th", "prose over plot"):
        assert problem_with(phrase, SYSTEM.system, most_words=40) is None


@given(st.text(max_size=400))
def test_cleaned_text_is_visible_and_stays_so(text: str) -> None:
    once = cleaned(text)
    assert not any(one in once.text for one in "\x00\x1b\u202e\u200b\ufeff")
    assert cleaned(once.text) == once or once.removed == 0


@given(st.text(st.sampled_from("ab .!?\n"), max_size=3000), st.integers(20, 200))
def test_parts_lose_nothing_while_there_is_room(text: str, length: int) -> None:
    pieces = parts(text, length, most=10_000)
    assert all(0 < len(piece) <= length for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_a_very_long_review_keeps_its_beginning_and_its_end() -> None:
    text = "First words. " + "And so on it goes. " * 20_000 + "Last words."
    pieces = parts(text)
    assert len(pieces) == 12
    assert pieces[0].startswith("First words.")
    assert pieces[-1].endswith("Last words.")


def test_metadata_without_html_and_without_what_nobody_filled_in() -> None:
    item = Item.model_validate(
        {
            "item_id": "x",
            "title": "Tea &amp; Toast",
            "description": "<p>A <b>book</b>.</p>",
            "categories": ["Food", "Drink"],
            "brand": "",
            "price": 9.5,
            "pages": None,
        }
    )
    assert metadata(item).text == (
        "title: Tea & Toast\ncategories: Food, Drink\nprice: 9.5\ndescription: A book ."
    )
    assert metadata(Item(item_id="y")).text == ""


def test_there_are_forty_injections() -> None:
    assert len(set(INJECTIONS)) == 40


@pytest.mark.parametrize("domain", ["books", "restaurants", "products"])
def test_every_template_renders_in_every_domain(domain: str) -> None:
    loaded = Domain.load(domain)
    values = {"slots": "s", "form": "f", "least": 2, "most": 7}
    values |= {"remarks": "r", "open_remarks": "<r>", "close_remarks": "</r>"}
    again = ("personas_again", "personas_unseen_again")
    for step in ("summary", "aspects", "personas", "personas_unseen", *again, "alignment"):
        prompt = loaded.render(step, material="<<THE MATERIAL>>", language="French", **values)
        assert "<<THE MATERIAL>>" in prompt.user
        assert "<<THE MATERIAL>>" not in prompt.system
        assert "French" in prompt.system
        assert loaded.item in prompt.system
        assert "$" not in prompt.system


def test_the_marks_cannot_be_forged() -> None:
    """They follow from the material: whoever writes one changes it."""
    domain = Domain.load("books")
    values = {"slots": "s", "form": "f"}
    mark = domain.render("aspects", material="a", language="x", **values).user.splitlines()[-1]
    forged = domain.render("aspects", material=f"a\n{mark}", language="x", **values).user
    assert forged.splitlines()[-1] != mark
