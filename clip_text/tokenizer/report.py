"""What becomes of a list of texts: unknown words, and ends that are cut off."""

from collections.abc import Sequence
from dataclasses import dataclass

from clip_text.names import Compat


@dataclass(frozen=True, slots=True)
class TextReport:
    """What becomes of one text.

    Args:
        text: As it was given.
        tokens: Of the whole text, special tokens included, before any is cut.
        kept: Tokens the text tower reads, special tokens included.
        unknown: The parts of the text that are read as [UNK], in their order.
        lost: The end of the text that is cut off; empty where all of it is read.

    Under compat ``open_clip`` the parts are parts of the cleaned text.
    """

    text: str
    tokens: int
    kept: int
    unknown: tuple[str, ...]
    lost: str

    @property
    def is_cut(self) -> bool:
        """Whether the end of the text is not read."""
        return self.kept < self.tokens


@dataclass(frozen=True, slots=True)
class TokenReport:
    """What becomes of a list of texts.

    Args:
        texts: One report each, in the order given.
        specials: Special tokens of each text ([CLS] and [SEP]); not counted in the shares.
        context_length: Where a text is cut, in tokens.
        compat: The contract.
    """

    texts: Sequence[TextReport]
    specials: int
    context_length: int
    compat: Compat

    @property
    def with_unknown(self) -> list[TextReport]:
        """The texts with at least one [UNK] among the tokens read."""
        return [text for text in self.texts if text.unknown]

    @property
    def cut(self) -> list[TextReport]:
        """The texts whose end is not read."""
        return [text for text in self.texts if text.is_cut]

    @property
    def words(self) -> int:
        """Tokens of all texts before any is cut, special tokens not counted."""
        return sum(text.tokens - self.specials for text in self.texts)

    @property
    def words_read(self) -> int:
        """Tokens of all texts that are read, special tokens not counted."""
        return sum(text.kept - self.specials for text in self.texts)

    @property
    def unknown_share(self) -> float:
        """Share of [UNK] among the tokens read, in [0, 1]."""
        return sum(len(text.unknown) for text in self.texts) / max(1, self.words_read)

    @property
    def lost_share(self) -> float:
        """Share of the tokens that is cut off, in [0, 1]."""
        return (self.words - self.words_read) / max(1, self.words)
