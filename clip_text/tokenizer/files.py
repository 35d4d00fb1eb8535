"""A tokenizer's files, read and written with the `tokenizers` library alone.

What a :class:`~clip_text.tokenizer.Tokenizer` stands on where transformers is not needed. Many
Hugging Face tokenizers make parts of theirs anew when they are loaded, whatever ``tokenizer.json``
says; so only files that :meth:`TokenizerFiles.save_pretrained` wrote are certain to give the tokens
of what they were made from.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tokenizers import Tokenizer as Pipeline

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    Backend: TypeAlias = "PreTrainedTokenizerBase | TokenizerFiles"

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A fast tokenizer under the names transformers gives its parts; read, never changed.

    Args:
        backend_tokenizer: Of the `tokenizers` library.
        special_tokens_map: Token of each role, such as ``pad_token``.
        model_input_names: What a model is fed by transformers, such as ``input_ids``.
        split_special_tokens: Whether a special token typed by a user is plain text.
        config: All of ``tokenizer_config.json``.
    """

    backend_tokenizer: Pipeline
    special_tokens_map: dict[str, str]
    model_input_names: list[str]
    split_special_tokens: bool
    config: dict[str, Any]
    is_fast = True

    @classmethod
    def of(cls, backend: "Backend") -> "TokenizerFiles":
        """Take over a tokenizer as it is now, whatever class of transformers made it."""
        tokens = {role: str(token) for role, token in backend.special_tokens_map.items()}
        names, split = list(backend.model_input_names), bool(backend.split_special_tokens)
        config = {
            **tokens,
            "model_input_names": names,
            "split_special_tokens": split,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        return cls(copy_of(backend), tokens, names, split, config)

    @classmethod
    def read(cls, folder: Path) -> "TokenizerFiles":
        """Read what :meth:`save_pretrained` wrote.

        Raises:
            OSError: If a file is missing.
            ValueError: If one is damaged.
        """
        text = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
        config = json.loads((folder / TOKENIZER_CONFIG_FILE).read_text(encoding="utf-8"))
        try:
            pipeline = Pipeline.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(
                f"expected a tokenizer in {folder / TOKENIZER_FILE}, got: {error}. "
                "Write the file again."
            ) from error
        tokens = {role: token for role, token in config.items() if role.endswith("_token")}
        split = bool(config.get("split_special_tokens", False))
        return cls(pipeline, tokens, list(config.get("model_input_names", [])), split, config)

    def save_pretrained(self, folder: str) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, which transformers reads, too."""
        place = Path(folder)
        (place / TOKENIZER_FILE).write_text(self.backend_tokenizer.to_str(), encoding="utf-8")
        write_config(place, self.config)

    def get_vocab(self) -> dict[str, int]:
        """Give the id of each token, special and added ones included."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str | None]:
        """Spell ids; None for one that no token has."""
        return [self.backend_tokenizer.id_to_token(number) for number in ids]

    @property
    def pad_token_id(self) -> int | None:
        """The id that fills a short row."""
        return self._special_id("pad_token")

    @property
    def unk_token_id(self) -> int | None:
        """The id of what the vocabulary does not know."""
        return self._special_id("unk_token")

    @property
    def cls_token_id(self) -> int | None:
        """The id before every text."""
        return self._special_id("cls_token")

    @property
    def sep_token_id(self) -> int | None:
        """The id behind every text."""
        return self._special_id("sep_token")

    @property
    def mask_token_id(self) -> int | None:
        """The id that stands for a token to be guessed."""
        return self._special_id("mask_token")

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of all roles that have one."""
        ids = (self._special_id(role) for role in self.special_tokens_map)
        return [number for number in ids if number is not None]

    def _special_id(self, role: str) -> int | None:
        token = self.special_tokens_map.get(role)
        return None if token is None else self.backend_tokenizer.token_to_id(token)


def copy_of(backend: "Backend") -> Pipeline:
    """Copy what runs inside a fast tokenizer, cutting and padding left behind."""
    copied: Pipeline = Pipeline.from_str(backend.backend_tokenizer.to_str())
    copied.no_truncation()
    copied.no_padding()
    return copied


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write a folder's ``tokenizer_config.json``."""
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / TOKENIZER_CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
