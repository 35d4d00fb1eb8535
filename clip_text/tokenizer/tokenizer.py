"""Texts to token ids, by a Hugging Face tokenizer under one of the contracts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from clip_text.names import Compat
from clip_text.tokenizer.contracts import (
    PREPARE,
    VERSIONS,
    check_compat,
    origins,
    pipeline,
    valid_unicode,
)
from clip_text.tokenizer.files import TOKENIZER_CONFIG_FILE, TokenizerFiles, write_config
from clip_text.tokenizer.report import TextReport, TokenReport

if TYPE_CHECKING:  # seconds to import, and not there where only an exported model runs
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from clip_text.tokenizer.files import Backend

TokenIds = NDArray[np.int64]

CONTEXT_LENGTH = 52
"""Tokens including [CLS] and [SEP]; Chinese-CLIP, arXiv:2211.01335."""

COMPAT_KEY = "clip_text_compat"
"""Where tokenizer_config.json names the contract. transformers and open_clip pass over it."""


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return ``texts`` as a list.

    Raises:
        TypeError: If it is one string instead of several, or holds something else than strings.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(
            f"expected a list of str, got one {type(texts).__name__}. "
            "Wrap it in a list: encode_text([text])."
        )
    texts = list(texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"expected a list of str, got {type(text).__name__} at position {position}. "
                "Drop or replace it."
            )
    return texts


@dataclass(frozen=True, slots=True)
class Aligned:
    """The tokens of a text and the characters they stand for.

    Args:
        ids: Of all its tokens, without special ones.
        spans: First character of each token, and the one behind its last, in the text as given.
    """

    ids: list[int]
    spans: list[tuple[int, int]]


class Tokenizer:
    """Texts to token ids under a contract; many threads may share one.

    Args:
        backend: A fast Hugging Face tokenizer, or the files of one. It is read, never changed.
        context_length: Longest row of tokens, [CLS] and [SEP] included.
        compat: Whose tokens to give: our own contract's (``clip_text``), or those of ``cn_clip``,
            of transformers (``hf``) or of ``open_clip``.

    Raises:
        ValueError: If the context has no room for a token, the contract is unknown or does not
            fit the vocabulary, or the backend is no fast tokenizer.
    """

    def __init__(
        self,
        backend: "Backend",
        context_length: int = CONTEXT_LENGTH,
        compat: Compat = "clip_text",
    ) -> None:
        self.backend = backend
        self.compat = check_compat(compat)
        self._pipeline, self._before, self._after = pipeline(backend, self.compat)
        self.context_length = self._check_length(context_length)

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[object, ...]]:
        """Pickle what it is made from: the `tokenizers` library forgets one setting of a copy."""
        return type(self), (self.backend, self.context_length, self.compat)

    @classmethod
    def from_folder(
        cls, folder: Path, context_length: int = CONTEXT_LENGTH, compat: Compat | None = None
    ) -> "Tokenizer":
        """Read the tokenizer files of a checkpoint folder.

        Args:
            folder: Holds a tokenizer.json or a vocab.txt.
            context_length: Longest text in tokens, [CLS] and [SEP] included.
            compat: Whose tokens a text becomes; by default the contract the folder was saved
                under, and ``clip_text`` where it names none.

        Raises:
            OSError: If there are none.
            ValueError: If they are damaged, or name an unknown contract.
        """
        from transformers import AutoTokenizer  # noqa: PLC0415  (seconds to import)

        backend = cast(
            "PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(folder, local_files_only=True)
        )
        # of a folder without any, transformers makes a tokenizer that knows no word
        files = backend.vocab_files_names.values()
        if not any((folder / file).is_file() for file in files):
            raise FileNotFoundError(f"expected {' or '.join(files)} in {folder}, got neither")
        return cls(
            backend, context_length, compat or backend.init_kwargs.get(COMPAT_KEY, "clip_text")
        )

    @classmethod
    def from_files(cls, folder: Path, context_length: int) -> "Tokenizer":
        """Read a folder that :meth:`save_files` wrote, without transformers.

        Args:
            folder: Holds tokenizer.json and tokenizer_config.json.
            context_length: Longest row of tokens, [CLS] and [SEP] included.

        Raises:
            OSError: If a file is missing.
            ValueError: If one is damaged, or names an unknown contract.
        """
        files = TokenizerFiles.read(folder)
        return cls(files, context_length, files.config.get(COMPAT_KEY, "clip_text"))

    def save_files(self, folder: Path) -> None:
        """Write the tokenizer as it runs, for :meth:`from_files`; transformers reads it as well."""
        files = TokenizerFiles.of(self.backend)
        Tokenizer(files, self.context_length, self.compat).save(folder)

    def save(self, folder: Path) -> None:
        """Write the tokenizer files into ``folder``, and the contract with them.

        The vocabulary is written as transformers and open_clip read it; they tokenise a folder as
        they always do, and only :meth:`from_folder` obeys the contract.
        """
        self.backend.save_pretrained(str(folder))
        text = (folder / TOKENIZER_CONFIG_FILE).read_text(encoding="utf-8")
        config: dict[str, Any] = json.loads(text)
        config[COMPAT_KEY] = self.compat
        write_config(folder, config)

    @property
    def contract(self) -> str:
        """Name and version of the contract, for fingerprints."""
        return VERSIONS[self.compat]

    @property
    def pad_id(self) -> int:
        """The id that fills a short row."""
        return int(cast(int, self.backend.pad_token_id))

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.backend)

    def token_ids(self, texts: Sequence[str], context_length: int | None = None) -> list[list[int]]:
        """Give each text its own row of ids, special tokens included, no padding.

        Args:
            texts: Any number.
            context_length: Longest row, if not the tokenizer's own.

        Raises:
            TypeError: See :func:`check_texts`.
            ValueError: If the context has no room for a token.
        """
        texts = check_texts(texts)
        room = self._room(context_length)
        encodings = self._pipeline.encode_batch_fast(self._prepare(texts), add_special_tokens=False)
        return [[*self._before, *encoding.ids[:room], *self._after] for encoding in encodings]

    def align(self, texts: Sequence[str]) -> list[Aligned]:
        """Give each text its whole row of ids without special tokens, and where each came from.

        Raises:
            TypeError: See :func:`check_texts`.
            ValueError: If the contract is open_clip's, whose cleaning moves characters.
        """
        if self.compat == "open_clip":
            raise ValueError(
                "expected compat clip_text, cn_clip or hf, got 'open_clip', whose cleaning (ftfy) "
                "forgets where a character was. Make the tokenizer with compat='hf'."
            )
        texts = check_texts(texts)
        encodings = self._pipeline.encode_batch(self._prepare(texts), add_special_tokens=False)
        aligned = []
        for text, encoding in zip(texts, encodings, strict=True):
            at = origins(text, self.compat) or []
            spans = [(at[start], at[end - 1] + 1) for start, end in encoding.offsets]
            aligned.append(Aligned(list(encoding.ids), spans))
        return aligned

    def frame(self, ids: Sequence[int]) -> list[int]:
        """Put the special tokens around a text's ids: [CLS] and [SEP], for BERT."""
        return [*self._before, *ids, *self._after]

    def report(self, texts: Sequence[str]) -> TokenReport:
        """Say which parts of the texts are unknown to the vocabulary, and which are cut off.

        Raises:
            TypeError: See :func:`check_texts`.
        """
        texts = check_texts(texts)
        prepared = self._prepare(texts)
        encodings = self._pipeline.encode_batch(prepared, add_special_tokens=False)
        reports = [
            self._report_one(text, seen, encoding)
            for text, seen, encoding in zip(texts, prepared, encodings, strict=True)
        ]
        return TokenReport(reports, self._specials, self.context_length, self.compat)

    def _report_one(self, text: str, prepared: str, encoding: Encoding) -> TextReport:
        ids, spans, room = encoding.ids, encoding.offsets, self._room(None)
        origin = origins(text, self.compat)
        source = prepared if origin is None else text
        at = range(len(prepared)) if origin is None else origin
        unknown = tuple(
            source[at[start] : at[end - 1] + 1]
            for token, (start, end) in zip(ids[:room], spans[:room], strict=True)
            if token == self.backend.unk_token_id
        )
        lost = source[at[spans[room][0]] :].strip() if len(ids) > room else ""
        read = min(len(ids), room)
        return TextReport(text, len(ids) + self._specials, read + self._specials, unknown, lost)

    def stack(self, rows: Sequence[Sequence[int]], length: int | None = None) -> TokenIds:
        """Stack rows of ids, padded at the end, without torch.

        Args:
            rows: Ragged rows of token ids.
            length: Width of the result; the longest row's by default.

        Returns:
            int64 [n, length].
        """
        length = length or max((len(row) for row in rows), default=0)
        out = np.full((len(rows), length), self.pad_id, np.int64)
        for at, row in enumerate(rows):
            out[at, : len(row)] = row
        return out

    def pad(self, rows: Sequence[Sequence[int]], length: int | None = None) -> "Tensor":
        """Stack rows of ids into a tensor, int64 [n, length]; see :meth:`stack`."""
        import torch  # noqa: PLC0415  (seconds to import)

        return torch.from_numpy(self.stack(rows, length))

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> "Tensor":
        """Tokenise as open_clip's tokenizers do: int64 [n, context_length], padded."""
        rows = self.token_ids([texts] if isinstance(texts, str) else texts, context_length)
        return self.pad(rows, context_length or self.context_length)

    def _prepare(self, texts: list[str]) -> list[str]:
        prepare = PREPARE[self.compat]
        return [valid_unicode(prepare(text)) for text in texts]

    def _room(self, context_length: int | None) -> int:
        """Tokens of a text that fit between the special ones."""
        length = (
            self.context_length if context_length is None else self._check_length(context_length)
        )
        return length - self._specials

    @property
    def _specials(self) -> int:
        """Special tokens of every text."""
        return len(self._before) + len(self._after)

    def _check_length(self, context_length: int) -> int:
        specials = self._specials
        if context_length <= specials:
            raise ValueError(
                f"expected a context_length above {specials} (the special tokens), "
                f"got {context_length}. Use {CONTEXT_LENGTH}, as Chinese-CLIP does."
            )
        return context_length
