"""A contract as one ``tokenizer.json``, for programs without this package.

What a contract does to a text beforehand in Python becomes steps of the `tokenizers` library.
open_clip's cleaning (ftfy) cannot be said in them.
"""

import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Pipeline
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from clip_text.tokenizer.contracts import (
    CJK,
    NORMALISE,
    is_dropped,
    is_mark,
    is_punctuation,
    is_space,
)
from clip_text.tokenizer.files import copy_of
from clip_text.tokenizer.tokenizer import Tokenizer


def portable(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    """Make a plain Hugging Face tokenizer that gives the tokens of ours.

    Except for half an emoji (a lone surrogate), which it refuses as all of its kind do. Under
    ``cn_clip`` the Unicode tables of the running Python are written into it, but letters are made
    small and taken apart by those of the `tokenizers` library.

    Raises:
        ValueError: If the contract is open_clip's.
    """
    if tokenizer.compat == "open_clip":
        raise ValueError(
            "expected compat clip_text, cn_clip or hf, got 'open_clip', whose cleaning (ftfy) no "
            "tokenizer.json can hold. Make the tokenizer with compat='hf', which is the same but "
            "for the cleaning."
        )
    backend = tokenizer.backend
    pipeline = copy_of(backend)
    if tokenizer.compat == "clip_text":
        pipeline.normalizer = normalizers.Sequence(
            [
                *(normalizers.Replace(chr(code), to) for code, to in NORMALISE.items()),
                *([pipeline.normalizer] if pipeline.normalizer else []),
            ]
        )
    elif tokenizer.compat == "cn_clip":
        _as_cn_clip(pipeline)
    # of the class PreTrainedTokenizerFast, because BertTokenizer makes its own normalizer anew
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=pipeline,
        model_max_length=tokenizer.context_length,
        model_input_names=list(backend.model_input_names),
        split_special_tokens=tokenizer.compat != "hf" or backend.split_special_tokens,
        **backend.special_tokens_map,
    )


def _as_cn_clip(pipeline: Pipeline) -> None:
    """Set the steps of ``contracts.cn_clip_words``, with the Unicode tables of this Python."""
    cased, ignored = _class(_is_cased), _class(_is_ignored)
    pipeline.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(_class(is_dropped)), ""),
            normalizers.Replace(Regex(_class(is_space)), " "),
            # Unicode's Final_Sigma, which Python knows and Lowercase() does not
            normalizers.Replace(Regex(f"{cased}{ignored}*\\KΣ(?!{ignored}*{cased})"), "ς"),
            normalizers.Lowercase(),
            normalizers.NFD(),
            normalizers.Replace(Regex(_class(is_mark)), ""),
        ]
    )
    chinese = "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in CJK)
    alone = f"[{_class(is_punctuation)}{chinese}]"
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.CharDelimiterSplit(" "),
            pre_tokenizers.Split(Regex(alone), "isolated"),
        ]
    )
    pipeline.model.max_input_chars_per_word = 200


def _is_cased(char: str) -> bool:
    """Say whether a sigma before this letter is inside a word."""
    return f"aΣ{char}".lower()[1] == "σ"


def _is_ignored(char: str) -> bool:
    """Say whether a sigma before this character is where it would be without it."""
    return not _is_cased(char) and f"aΣ{char}b".lower()[1] == "σ"


@cache
def _class(rule: Callable[[str], bool]) -> str:
    """Write a regular expression's class of all characters that keep a rule."""
    return f"[{''.join(_ranges(rule))}]"


def _ranges(rule: Callable[[str], bool]) -> Iterator[str]:
    codes = [code for code in range(sys.maxunicode + 1) if rule(chr(code))]
    # in a run of neighbours, code minus position is the same
    for _, run in groupby(enumerate(codes), lambda pair: pair[1] - pair[0]):
        neighbours = [code for _, code in run]
        yield f"\\x{{{neighbours[0]:x}}}-\\x{{{neighbours[-1]:x}}}"
