"""Vectors of fewer bytes against numbers computed by hand, and against exact search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_text.errors import DimensionsError
from clip_text.evaluation.vectors import measure_vectors, ranks_found
from clip_text.vectors import (
    check_dimensions,
    from_bits,
    from_int8,
    search_bits,
    to_bits,
    to_int8,
    truncate,
)


def unit_rows(number, width, seed=0):
    rows = np.random.default_rng(seed).standard_normal((number, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**32 - 1))


def test_a_prefix_is_made_unit_again():
    rows = np.array([[0.6, 0.0, 0.8], [0.36, 0.48, 0.8]], np.float32)
    np.testing.assert_allclose(truncate(rows, 2), [[1, 0], [0.6, 0.8]], atol=1e-7)
    assert truncate(rows, 2).dtype == np.float32
    assert truncate(rows, 3) is rows
    assert truncate(rows[:0], 2).shape == (0, 2)


def test_a_prefix_of_a_prefix_is_the_prefix():
    rows = unit_rows(5, 16)
    np.testing.assert_allclose(truncate(truncate(rows, 9), 4), truncate(rows, 4), atol=1e-6)


@pytest.mark.parametrize("dimensions", [0, -1, 4, 2.0, True, "2"])
def test_impossible_dimensions_are_refused(dimensions):
    message = r"expected dimensions from 1 to 3 .*, got .*\. Ask for a whole"
    with pytest.raises(DimensionsError, match=message):
        truncate(np.eye(3, dtype=np.float32), dimensions)
    with pytest.raises(ValueError, match="expected dimensions"):
        check_dimensions(dimensions, 3)


def test_a_row_of_which_nothing_is_left_is_refused():
    message = r"expected something in the first 2 dimensions .* 1 others, the first at row 2"
    with pytest.raises(ValueError, match=message):
        truncate(np.eye(3, dtype=np.float32), 2)


def test_int8_by_hand():
    rows = np.array([[0.6, -0.8, 0.0], [-0.02, 0.01, 0.005]], np.float32)
    # 0.6 / 0.8 x 127 = 95.25; 0.01 / 0.02 x 127 = 63.5, to even; 31.75
    assert to_int8(rows).tolist() == [[95, -127, 0], [-127, 64, 32]]
    assert to_int8(rows).dtype == np.int8
    length = np.sqrt(95**2 + 127**2)
    np.testing.assert_allclose(from_int8(to_int8(rows))[0], [95 / length, -127 / length, 0])
    assert to_int8(-rows).tolist() == (-to_int8(rows)).tolist()


@given(SHAPES)
def test_int8_there_and_back_is_within_half_a_step(shape):
    rows = unit_rows(*shape)
    again = from_int8(to_int8(rows))
    np.testing.assert_allclose(np.linalg.norm(again, axis=1), 1, atol=1e-6)
    # half a step an element moves the row by as much times √width, and its length no further
    step = np.abs(rows).max(1, keepdims=True) / 127
    assert (np.abs(again - rows) <= step / 2 * (1 + np.sqrt(rows.shape[1])) + 1e-6).all()
    assert to_int8(again).tolist() == to_int8(rows).tolist(), "coded again, nothing changes"


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_int8_refuses_what_has_no_scale(bad):
    rows = unit_rows(3, 4)
    rows[1] = bad
    with pytest.raises(ValueError, match=r"expected finite rows .*, got 1 others.*at row 1\."):
        to_int8(rows)
    with pytest.raises(ValueError, match="expected codes that are not all zero"):
        from_int8(np.zeros((1, 4), np.int8))


def test_bits_by_hand():
    rows = np.array([[0.1, -0.2, 0.0, 0.3, 1, 1, 1, 1, -1, 0.5]], np.float32)
    # + - 0 + + + + +, then - + and six of nothing: zero is not above zero
    assert to_bits(rows).tolist() == [[0b10011111, 0b01000000]]
    signs = np.array([1, -1, -1, 1, 1, 1, 1, 1, -1, 1]) / np.sqrt(10)
    np.testing.assert_allclose(from_bits(to_bits(rows), 10)[0], signs, rtol=1e-6)


@given(SHAPES)
def test_bits_there_and_back_and_their_cosine_is_what_differs(shape):
    rows = unit_rows(*shape)
    bits, width = to_bits(rows), rows.shape[1]
    signs = from_bits(bits, width)
    assert to_bits(signs).tolist() == bits.tolist()
    differing = np.bitwise_count(bits[:, None] ^ bits[None]).sum(-1)
    np.testing.assert_allclose(signs @ signs.T, 1 - 2 * differing / width, atol=1e-5)


def test_search_by_hand():
    rows = np.array([[0.6, 0.8], [0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6]], np.float32)
    query = np.array([[1.0, 0.01]], np.float32)
    # two rows have the query's bits, and of them the second is nearer
    scores, places = search_bits(query, to_bits(rows), rows, k=2, candidates=2)
    assert places.tolist() == [[1, 0]]
    np.testing.assert_allclose(scores, [[0.806, 0.608]], atol=1e-6)
    # a third candidate is a bit away
    _, places = search_bits(query, to_bits(rows), rows, k=3, candidates=3)
    assert places.tolist() == [[1, 0, 2]]


@settings(max_examples=30)
@given(SHAPES, st.integers(1, 12), st.sampled_from(["fp32", "fp16", "int8"]))
def test_with_all_as_candidates_the_order_is_that_of_exact_search(shape, k, stored):
    rows = unit_rows(*shape)
    rows = np.concatenate([rows, rows[:3]])  # twins: of equal scores the earlier row comes first
    queries = unit_rows(4, rows.shape[1], seed=1)
    kept = {"fp32": rows, "fp16": rows.astype(np.float16), "int8": to_int8(rows)}[stored]
    found, places = search_bits(queries, to_bits(rows), kept, k, candidates=max(k, len(rows)))
    as_stored = from_int8(kept) if stored == "int8" else kept
    exact = (queries.astype(np.float64) @ as_stored.astype(np.float64).T).astype(np.float32)
    expected = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    assert places.tolist() == expected.tolist()
    np.testing.assert_allclose(found, np.take_along_axis(exact, expected, 1), atol=1e-6)


def test_nothing_to_search_or_to_ask():
    rows = unit_rows(5, 8)
    for queries, among, shape in ((rows[:0], rows, (0, 2)), (rows, rows[:0], (5, 0))):
        scores, places = search_bits(queries, to_bits(among), among, 2, 4)
        assert scores.shape == places.shape == shape


def test_searches_that_cannot_be_are_refused():
    rows = unit_rows(5, 12)
    for k, candidates in ((0, 4), (5, 4)):
        with pytest.raises(ValueError, match=rf"expected k from 1 to .* 4, got {k}\. Score more"):
            search_bits(rows, to_bits(rows), rows, k, candidates)
    for bits, kept in ((to_bits(rows[:4]), rows), (to_bits(rows), rows[:, :8])):
        with pytest.raises(ValueError, match="expected bits and rows of shapes"):
            search_bits(rows, bits, kept, 1, 1)


def test_ranks_among_what_was_found():
    scores = np.array([[0.9, 0.5, 0.5, 0.1]] * 4, np.float32)
    places = np.array([[7, 3, 5, 1]] * 4)
    # at the top; tied with one wrong; both of the tied right; not found
    assert ranks_found(scores, places, [[1, 7], [5], [3, 5], [2]]).tolist() == [1, 2.5, 2, np.inf]


def table(width=16):
    from clip_text.data.collection import Text, retrieval_set
    from clip_text.evaluation.measure import Encoded

    number = 60
    images = unit_rows(number, width)
    noise = 0.5 * unit_rows(number, width, seed=1)
    texts = images + noise
    collection = retrieval_set(
        "noise",
        {str(at): b"" for at in range(number)},
        [Text(str(at), f"text {at}", (str(at),), "zh") for at in range(number)],
    )
    return collection, Encoded(texts / np.linalg.norm(texts, axis=1, keepdims=True), images, [])


def test_costs_of_every_form():
    collection, encoded = table()
    costs = measure_vectors(collection, encoded, (16, 4), resamples=100)
    by_form = {(cost.dimensions, cost.form): cost for cost in costs}
    assert len(by_form) == len(costs) == 14
    whole = by_form[16, "fp32"]
    exact = (encoded.texts @ encoded.images.T).argmax(1) == np.arange(60)
    assert whole.recall[1].value == pytest.approx(exact.mean())
    assert whole.difference[1].difference.value == 0
    bytes_of = {form: (cost.scanned, cost.stored) for (at, form), cost in by_form.items() if at < 9}
    assert bytes_of == {
        "fp32": (16, 16),
        "fp16": (8, 8),
        "int8": (4, 4),
        "binary": (1, 1),
        "binary, whole queries": (1, 1),
        "binary, 40 re-scored by int8": (1, 5),
        "binary, 100 re-scored by int8": (1, 5),
    }
    for (number, form), cost in by_form.items():
        for k, found in cost.recall.items():
            difference = cost.difference[k].difference.value
            assert difference == pytest.approx(found.value - whole.recall[k].value)
        # all sixty are candidates: what is left is int8's own
        if form == "binary, 100 re-scored by int8":
            assert cost.recall == by_form[number, "int8"].recall
    assert by_form[16, "binary"].recall[1].value < by_form[16, "int8"].recall[1].value
    assert by_form[4, "fp32"].recall[1].value < whole.recall[1].value
    assert by_form[4, "fp32"].difference[1].p_value < 0.05


def test_all_half_and_a_quarter_by_default():
    collection, encoded = table()
    costs = measure_vectors(collection, encoded, resamples=100)
    assert list(dict.fromkeys(cost.dimensions for cost in costs)) == [16, 8, 4]
    with pytest.raises(DimensionsError):
        measure_vectors(collection, encoded, (17,))
