"""Masked LM: text files of any size, tokenised once into files that are mapped into memory."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from clip_text.data.masking import Segmenter, word_starts
from clip_text.data.packing import DOCUMENT, LINE, STOP, WORD, Bits, Packing, pack
from clip_text.data.plain_text import STOPS, Line, read_lines
from clip_text.data.text_files import open_file
from clip_text.errors import DataError
from clip_text.progress import Progress, silent
from clip_text.storage import digest, keep, write_json
from clip_text.tokenizer import Tokenizer
from clip_text.tokenizer.contracts import PREPARE, origins, pipeline, valid_unicode

_VERSION = 1
_BATCH = 1 << 18
"""Characters that are tokenised together."""
_SIDES = ("learnt", "held")
"""Folders of what is learnt, and of what is held out."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokenised text: a row of ids and a byte of flags for each; see :mod:`.packing`.

    Args:
        ids: Token ids, [n], without special tokens.
        flags: Bits, [n].
        path: Where the sequences packed of them are kept.
        documents: How many documents they are.
    """

    ids: NDArray[Any]
    flags: Bits
    path: Path
    documents: int

    def sequences(self, context_length: int, packing: Packing = "document") -> NDArray[np.int64]:
        """Pack them, once; begin, end and length of each sequence, [n, 3], mapped from a file."""

        def make(partial: Path) -> None:
            packed = pack(self.flags, context_length, packing)
            with partial.open("wb") as out:
                while places := list(itertools.islice(packed, 10_000)):
                    np.array(places, np.int64).tofile(out)

        return keep(
            self.path / f"sequences-{context_length}-{packing}",
            [_VERSION, self.path.parent.name, self.path.name, context_length, packing],
            make,
            lambda file: np.memmap(file, np.int64, "r").reshape(-1, 3),
        )


@dataclass(slots=True)
class Annotator:
    """Lines to token ids and flags.

    Args:
        tokenizer: Tokenizer whose ids are given.
        segment: Says where words begin.
    """

    tokenizer: Tokenizer
    segment: Callable[[str], list[int]]
    _pipeline: Any = field(init=False)

    def __post_init__(self) -> None:
        self._pipeline = pipeline(self.tokenizer.backend, self.tokenizer.compat)[0]

    def __call__(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int64], Bits]]:
        """Ids and flags of each text, [n] and [n]; the first token's says WORD, not LINE."""
        compat = self.tokenizer.compat
        prepared = [valid_unicode(PREPARE[compat](text)) for text in texts]
        encodings = self._pipeline.encode_batch(prepared, add_special_tokens=False)
        found = []
        for text, seen, encoding in zip(texts, prepared, encodings, strict=True):
            spans: list[tuple[int, int]] = encoding.offsets
            original = seen
            if compat == "cn_clip":  # its preparing sets blanks between characters
                at, original = origins(text, compat) or [], text
                spans = [(at[start], at[end - 1] + 1) for start, end in spans]
            flags = word_starts(encoding.tokens, spans, self.segment(original)).astype(np.uint8)
            stops = [original[end - 1 : end] in STOPS for _, end in spans]
            found.append(
                (
                    np.array(encoding.ids, np.int64),
                    flags | np.where(stops, STOP, 0).astype(np.uint8),
                )
            )
        return found


class _Writer:
    """A pair of files that grows."""

    def __init__(self, folder: Path, dtype: type[np.generic], stack: ExitStack) -> None:
        folder.mkdir()
        self.ids: BinaryIO = stack.enter_context((folder / "ids").open("wb"))
        self.flags: BinaryIO = stack.enter_context((folder / "flags").open("wb"))
        self.dtype, self.tokens, self.documents = dtype, 0, 0

    def add(self, ids: NDArray[np.int64], flags: Bits) -> None:
        self.ids.write(ids.astype(self.dtype).tobytes())
        self.flags.write(flags.tobytes())
        self.tokens += len(ids)
        self.documents += bool(flags[0] & DOCUMENT)


def _is_held_out(text: str, share: float, seed: int) -> bool:
    """Draw by what a document begins with: equal ones fall on the same side."""
    key = seed.to_bytes(8, "little", signed=True)
    digest = hashlib.blake2b(text.strip().encode("utf-8", "replace"), digest_size=8, key=key)
    return int.from_bytes(digest.digest(), "little") < share * 2**64


def tokenise(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    cache: Path,
    *,
    fields: Sequence[str] = (),
    line_documents: bool = False,
    user_dict: Path | None = None,
    held_out: float = 0.0,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Tokens, Tokens]:
    """Tokenise files of text, or find what that gave before.

    Memory does not grow with the text. The result is kept under the digest of all it depends on.
    Processes that ask for the same at once each do the work, and use what the first of them made.

    Args:
        files: Files to read, as :func:`~clip_text.data.plain_text.text_files` lists them.
        tokenizer: Tokenizer whose ids are written.
        cache: Folder for the result.
        fields: Fields or columns to read, each a document; the first there is of
            :data:`~clip_text.data.plain_text.FIELDS` if none.
        line_documents: Each line is a document by itself.
        user_dict: Words that jieba is to know; see :class:`~clip_text.data.masking.Segmenter`.
        held_out: Share of the documents to hold out, drawn by what their first lines say.
        seed: Seed of that draw.
        progress: Is told how many ``bytes`` are done, about.

    Returns:
        What to learn from, and what is held out: nothing if no share was asked for.

    Raises:
        DataError: If a file is not what it should be, or one of the two is empty.
    """
    backend = tokenizer.backend.backend_tokenizer.to_str()
    contents = [_content_digest(file) for file in [*files, *([user_dict] if user_dict else [])]]
    asked = [list(fields), line_documents, held_out, seed]
    key = [_VERSION, asked, tokenizer.contract, digest(backend), contents]

    def make(partial: Path) -> None:
        annotate = Annotator(tokenizer, Segmenter(user_dict))
        dtype = np.uint16 if tokenizer.vocab_size < 1 << 16 else np.uint32
        with ExitStack() as stack:
            sides = [_Writer(partial / name, dtype, stack) for name in _SIDES]
            source = _all_lines(files, fields, line_documents, progress)
            _write(source, annotate, sides, held_out, seed)
            counts = [[side.tokens, side.documents] for side in sides]
        write_json(partial / "made.json", {"dtype": np.dtype(dtype).name, "counts": counts})

    learnt, held = keep(cache / digest(key), key, make, _read, folder=True)
    if not len(learnt.ids) or (held_out and not len(held.ids)):
        raise DataError(
            f"expected documents to learn from and to hold out, got {learnt.documents} and "
            f"{held.documents} (in a .txt a blank line ends a document). Say that each line is a "
            "document, name a file to validate on, or get more text."
        )
    return learnt, held


def _content_digest(file: Path) -> str:
    with open_file(file) as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()


def _read(folder: Path) -> tuple[Tokens, Tokens]:
    made = json.loads((folder / "made.json").read_text(encoding="utf-8"))
    learnt, held = (
        _open(folder / name, made["dtype"], *counts)
        for name, counts in zip(_SIDES, made["counts"], strict=True)
    )
    return learnt, held


def _open(folder: Path, dtype: str, tokens: int, documents: int) -> Tokens:
    if not tokens:  # an empty file cannot be mapped
        return Tokens(np.empty(0, dtype), np.empty(0, np.uint8), folder, 0)
    ids = np.memmap(folder / "ids", dtype, "r")
    return Tokens(ids, np.memmap(folder / "flags", np.uint8, "r"), folder, documents)


def _all_lines(
    files: Sequence[Path],
    fields: Sequence[str],
    line_documents: bool,
    progress: Progress,
) -> Iterator[Line]:
    sizes = [file.stat().st_size for file in files]
    for at, file in enumerate(files):
        done = sum(sizes[:at])
        for line in read_lines(file, fields, line_documents=line_documents):
            done = min(done + len(line.text.encode("utf-8", "replace")), sum(sizes[: at + 1]))
            progress("bytes", done, sum(sizes))
            yield line
        progress("bytes", sum(sizes[: at + 1]), sum(sizes))


def _batches(lines: Iterator[Line]) -> Iterator[list[Line]]:
    batch, size = [], 0
    for line in lines:
        batch.append(line)
        size += len(line.text)
        if size > _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write(
    lines: Iterator[Line],
    annotate: Annotator,
    sides: Sequence[_Writer],
    held_out: float,
    seed: int,
) -> None:
    side, begins = sides[0], LINE | DOCUMENT
    for batch in _batches(lines):
        annotated = annotate([line.text for line in batch])
        for line, (ids, flags) in zip(batch, annotated, strict=True):
            if line.new_document:
                side = sides[_is_held_out(line.text, held_out, seed)]
                begins |= DOCUMENT
            begins |= LINE if line.new_line else 0
            if len(ids):  # a line of blanks the tokenizer forgets begins nothing
                flags[0] |= begins | WORD
                side.add(ids, flags)
                begins = 0
