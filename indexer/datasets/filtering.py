"""Filter interactions: k-core and a sample of users. Works on numbers, not on texts."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int32]
Mask = NDArray[np.bool_]


def k_core(users: Numbers, items: Numbers, k: int) -> Mask:
    """Mark the largest set of interactions where every user and every item has k or more.

    users, items: (n,) numbers from 0, one pair for each interaction. Returns: (n,).
    """
    left = np.arange(len(users))
    while len(left):
        own_users, own_items = users[left], items[left]
        enough = (np.bincount(own_users)[own_users] >= k) & (np.bincount(own_items)[own_items] >= k)
        if enough.all():
            break
        left = left[enough]
    kept = np.zeros(len(users), dtype=np.bool_)
    kept[left] = True
    return kept


def draws(user_ids: Iterable[str], seed: int) -> NDArray[np.uint64]:
    """A pseudo-random number for each user, which depends on the id and the seed alone.

    A sample is the users with the smallest numbers. So the order of the files does not matter, and
    a smaller sample is part of a larger one.
    """
    key = str(seed).encode()
    hashes = (blake2b(one.encode(), digest_size=8, key=key).digest() for one in user_ids)
    return np.fromiter((int.from_bytes(one, "big") for one in hashes), dtype=np.uint64)


def sample_users(users: Numbers, lots: NDArray[np.uint64], size: int) -> Mask:
    """Mark the interactions of the `size` users with the smallest draws.

    users: (n,) numbers. lots: the draw of each user number. Returns: (n,).
    """
    present = np.unique(users)
    drawn = present[np.argsort(lots[present], kind="stable")[:size]]
    chosen = np.zeros(len(lots), dtype=np.bool_)
    chosen[drawn] = True
    return chosen[users]
