"""A process that writes to an embedded index, for tests that kill it or fill its disk.

    python -m tests.support.edge_process FOLDER TASK [NUMBER]

Every line on stdout is an event: `begin ITEM VERSION`, `done ITEM VERSION`, or one word.
"""

import sys
from pathlib import Path

import numpy as np

from p4r_qdrant.errors import P4RError
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.payload import ItemVectors
from tests.support.engines import embedded, opened
from tests.support.oracle import DIMENSION, Floats, persona

ITEMS = 40


def emit(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def version(item: str, number: int, text: str = "text") -> ItemVectors:
    """Version `number` of an item: 1 to 7 personas that follow from the number alone."""
    vectors = vectors_of(number)
    personas = [persona(f"v{number}_P{slot}", text) for slot in range(len(vectors))]
    return ItemVectors(item, personas, vectors)


def vectors_of(number: int) -> Floats:
    random = np.random.default_rng(number)
    return random.standard_normal((1 + number % 7, DIMENSION))


def replace(index: PersonaIndex, first: int) -> None:
    for number in range(first, first + 100_000):
        item = version(f"item-{number % ITEMS}", number)
        emit("begin", item.item_id, number)
        index.replace_item(item.item_id, item.personas, item.vectors)
        emit("done", item.item_id, number)


def load(index: PersonaIndex, first: int) -> None:
    for number in range(first, first + 100_000):
        items = [version(f"item-{one}", number) for one in range(ITEMS)]
        for item in items:
            emit("begin", item.item_id, number)
        index.load(items)
        for item in items:
            emit("done", item.item_id, number)


def optimize(index: PersonaIndex, first: int) -> None:
    load_once = [version(f"item-{one}", first) for one in range(ITEMS)]
    index.load(load_once)
    for item in load_once:
        emit("done", item.item_id, first)
    while True:
        emit("optimizing")
        index.optimize()


def fill(index: PersonaIndex, first: int) -> None:
    """Write until the disk is full."""
    try:
        for number in range(first, first + 100_000):
            item = version(f"item-{number % (100 * ITEMS)}", number, "word " * 400)
            emit("begin", item.item_id, number)
            index.replace_item(item.item_id, item.personas, item.vectors)
            emit("done", item.item_id, number)
    except P4RError as error:
        emit("error", type(error).__name__, error)


def hold(index: PersonaIndex, first: int) -> None:
    del index, first
    emit("open")
    sys.stdin.readline()


TASKS = {"replace": replace, "load": load, "optimize": optimize, "fill": fill, "hold": hold}

if __name__ == "__main__":
    folder, task, *number = sys.argv[1:]
    emit("start")
    try:
        with opened(embedded(Path(folder))) as opened_index:
            TASKS[task](opened_index, int(number[0]) if number else 0)
    except P4RError as error:
        emit("error", type(error).__name__, error)
