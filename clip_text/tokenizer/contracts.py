"""What each contract does to a text before the vocabulary is looked at.

A contract is three things: a function on the text, which tokenizer of the `tokenizers` library
runs afterwards, and whether a special token typed by a user counts as one.
"""

import html
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

from tokenizers import Tokenizer as Pipeline
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import CharDelimiterSplit

from clip_text.errors import needs
from clip_text.names import Compat
from clip_text.tokenizer.files import copy_of

if TYPE_CHECKING:
    from clip_text.tokenizer.files import Backend

VERSIONS: dict[Compat, str] = {
    "clip_text": "clip_text/1",
    "cn_clip": "cn_clip/1",
    "hf": "hf/1",
    "open_clip": "open_clip/1",
}
"""Named in fingerprints; one changes whenever equal texts may give other tokens."""

# Full-width digits and Latin letters sit 0xFEE0 above their ASCII twins.
_FULL_WIDTH = [
    *range(ord("０"), ord("９") + 1),
    *range(ord("Ａ"), ord("Ｚ") + 1),
    *range(ord("ａ"), ord("ｚ") + 1),
]
NORMALISE: dict[int, str] = {
    **{code: chr(code - 0xFEE0) for code in _FULL_WIDTH},
    ord("“"): '"',
    ord("”"): '"',
    ord("\u3000"): " ",
}
"""The whole of :func:`normalise`: one character for one character."""

# Stands for half a surrogate pair, which the `tokenizers` library cannot take. It is no character,
# so no vocabulary has it, and no rule below touches it.
_NO_CHARACTER = "\U0010ffff"


def check_compat(compat: str) -> Compat:
    """Return ``compat`` if it names a contract.

    Raises:
        ValueError: If it does not.
    """
    for known in get_args(Compat):
        if compat == known:
            return known  # type: ignore[no-any-return]
    raise ValueError(
        f"expected compat {', '.join(get_args(Compat))}, got {compat!r}. Choose one of them."
    )


def normalise(text: str) -> str:
    """Apply step 1 of the default contract to one text."""
    return text.translate(NORMALISE)


def as_typed(text: str) -> str:
    """Leave a text alone, as transformers does."""
    return text


def open_clip_clean(text: str) -> str:
    """Clean a text as open_clip does: ftfy, HTML entities, runs of white space.

    Raises:
        MissingPackageError: If ftfy, which comes with open_clip, is not installed.
    """
    with needs("ftfy", "the cleaning of compat 'open_clip'"):
        import ftfy  # noqa: PLC0415  (one contract of four)

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


class _Table(dict[int, str | None]):
    """A ``str.translate`` table that works out a character when it first meets it."""

    def __init__(self, rule: Callable[[str], str | None]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str | None:
        self[code] = value = self._rule(chr(code))
        return value


CJK = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)
"""What BERT calls a Chinese character."""


def is_dropped(char: str) -> bool:
    """Say whether cn_clip removes a character: control and format characters, and U+FFFD."""
    category = unicodedata.category(char)
    return char not in "\t\n\r" and (category in {"Cc", "Cf"} or char == "\ufffd")


def is_space(char: str) -> bool:
    """Say whether cn_clip splits at a character, and forgets it."""
    # a line or paragraph separator is none of BERT's white space, but str.split takes it
    return char in "\t\n\r" or unicodedata.category(char) in {"Zs", "Zl", "Zp"}


def is_punctuation(char: str) -> bool:
    """Say whether cn_clip makes a word of one character; all ASCII symbols are among them."""
    return (char.isascii() and char.isprintable() and not char.isalnum() and char != " ") or (
        unicodedata.category(char).startswith("P")
    )


def is_mark(char: str) -> bool:
    """Say whether cn_clip strips a character from a decomposed word: an accent, mostly."""
    return unicodedata.category(char) == "Mn"


def _clean(char: str) -> str | None:
    if is_dropped(char):
        return None
    if is_space(char):
        return " "
    chinese = any(first <= ord(char) <= last for first, last in CJK)
    return f" {char} " if chinese else char


def _split(char: str) -> str | None:
    if is_mark(char):
        return None
    if unicodedata.category(char) == "Cs":
        return _NO_CHARACTER
    return f" {char} " if is_punctuation(char) else char


_CLEAN, _SPLIT = _Table(_clean), _Table(_split)


def cn_clip_words(text: str) -> str:
    """Do what cn_clip's ``BasicTokenizer`` does; the words come apart at every space.

    The order matters: a Chinese character is set apart before, a punctuation mark after it is
    decomposed, and the lower case of a capital sigma depends on its neighbours. The Unicode tables
    are those of the running Python, as in cn_clip.
    """
    text = text.translate(_CLEAN).lower()
    return unicodedata.normalize("NFD", text).translate(_SPLIT)


PREPARE: dict[Compat, Callable[[str], str]] = {
    "clip_text": normalise,
    "cn_clip": cn_clip_words,
    "hf": as_typed,
    "open_clip": open_clip_clean,
}


def valid_unicode(text: str) -> str:
    """Put ``?`` for half an emoji cut by another program, which is no valid UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def origins(text: str, compat: Compat) -> list[int] | None:
    """Say from which character of ``text`` each character of the prepared text came.

    Returns:
        Positions in ``text``, never falling; None under ``open_clip``, whose cleaning looks at the
        whole text.
    """
    if compat == "open_clip":
        return None
    if compat != "cn_clip":
        return list(range(len(text)))
    return [at for at, char in enumerate(text) for _ in cn_clip_words(char)]


def pipeline(backend: "Backend", compat: Compat) -> tuple[Pipeline, list[int], list[int]]:
    """Make the tokenizer that runs after :data:`PREPARE`, apart from the backend's own.

    Nothing changes it afterwards, so many threads may use it. The backend does not allow that: a
    call of it sets truncation and special tokens on the one tokenizer they would share.

    Returns:
        The tokenizer, which adds no special tokens, and the ids before and after every text.

    Raises:
        ValueError: If the backend is no fast tokenizer, or the contract is cn_clip's and the
            vocabulary no WordPiece vocabulary.
    """
    if not backend.is_fast:
        raise ValueError(
            f"expected a fast tokenizer, got {type(backend).__name__}. "
            "Convert it to a tokenizer.json and load that."
        )
    copied = copy_of(backend)
    before, after = _special_ids(copied)
    if compat != "cn_clip":
        copied.encode_special_tokens = compat == "clip_text" or backend.split_special_tokens
        return copied, before, after
    if not isinstance(copied.model, WordPiece):
        raise ValueError(
            "expected a WordPiece (BERT) vocabulary for compat 'cn_clip', "
            f"got {type(copied.model).__name__}. Use compat 'clip_text'."
        )
    model = WordPiece(
        copied.get_vocab(with_added_tokens=False),
        unk_token=copied.model.unk_token,
        max_input_chars_per_word=200,
    )
    words = Pipeline(model)  # without added tokens: cn_clip knows none
    words.pre_tokenizer = CharDelimiterSplit(" ")
    return words, before, after


def _special_ids(tokenizer: Pipeline) -> tuple[list[int], list[int]]:
    """Find the ids before and after every text: [CLS] and [SEP], for BERT."""
    encoding = tokenizer.encode("a")
    ids, special = encoding.ids, encoding.special_tokens_mask
    return ids[: special.index(0)], ids[len(ids) - special[::-1].index(0) :]
