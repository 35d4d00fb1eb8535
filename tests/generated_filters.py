"""Filters and the pictures that they are asked of, for property tests."""

import json

from hypothesis import strategies as st

from retrieval.filters import And, Compare, Exists, In, Not, Or, Prefix
from retrieval.filters.values import BOOLEAN, NULL, NUMBER, TEXT, as_scalar, values_of
from retrieval.records import Picture

TEXTS = st.one_of(
    st.sampled_from(
        ["", "a", "ab", "b", "1", "true", "海边", "海", "é", "'; DROP TABLE images; --"]
    ),
    st.text(st.sampled_from("ab海%_'\"\\\0\ud7ff\ue000\U0010ffff\n "), max_size=4),
)
NUMBERS = st.one_of(
    st.integers(-2, 2),
    st.sampled_from([0.5, -0.0, 1.0, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, 2**63, -(2**63)]),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
KEYS = st.sampled_from(["a", "a", "b", "b", "a.b", "标签", "x y", "date", "metadata", "", "'"])
FIELDS = st.sampled_from(
    [
        *("a", "b", "a.b", "a.a", "标签", "x y", "metadata.date", "metadata.width", "metadata.a"),
        *("'", "metadata.metadata.a", "path", "folder", "width", "height", "caption", "none such"),
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)
IDS = ["a.png", "b.png", "2024/a.png", "2024/b.png", "2024/05/a.png", "20240/a.png", "2024.png"]
IDS += ["2024//a.png", "//a.png", "2024/", "/"]
FOLDERS = ["2024", "2024/05", "", "2024/", "/"]
DATES = st.sampled_from(["2023", 2024, "2024-05", "2024-05-10", "2024-05-10T00", "9999", "0001"])

OWN_VALUES = {
    "date": DATES,
    "width": st.integers(0, 4) | st.sampled_from([1.5, 2.0]),
    "height": st.integers(0, 4),
    **dict.fromkeys(("path", "folder"), st.sampled_from([*IDS, *FOLDERS])),
    "caption": TEXTS,
}
ALIKE = {NULL: st.none(), BOOLEAN: st.booleans(), NUMBER: NUMBERS, TEXT: TEXTS}


@st.composite
def pictures(draw):
    """A few pictures of different names."""
    ids = draw(st.lists(st.sampled_from(IDS), unique=True, max_size=4))
    return [
        Picture(
            root=b"/p",
            path=b"/p/" + image_id.encode(),
            image_id=image_id,
            size=1,
            mtime_ns=draw(
                st.sampled_from([0, 1_704_067_199_999_999_999, 1_715_299_200_000_000_000])
                | st.integers(-(2**62), 2**62)
            ),
            content_hash=b"",
            width=draw(st.none() | st.integers(1, 3)),
            height=draw(st.none() | st.integers(1, 3)),
            caption=draw(st.none() | TEXTS),
            metadata=json.dumps(draw(st.dictionaries(KEYS, VALUES, max_size=3))),
        )
        for image_id in ids
    ]


@st.composite
def leaves(draw, known=None):
    """A condition on one field that may be asked.

    Args:
        draw: Hypothesis's.
        known: The values of each field of metadata that there is; most conditions are on one of
            these then, and ask for its values or some like them.
    """
    field = draw(st.sampled_from(["date", "path", "folder", "width", "height", "caption"]) | FIELDS)
    if known and draw(st.integers(0, 9)) > 2:
        field = draw(st.sampled_from(sorted(known)))
    values = OWN_VALUES.get(field, SCALARS)
    if known and field in known:
        there = sorted(known[field])
        alike = {kind: ALIKE[kind] for kind, _ in there}
        values = st.sampled_from([as_scalar(*value) for value in there]) | st.one_of(
            *alike.values()
        )
    field = f"metadata.{field}" if known and field in known else field
    kinds = ["compare", "compare", "in", "exists"]
    if field not in {"date", "width", "height"}:
        kinds.append("prefix")
    match draw(st.sampled_from(kinds)):
        case "in":
            return In(field, tuple(draw(st.lists(values, min_size=1, max_size=3))))
        case "exists":
            return Exists(field)
        case "prefix":
            return Prefix(field, draw(TEXTS))
    value = draw(values)
    ordered = isinstance(value, str | int | float) and not isinstance(value, bool)
    op = draw(st.sampled_from(["=", "!="] + ["<", "<=", ">", ">="] * ordered))
    return Compare(field, op, value)


@st.composite
def questions(draw, ask=None):
    """A few pictures, and filters that mostly can be asked of them."""
    these = draw(pictures())
    known = {}
    for picture in these:
        for name, values in values_of(picture.metadata).items():
            known.setdefault(name, set()).update(values)
    ask = (ask or trees)(leaves(known))
    return these, draw(st.lists(ask, min_size=1, max_size=3))


def trees(leaf=None):
    """Conditions in one another."""
    return st.recursive(
        leaves() if leaf is None else leaf,
        lambda inner: st.one_of(
            st.builds(Not, inner),
            st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
            st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        ),
        max_leaves=4,
    )
