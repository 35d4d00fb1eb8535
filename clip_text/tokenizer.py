"""The tokeniser contract: what happens to a text before the text tower sees it.

1. *Normalisation*, by :func:`normalise`, before the vocabulary is looked at:

   =====================================  ==============================  =======================
   typed                                  becomes                         why
   =====================================  ==============================  =======================
   curly double quotes ``“ ”``            ``"``                           cn_clip trained with it
   full-width letters, digits ``Ａ １``    ``A 1``                         same word, same tokens
   ideographic space ``U+3000``           an ordinary space               same
   full-width punctuation ``，！？``        unchanged                       the vocabulary knows it
   ``…`` ``—`` ``￥``                      unchanged                       the vocabulary knows it
   =====================================  ==============================  =======================

   The WordPiece tokenizer underneath then lower-cases, strips accents, drops control and
   zero-width characters and splits every Chinese character into a token of its own.
2. *Special tokens typed by a user* (a literal ``[MASK]``) are plain text, never special.
3. *Length*: ``[CLS]`` + tokens + ``[SEP]``, at most ``context_length`` in all (52 for
   Chinese-CLIP); the end of a longer text is dropped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

CONTEXT_LENGTH = 52
"""Tokens including [CLS] and [SEP]; Chinese-CLIP, arXiv:2211.01335."""

CONTRACT = "clip_text/1"
"""Names this contract in fingerprints; changes whenever equal texts may give other tokens."""

# Full-width digits and Latin letters sit 0xFEE0 above their ASCII twins.
_FULL_WIDTH = [
    *range(ord("０"), ord("９") + 1),
    *range(ord("Ａ"), ord("Ｚ") + 1),
    *range(ord("ａ"), ord("ｚ") + 1),
]
_NORMALISE = {
    **{code: code - 0xFEE0 for code in _FULL_WIDTH},
    ord("“"): '"',
    ord("”"): '"',
    ord("\u3000"): " ",
}


def normalise(text: str) -> str:
    """Apply step 1 of the contract (see the module's table) to one text."""
    return text.translate(_NORMALISE)


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


class Tokenizer:
    """Texts to token ids, by a Hugging Face tokenizer under the contract above.

    Args:
        backend: Any Hugging Face tokenizer; a fast one in practice.
        context_length: Longest row of tokens, [CLS] and [SEP] included.
    """

    def __init__(
        self, backend: PreTrainedTokenizerBase, context_length: int = CONTEXT_LENGTH
    ) -> None:
        specials = backend.num_special_tokens_to_add()
        if context_length <= specials:
            raise ValueError(
                f"expected a context_length above {specials} (the special tokens), "
                f"got {context_length}. Use {CONTEXT_LENGTH}, as Chinese-CLIP does."
            )
        self.backend = backend
        self.context_length = context_length

    @classmethod
    def from_folder(cls, folder: Path, context_length: int = CONTEXT_LENGTH) -> "Tokenizer":
        """Read the tokenizer files of a checkpoint folder.

        Raises:
            OSError: If there are none.
            ValueError: If they are damaged.
        """
        backend = cast(
            PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder, local_files_only=True)
        )
        # of a folder without any, transformers makes a tokenizer that knows no word
        files = backend.vocab_files_names.values()
        if not any((folder / file).is_file() for file in files):
            raise FileNotFoundError(f"expected {' or '.join(files)} in {folder}, got neither")
        return cls(backend, context_length)

    def save(self, folder: Path) -> None:
        """Write the tokenizer files into ``folder``."""
        self.backend.save_pretrained(str(folder))

    @property
    def pad_id(self) -> int:
        """The id that fills a short row."""
        return int(cast(int, self.backend.pad_token_id))

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.backend)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Give each text its own row of ids, special tokens included, no padding.

        Raises:
            TypeError: See :func:`check_texts`.
        """
        texts = check_texts(texts)
        if not texts:
            return []
        # A lone surrogate (half an emoji cut by another program) is no valid UTF-8.
        clean = [normalise(text).encode("utf-8", "replace").decode("utf-8") for text in texts]
        encoded = self.backend(
            clean,
            truncation=True,
            max_length=self.context_length,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return cast(list[list[int]], encoded["input_ids"])

    def pad(self, rows: Sequence[Sequence[int]], length: int | None = None) -> Tensor:
        """Stack rows of ids into int64 [n, length], padded at the end.

        Args:
            rows: Ragged rows of token ids.
            length: Width of the result; the longest row's by default.
        """
        length = length or max((len(row) for row in rows), default=0)
        out = torch.full((len(rows), length), self.pad_id, dtype=torch.long)
        for at, row in enumerate(rows):
            out[at, : len(row)] = torch.tensor(row, dtype=torch.long)
        return out

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Tokenise as open_clip's tokenizers do: int64 [n, context_length], padded."""
        rows = self.token_ids([texts] if isinstance(texts, str) else texts)
        length = context_length or self.context_length
        if length < self.context_length:
            sep = [self.backend.sep_token_id] if self.backend.sep_token_id is not None else []
            rows = [
                row if len(row) <= length else [*row[: length - len(sep)], *sep] for row in rows
            ]
        return self.pad(rows, length)
