"""Hypothesis strategies: any JSON, a good value with changes, a good file with damages."""

import copy
import gzip
import json
from typing import Any

from hypothesis import strategies as st

TEXTS = st.text(max_size=20) | st.sampled_from(
    ["", "\0", "\ud800", "\u202e", "<script>", "=1+1", "NaN", "1e999", "../../x", "{{ 7 * 7 }}"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**64), 10**400, -0.0, 1e308])
    | st.floats()
    | TEXTS
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [path, *(place for key in keys for place in _places(value[key], (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, good: Any) -> Any:
    """A good value, in which some parts are replaced or removed."""
    whole = [copy.deepcopy(good)]
    for _ in range(draw(st.integers(0, 3))):
        *above, last = draw(st.sampled_from(_places(whole)[1:] or [(0,)]))
        part: Any = whole
        for key in above:
            part = part[key]
        if len(above) and draw(st.booleans()):
            del part[last]
        elif last in part or isinstance(part, list):
            part[last] = draw(JSON)
    return whole[0]


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Good bytes with some cuts and insertions; packed with gzip now and then, before or after."""
    packing = draw(st.sampled_from(["", "", "first", "last"]))
    data = gzip.compress(good, 1, mtime=0) if packing == "first" else good
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.sampled_from([start, start + 1, start + 9, len(data)]))
        data = data[:start] + draw(st.binary(max_size=12) | _MARKS) + data[end:]
    return gzip.compress(data, 1, mtime=0) if packing == "last" else data


_MARKS = st.sampled_from(
    [b"\n", b"\r", b'"', b"\\", b",", b"\t", b"{", b"}", b"[", b"\0", b"\xef\xbb\xbf", b"\xff\xfe"]
)


def encoded(value: Any) -> bytes:
    """A value as JSON, also where it has NaN or lone surrogates."""
    return json.dumps(value).encode()
