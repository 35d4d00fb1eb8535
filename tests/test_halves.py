import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.catalogue.halves import HALF, SINGLE, as_stored, decode, encode, is_kept, to_halves
from retrieval.errors import EncoderError


def unit_rows(count, embed_dim, seed):
    rows = np.random.default_rng(seed).standard_normal((count, embed_dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_by_hand():
    blob = encode(np.array([0.6, -0.8], np.float32), 2)
    # The halves nearest to 0.6 and -0.8 are 2458/4096 and -1638/2048, least byte first.
    assert blob == bytes([0xCD, 0x38, 0x66, 0xBA])
    assert as_stored(blob).tolist() == [2458 / 4096, -1638 / 2048]
    length = np.hypot(2458 / 4096, 1638 / 2048)
    expected = [2458 / 4096 / length, -1638 / 2048 / length]
    assert decode([blob], HALF)[0] == pytest.approx(np.float32(expected), abs=1e-7)


@given(st.integers(1, 600), st.integers(0, 2**32 - 1))
def test_rows_come_back_as_unit_rows_of_the_same_direction(embed_dim, seed):
    rows = unit_rows(3, embed_dim, seed)
    back = decode([encode(row, embed_dim) for row in rows], HALF)
    assert back.dtype == np.float32
    assert np.abs(np.linalg.norm(back.astype(np.float64), axis=1) - 1).max() < 1e-6
    assert (back.astype(np.float64) * rows).sum(axis=1).min() > 1 - 1e-6


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_what_was_stored_is_stored_again_digit_for_digit(embed_dim, seed):
    blob = encode(unit_rows(1, embed_dim, seed)[0], embed_dim)
    assert encode(as_stored(blob), embed_dim) == blob


def test_a_row_does_not_depend_on_those_beside_it():
    blobs = [encode(row, 48) for row in unit_rows(9000, 48, 0)]
    alone = decode([blobs[4099]], HALF)
    assert decode(blobs, HALF)[4099].tobytes() == alone.tobytes()
    assert decode([blobs[4099]] * 9000, HALF).tobytes() == alone.tobytes() * 9000


def test_rows_of_schema_1_are_read_as_they_are_and_halved_once():
    rows = unit_rows(4, 16, 1)
    blobs = [row.astype(SINGLE).tobytes() for row in rows]
    assert decode(blobs, SINGLE).tobytes() == rows.tobytes()
    assert [to_halves(blob) for blob in blobs] == [encode(row, 16) for row in rows]


def test_a_damaged_row_of_zeros_stays_one():
    assert decode([bytes(8)], HALF).tolist() == [[0, 0, 0, 0]]


def test_another_width_is_refused():
    with pytest.raises(EncoderError, match=r"shape \[2\] .* got \[3\]"):
        encode(np.ones(3, np.float32), 2)


def test_a_row_is_known_again_although_the_last_digit_of_a_half_is_another():
    rows = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    kept = decode([encode(row, 8) for row in rows], HALF)
    again = decode([encode(row, 8) for row in kept], HALF)
    assert any(encode(a, 8) != encode(b, 8) for a, b in zip(again, rows, strict=True))
    assert all(is_kept(a, b) for a, b in zip(again, rows, strict=True))
    assert not any(is_kept(a, b) for a, b in zip(again, rows[1:], strict=False))
    moved = rows + np.float32(0.01)
    assert not any(is_kept(a, b) for a, b in zip(again, moved, strict=True))
