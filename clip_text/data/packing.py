"""Masked LM: lines of text packed into sequences, as RoBERTa's recipe has it.

Documents hold lines, and lines hold tokens, one after the other in one long row of them; what
begins at a token is told by a byte of flags beside it. A sequence is a run of the row: whole lines,
as many as the context has room for, with [SEP] after each. It ends where its document does
(DOC-SENTENCES, which Liu et al. 2019, arXiv:1907.11692, section 4.2, found the best), or goes on
with the next one after a further [SEP] (FULL-SENTENCES). Nothing asks which sentence is next.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

WORD, LINE, DOCUMENT, STOP = 1, 2, 4, 8
"""A token begins a word, a line, a document; or ends a sentence. Bits of a flag."""

Bits = NDArray[np.uint8]
Packing = Literal["document", "full"]

_CHUNK = 1 << 22
"""Flags looked at together."""


def lines(flags: Bits) -> Iterator[tuple[int, int]]:
    """Give from and to of each line, in order; flags uint8 [n] may be mapped from any file."""
    start = 0
    for offset in range(0, len(flags), _CHUNK):
        begins = np.flatnonzero(np.asarray(flags[offset : offset + _CHUNK]) & LINE) + offset
        for begin in begins.tolist():
            if begin > start:
                yield start, begin
            start = begin
    if start < len(flags):
        yield start, len(flags)


def split(flags: Bits, room: int) -> list[int]:
    """Cut a line that is too long: behind a sentence, if not there before a word, if not anywhere.

    Args:
        flags: Flags of the line's tokens, uint8 [n].
        room: Tokens that a part may have.

    Returns:
        Where the parts end.
    """
    ends, start = [], 0
    while len(flags) - start > room:
        part = flags[start : start + room]
        stops = np.flatnonzero(part & STOP) + 1
        # the token behind the room may begin a word, too
        words = np.flatnonzero(flags[start + 1 : start + room + 1] & WORD) + 1
        start += int(stops[-1] if len(stops) else words[-1] if len(words) else room)
        ends.append(start)
    return [*ends, len(flags)]


def pack(
    flags: Bits, context_length: int, packing: Packing = "document"
) -> Iterator[tuple[int, int, int]]:
    """Pack lines into sequences.

    Args:
        flags: Flags of all tokens, uint8 [n].
        context_length: Longest sequence in tokens, special ones included; 3 or more.
        packing: ``document``: a sequence never holds two documents; ``full``: it may.

    Returns:
        For each sequence where in the row it begins and ends, and its length with special tokens.
        They follow on each other: every token is in one sequence, and in one only.
    """
    first, length = 0, 2
    for begin, end in lines(flags):
        line = np.asarray(flags[begin:end])
        new_document = bool(line[0] & DOCUMENT)
        at = begin
        for part in split(line, context_length - 2):
            separators = (1 + new_document) if at == begin else 0
            grown = length + separators + begin + part - at
            alone = packing == "document" and new_document and at == begin
            if at > first and (alone or grown > context_length):
                yield first, at, length
                first, grown = at, 2 + begin + part - at
            elif at == first:  # nothing before it to be set apart from
                grown = 2 + begin + part - at
            length, at = grown, begin + part
    if first < len(flags):
        yield first, len(flags), length


def render(
    ids: NDArray[np.integer], flags: Bits, cls_id: int, sep_id: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Write a sequence out: [CLS], lines with [SEP] after each, one more before a new document.

    Args:
        ids: Token ids of the sequence, a run of the row, [n].
        flags: Flags of these tokens, uint8 [n].
        cls_id: Id of [CLS], which begins every sequence.
        sep_id: Id of [SEP], which ends every line.

    Returns:
        Token ids with special tokens, and True where a word begins; a special token is its own.
    """
    separators = ((flags & LINE) > 0).astype(np.int64) + ((flags & DOCUMENT) > 0)
    separators[:1] = 0
    places = np.repeat(np.arange(len(ids)), separators)
    tokens = np.insert(ids.astype(np.int64), places, sep_id)
    starts = np.insert((flags & WORD) > 0, places, True)
    starts[:1] = True  # it may go on with a word of the sequence before
    # the word behind a [SEP] begins anew by itself: a line begins with a word
    return (
        np.concatenate([[cls_id], tokens, [sep_id]]),
        np.concatenate([[True], starts, [True]]),
    )
