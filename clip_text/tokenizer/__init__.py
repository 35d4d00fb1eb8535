"""The tokeniser contract: what happens to a text before the text tower sees it.

1. *Normalisation*, by :func:`normalise`, before the vocabulary is looked at:

   =====================================  ==============================  =======================
   typed                                  becomes                         why
   =====================================  ==============================  =======================
   curly double quotes ``“ ”``            ``"``                           cn_clip trained with it
   full-width letters, digits ``Ａ １``    ``A 1``                         same word, same tokens
   ideographic space ``U+3000``           an ordinary space               same
   full-width punctuation ``，！？``        unchanged                       the vocabulary knows it
   ``￥``                                 unchanged                       the vocabulary knows it
   ``…`` ``—`` ``‘ ’``                    unchanged, so [UNK]             cn_clip trained with it
   =====================================  ==============================  =======================

   The WordPiece tokenizer underneath then lower-cases, strips accents, drops control and
   zero-width characters and splits every Chinese character into a token of its own.
2. *Special tokens typed by a user* (a literal ``[MASK]``) are plain text, never special.
3. *Length*: ``[CLS]`` + tokens + ``[SEP]``, at most ``context_length`` in all (52 for
   Chinese-CLIP); the end of a longer text is dropped.

That is ``compat="clip_text"``, the default. Three more contracts give the tokens of another
library, token for token: ``cn_clip``, ``hf`` (transformers) and ``open_clip``. docs/tokenizer.md
shows the four side by side.
"""

from clip_text.names import Compat
from clip_text.tokenizer.contracts import VERSIONS, normalise
from clip_text.tokenizer.report import TextReport, TokenReport
from clip_text.tokenizer.tokenizer import CONTEXT_LENGTH, Aligned, Tokenizer, check_texts

CONTRACT = VERSIONS["clip_text"]
"""Names the default contract in fingerprints."""

__all__ = [
    "CONTEXT_LENGTH",
    "CONTRACT",
    "Aligned",
    "Compat",
    "TextReport",
    "TokenReport",
    "Tokenizer",
    "check_texts",
    "normalise",
]
