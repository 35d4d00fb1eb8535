"""Padded token ids to packed rows: texts behind one another, so that no padding is computed."""

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clip_text.runtimes import Features, TokenIds

__all__ = ["PackedRows", "Packing", "Padding", "unpack"]

_ROW = 128
"""Tokens in a row at most, where no text is longer: attention is computed for all pairs in it."""

_COLUMNS, _TEXTS = 8, 4
"""What columns and texts of a row are rounded up to: a library prepares itself for each shape."""

_ALONE = 4
"""What the columns of one text by itself are rounded up to.

Queries come one at a time, and OpenVINO prepares itself for each length that it meets for the first
time: the first 28 lengths took the starter 6.7 ms of the CPU's time each, 4.3 rounded to 4; lengths
met before 3.2 and 3.4. Of its exported form, on another processor, 40 lengths took 6.1 ms each and
3.1 rounded. At RoBERTa-base's size rounding to 8 costs a tenth, rounding to 4 nothing.
"""

_FEW = 64
"""Up to so many texts over token ids come in few shapes, their lengths rounded as above."""

_NUMBERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""What numbers of texts are rounded up to."""

_PART = 256
"""Tokens that a few texts are computed in at a time, padding included.

The weights are read once for each part, which costs as much as some dozens of tokens; with all
texts in one part, each is padded to the longest: 20 pairs of captions, of 11 tokens on average,
came to 2.9 times their tokens. In parts they took 1.7 ms of the CPU's time each instead of 2.5.
"""

Places = NDArray[np.intp]


class PackedRows(NamedTuple):
    """What :class:`clip_text.runtimes.graph.PackedText` takes, in its order.

    Args:
        ids: Token ids, int64 [rows, columns].
        positions: Of each token in its text, int64 [rows, columns].
        owners: Which text of its row a token is of, int64 [rows, columns]; -1 at padding.
        firsts: Column in which each text begins, int64 [rows, texts].
    """

    ids: TokenIds
    positions: TokenIds
    owners: TokenIds
    firsts: TokenIds


@dataclass(frozen=True, slots=True)
class Padding:
    """How a few texts are filled up, for graphs over token ids: they come in few shapes so.

    What computes a shape is made when it first comes, which takes longer than the computing: the
    batches of a service, of whatever number and length, would always come in new ones.

    Args:
        pad_id: The id that fills texts up, which the graph masks.
        context_length: Longest text in tokens; there need not be positions beyond it.
    """

    pad_id: int
    context_length: int

    def parts(self, tokens: TokenIds) -> list[tuple[Places, TokenIds]]:
        """Take up to :data:`_FEW` texts apart by length, so that little padding is computed.

        Args:
            tokens: [n, length], padded at the end; more texts are left as they are.

        Returns:
            Of each part the places of its texts, and these as :meth:`pad` gives them.
        """
        number = len(tokens)
        if not 1 < number <= _FEW:
            return [(np.arange(number), self.pad(tokens))]
        lengths = tokens.shape[1] - (tokens != self.pad_id)[:, ::-1].argmax(1)
        order = np.argsort(-lengths, kind="stable")
        parts: list[tuple[Places, TokenIds]] = []
        while len(order):
            longest = int(lengths[order[0]])
            room = max(1, _PART // (-(-longest // _ALONE) * _ALONE))
            places = order[: max(each for each in _NUMBERS if each <= room)]
            parts.append((places, self.pad(tokens[places, :longest])))
            order = order[len(places) :]
        return parts

    def pad(self, tokens: TokenIds) -> TokenIds:
        """Lengthen up to :data:`_FEW` texts, and repeat the last until they are a round number.

        Args:
            tokens: [n, length]; more texts are given back as they are.

        Returns:
            The texts at their places, and perhaps more behind them.
        """
        number, length = tokens.shape
        if not 0 < number <= _FEW:
            return tokens
        longer = max(0, min(-(-length // _ALONE) * _ALONE, self.context_length) - length)
        more = next(each for each in _NUMBERS if each >= number) - number
        if longer:
            tokens = np.pad(tokens, ((0, 0), (0, longer)), constant_values=self.pad_id)
        return np.concatenate([tokens, np.repeat(tokens[-1:], more, axis=0)]) if more else tokens


@dataclass(frozen=True, slots=True)
class Packing:
    """How the texts of a backbone are packed.

    Args:
        pad_id: The id that fills short rows.
        first_position: Where positions begin that count real tokens only, as RoBERTa's do; None
            where a token's position is its column, from 0, as BERT's.
    """

    pad_id: int
    first_position: int | None = None

    def pack(self, tokens: TokenIds) -> tuple[PackedRows, Places, Places]:
        """Lay texts behind one another.

        Args:
            tokens: int64 [n, length], padded at the end; each text has a token, and may have holes.

        Returns:
            The rows, and of each text its row and its place in the row, both [n].
        """
        real = tokens != self.pad_id
        positions = self._positions(real)
        number = len(tokens)
        if number == 1:
            return self._alone(tokens, positions, real)
        lengths = tokens.shape[1] - real[:, ::-1].argmax(1)
        row_of, start_of, place_of, columns = _places(lengths.tolist())
        size = (int(row_of.max()) + 1, -(-columns // _COLUMNS) * _COLUMNS)
        texts = -(-(int(place_of.max()) + 1) // _TEXTS) * _TEXTS
        text, column = real.nonzero()
        into = (row_of[text], start_of[text] + column)
        packed = self._empty(size, texts)
        packed.ids[into] = tokens[text, column]
        packed.positions[into] = positions[text, column]
        packed.owners[into] = place_of[text]
        packed.firsts[row_of, place_of] = start_of
        return packed, row_of, place_of

    def _alone(
        self, tokens: TokenIds, positions: TokenIds, real: NDArray[np.bool_]
    ) -> tuple[PackedRows, Places, Places]:
        """Lay out one text, [1, length]; the columns after it are padding."""
        length = tokens.shape[1]
        packed = self._empty((1, -(-length // _ALONE) * _ALONE), 1)
        packed.ids[:, :length] = tokens
        packed.positions[:, :length] = positions
        packed.owners[:, :length] = real.astype(np.int64) - 1
        zero = np.zeros(1, np.intp)
        return packed, zero, zero

    def _empty(self, size: tuple[int, int], texts: int) -> PackedRows:
        """Make rows of padding, [rows, columns], with room for so many texts in each."""
        return PackedRows(
            np.full(size, self.pad_id, np.int64),
            np.zeros(size, np.int64),
            np.full(size, -1, np.int64),
            np.zeros((size[0], texts), np.int64),
        )

    def _positions(self, real: NDArray[np.bool_]) -> TokenIds:
        if self.first_position is None:
            return np.broadcast_to(np.arange(real.shape[1]), real.shape)
        return np.where(real, real.cumsum(1) + self.first_position - 1, self.pad_id)


def unpack(rows: Features, row_of: Places, place_of: Places) -> Features:
    """Take each text's vector out of [rows, texts, embed_dim]; [n, embed_dim]."""
    taken: Features = rows[row_of, place_of]
    return taken


def _places(lengths: list[int]) -> tuple[Places, Places, Places, int]:
    """Row, column and place in the row of each text, and the columns of all rows.

    The longest first, each into the emptiest row.

    Source:
        Graham 1969, longest processing time first.
    """
    number = max(1, -(-sum(lengths) // max(_ROW, *lengths)))
    emptiest = [(0, row) for row in range(number)]
    held = [0] * number
    placed = np.empty((3, len(lengths)), np.intp)
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        used, row = heapq.heappop(emptiest)
        placed[:, text] = row, used, held[row]
        held[row] += 1
        heapq.heappush(emptiest, (used + lengths[text], row))
    row_of, start_of, place_of = placed
    return row_of, start_of, place_of, max(used for used, _ in emptiest)
