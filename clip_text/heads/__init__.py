"""Heads: what else a text tower's backbone says of a text, beside its row in the shared space.

=======================  ================================================================
:mod:`.classification`   the head itself: pooled state → logits → calibrated probabilities
:mod:`.entities`         labels of tokens → named entities
:mod:`.answers`          starts and ends → the answer to a question, in a passage
:mod:`.token_heads`      what the two over tokens share: a backbone of their own
:mod:`.choice`           a model's heads, chosen by task and name
=======================  ================================================================

How they lie on disk, and how they are exported, is :mod:`clip_text.checkpoints`' business.
"""

from clip_text.heads.classification import (
    Classification,
    ClassificationHead,
    HeadConfig,
    LabelProbability,
)

__all__ = ["Classification", "ClassificationHead", "HeadConfig", "LabelProbability"]
