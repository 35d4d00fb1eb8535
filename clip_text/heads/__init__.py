"""Heads: what else a text tower's backbone says of a text, beside its row in the shared space.

=======================  ================================================================
:mod:`.classification`   the head itself: pooled state → logits → calibrated probabilities
:mod:`.entities`         labels of tokens → named entities
:mod:`.answers`          starts and ends → the answer to a question, in a passage
:mod:`.files`            how heads lie in a checkpoint's folder
:mod:`.token_heads`      the same for those over tokens, with a backbone of their own
:mod:`.tasks`            those over tokens with a checkpoint: read, written, chosen
:mod:`.export`           a folder of transformers' ``AutoModelForSequenceClassification``
=======================  ================================================================
"""

from clip_text.heads.classification import (
    Classification,
    ClassificationHead,
    HeadConfig,
    LabelProbability,
)

__all__ = ["Classification", "ClassificationHead", "HeadConfig", "LabelProbability"]
