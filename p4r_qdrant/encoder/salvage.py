"""One text that cannot be encoded does not cost the others their vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import EncoderError, TextsRefusedError

Encode = Callable[[Sequence[str]], Floats]


def encoded_or_refused(
    batch: Sequence[str],
    encode: Encode,
    dimension: int,
    is_of_the_texts: Callable[[EncoderError], bool],
) -> Floats:
    """(n, dim) float32 of a batch, in halves where `encode` raises EncoderError.

    is_of_the_texts: whether other texts can be encoded all the same.
    Raises TextsRefusedError, with the vectors of the others, for single texts that fail;
    EncoderError where it is not their fault.
    """
    vectors = np.full((len(batch), dimension), np.nan, dtype=np.float32)
    refused: dict[int, str] = {}
    parts = [range(len(batch))]
    while parts:
        part = parts.pop()
        try:
            vectors[part.start : part.stop] = encode(batch[part.start : part.stop])
        except EncoderError as error:
            if not is_of_the_texts(error):
                raise
            if len(part) == 1:
                refused[part.start] = str(error)
            else:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
    if refused:
        raise TextsRefusedError(batch, refused, vectors)
    return vectors


def encoded_where_possible(
    encode: Encode, batch: Sequence[str]
) -> tuple[Floats, Mapping[int, str]]:
    """The vectors of a batch, (n, dim) float32, and why there is none, by position."""
    try:
        return encode(batch), {}
    except TextsRefusedError as error:
        return error.vectors, error.reasons
