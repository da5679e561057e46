"""Random vectors and personas for an index of the width that the oracle has."""

import numpy as np

from p4r_qdrant import Persona
from tests.support.oracle import DIMENSION, Floats, persona

USER = np.linspace(-1, 1, DIMENSION)


def rows(seed: int, number: int) -> Floats:
    return np.random.default_rng(seed).standard_normal((number, DIMENSION))


def personas(name: str, number: int) -> list[Persona]:
    return [persona(f"{name}_P{slot}") for slot in range(number)]
