"""Names of groups: terms that the group uses, and others do not."""

from indexer.reasoning.extractive.terms import Terms

CATALOGUE = [
    *["the strap is good and the strap is wide", "good strings for a good price"] * 5,
    "the tuner reads every string",
    "a battery came with the tuner",
    "leather straps are wide",
]


def test_a_name_tells_the_groups_of_an_item_apart() -> None:
    tuner, strap = Terms(CATALOGUE).names(
        [
            ["The tuner is good.", "A good tuner reads every string.", "It's the battery."],
            ["The strap is good.", "A good wide strap of leather."],
        ]
    )
    assert tuner.startswith("Tuner, ")
    assert strap.startswith(("Leather", "Wide", "Strap"))
    assert not {"Good", "It"} & {*tuner.split(", ")[:1], *strap.split(", ")[:1]}
    assert not set(tuner.split(", ")) & set(strap.split(", "))


def test_no_name_holds_a_term_twice_in_two_forms() -> None:
    [name] = Terms(CATALOGUE).names([["A strap beside straps, and strings beside a string."]])
    assert name.lower().count("strap") == name.lower().count("string") == 1


def test_equal_groups_have_different_names() -> None:
    names = Terms(CATALOGUE).names([["a tuner"], ["a tuner"], ["a tuner"]])
    assert names == ["Tuner", "Tuner 2", "Tuner 3"]


def test_without_a_telling_term_the_first_sentence_names_the_group() -> None:
    assert Terms(CATALOGUE).names([["It is what it is, and so on.", "zzz"]]) == [
        "It is what it is, and so on."
    ]


def test_a_catalogue_without_terms_learns_from_the_item() -> None:
    for texts in ([], ["it is what it is"]):
        names = Terms(texts).names([["The tuner reads."], ["The strap is wide."]])
        assert names == ["Reads, Tuner", "Strap, Wide"]
