"""A teacher's rows of sentences, computed once and kept on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_text.errors import DataError
from clip_text.lengths import by_length
from clip_text.progress import Progress, counted, silent
from clip_text.storage import digest, keep_array
from clip_text.training.teachers import Rows, Teacher


def teacher_rows(
    teacher: Teacher,
    texts: Sequence[str],
    cache: Path,
    *,
    batch_size: int = 256,
    progress: Progress = silent,
) -> Rows:
    """Encode texts into unit rows once; later calls with the same teacher and texts read them.

    Args:
        teacher: Teacher that gives the rows.
        texts: Any number; a text that comes twice is encoded once.
        cache: Folder for the rows, a file for each teacher and set of texts.
        batch_size: Texts per forward pass.
        progress: Is told of the texts, under ``teacher``.

    Returns:
        float32 [n, width], unit rows; zeros where the teacher has nothing to say.

    Raises:
        DataError: If its rows have no width, are not finite, or are not as many as the texts.
    """
    if teacher.width < 1:
        raise DataError(
            f"expected a teacher with rows of width 1 or more, got {teacher.width} from "
            f"{teacher.name}. Use one that gives sentence vectors."
        )
    distinct = sorted(set(texts))
    key = digest(teacher.digest, distinct)
    rows = keep_array(
        cache / f"{key}.npy", key, lambda: _encode(teacher, distinct, batch_size, progress)
    )
    progress("teacher", len(distinct), len(distinct))
    place = {text: position for position, text in enumerate(distinct)}
    return rows[[place[text] for text in texts]]


def _encode(teacher: Teacher, texts: Sequence[str], batch_size: int, progress: Progress) -> Rows:
    out = np.zeros((len(texts), teacher.width), np.float32)
    advance = counted("teacher", len(texts), progress)
    for batch in by_length([len(text) for text in texts], batch_size):
        rows = np.asarray(teacher.encode([texts[position] for position in batch]), np.float32)
        if rows.shape != (len(batch), teacher.width):
            raise DataError(
                f"expected rows of shape {[len(batch), teacher.width]} from {teacher.name}, "
                f"got {list(rows.shape)}. One row a text, as wide as the teacher says."
            )
        broken = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(broken):
            raise DataError(
                f"expected finite rows from {teacher.name}, got NaN or infinity for "
                f"{texts[batch[broken[0]]]!r} and {len(broken) - 1} more of {len(batch)}. "
                "Leave the texts out, or compute in float32."
            )
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        out[batch] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
        advance(len(batch))
    return out
