"""The windows in which a long list is ordered, a part at a time."""

from __future__ import annotations

from collections.abc import Iterator


def windows(count: int, size: int, step: int, top: int | None = None) -> Iterator[tuple[int, int]]:
    """The windows (start, end) to be ordered, one after the other.

    A pass goes from the tail of the list to its head and carries the best `size - step` items of
    each window along, so that they end in their final places. Further passes order the rest, until
    the first `top` places (None: all) are final. One pass with `top` = `size - step` is RankGPT
    (arXiv 2304.09542).

    >>> list(windows(25, 20, 10, top=10))
    [(5, 25), (0, 15)]
    """
    final, wanted = 0, count if top is None else min(top, count)
    while final < wanted and count - final > 1:
        end = count
        while True:
            start = max(final, end - size)
            yield start, end
            if start == final:
                break
            end -= step
        final += size - step if end < count else count - final
