"""The very texts the encoder reads. A change here is a change of every vector."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p4r_qdrant import texts
from p4r_qdrant.records import Interaction, Persona

PERSONA = Persona(
    persona_id="p",
    name="Patient Gardener",
    description="Grows things slowly.",
    preference_rationale="This persona appreciates this book because it waits for the apples.",
)
INTERACTION = Interaction(
    item_id="i",
    timestamp=0,
    summary="A farm by the sea.",
    title="The Salt Orchard",
    aspects={"usage_context": "winter evenings", "quality_criteria": None, "purchase_purpose": ""},
)


def test_the_text_of_a_persona() -> None:
    assert texts.persona_text(PERSONA, "A farm by the sea.") == (
        "Patient Gardener. Grows things slowly. It waits for the apples. A farm by the sea."
    )
    assert texts.persona_text(PERSONA) == (
        "Patient Gardener. Grows things slowly. It waits for the apples."
    )


def test_the_text_of_an_interaction() -> None:
    assert texts.interaction_text(INTERACTION) == (
        "A farm by the sea.\nusage context: winter evenings"
    )
    assert texts.interaction_text(Interaction("i", 0, title="The Salt Orchard")) == (
        "The Salt Orchard"
    )
    assert texts.interaction_text(Interaction("i", 0, aspects={"a_b": "x", "c": "y"})) == (
        "a b: x\nc: y"
    )
    assert texts.interaction_text(Interaction("i", 0)) == ""


@pytest.mark.parametrize(
    ("rationale", "reason"),
    [
        ("This persona appreciates this item because it is short.", "It is short."),
        ("this reader enjoys the book because of its brevity.", "Its brevity."),
        ("The user likes this product because  that it works.", "It works."),
        ("THIS DINER LOVES THIS PLACE BECAUSE IT IS LOUD.", "IT IS LOUD."),
        ("  The customers value the restaurant because émigrés cook.", "Émigrés cook."),
        ("This reviewer likes this magazine\nbecause\nit is thin.", "It is thin."),
        ("It is short.", "It is short."),
        ("because it is short", "Because it is short"),
        ("This persona appreciates this item.", "This persona appreciates this item."),
        (
            "This persona appreciates this item because",
            "This persona appreciates this item because",
        ),
        (
            "They say: this user likes this item because x.",
            "They say: this user likes this item because x.",
        ),
        (
            "This user likes this item because this user likes this item because x.",
            "This user likes this item because x.",
        ),
        ("", ""),
        ("🎻", "🎻"),
        ("ﬁve rooms", "Five rooms"),
    ],
)
def test_the_formula_goes(rationale: str, reason: str) -> None:
    assert texts.plain_rationale(rationale) == reason


@given(text=st.text())
def test_nothing_but_the_formula_goes(text: str) -> None:
    assert texts.plain_rationale(text).endswith(text[1:]) or "because" in text.lower()


@given(reason=st.text(min_size=1).filter(lambda text: text.strip() == text))
def test_the_reason_is_kept_to_the_letter(reason: str) -> None:
    told = texts.plain_rationale(f"This persona appreciates this item because it {reason}")
    assert told == f"It {reason}"


@pytest.fixture
def _forgetful() -> Iterator[None]:
    texts.fingerprint.cache_clear()
    yield
    texts.fingerprint.cache_clear()


@pytest.mark.usefixtures("_forgetful")
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("persona_text", lambda persona, _: f"{persona.name}: {persona.description}"),
        ("interaction_text", lambda interaction: interaction.summary),
        ("plain_rationale", lambda rationale: rationale),
        (
            "_FORMULA",
            re.compile(texts._FORMULA.pattern.replace("book", "book|film"), re.IGNORECASE),
        ),
    ],
)
def test_the_fingerprint_follows_the_templates(
    name: str, other: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = texts.fingerprint()
    assert texts.fingerprint() == before
    texts.fingerprint.cache_clear()
    assert texts.fingerprint() == before
    texts.fingerprint.cache_clear()
    monkeypatch.setattr(texts, name, other)
    assert texts.fingerprint() != before
