"""The suite that compares an index with the brute force, over wild catalogues."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from p4r_qdrant import PersonaIndex
from tests.support.oracle import Catalogue, assert_congruent, catalogues, queries

SUITE = settings(
    max_examples=40,
    deadline=None,
    # One index serves all examples: each fills it anew.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def refill(index: PersonaIndex, catalogue: Catalogue) -> None:
    """Put one catalogue in place of another, through every way of writing."""
    for personas in list(index.items()):
        if personas[0].item_id not in catalogue.vectors:
            index.delete_item(personas[0].item_id)
    rows = catalogue.rows()
    assert index.load(rows[::2]) == len(rows[::2])
    for row in rows[1::2]:
        assert index.replace_item(row.item_id, row.personas, row.vectors, row.fields)


def check(index: PersonaIndex, data: st.DataObject) -> None:
    catalogue = data.draw(catalogues())
    refill(index, catalogue)
    for _ in range(3):
        users, candidates, wanted = data.draw(queries(catalogue))
        assert_congruent(index, catalogue, users, candidates, wanted)
    stats = index.stats()
    assert stats.items == len(catalogue.vectors)
    assert stats.personas == sum(map(len, catalogue.vectors.values()))
