"""Heads: what else a text tower's backbone says of a text, beside its row in the shared space.

=======================  ================================================================
:mod:`.classification`   pooled state → logits → calibrated probabilities of labels
:mod:`.entities`         labels of tokens → named entities
:mod:`.answers`          starts and ends → the answer to a question, in a passage
:mod:`.pairs`            two texts read together → probabilities of labels
:mod:`.standalone`       what those share that have a backbone and tokenizer of their own
:mod:`.token_heads`      the layer of the two over token states
:mod:`.pair_frame`       two texts in one row of tokens
=======================  ================================================================

The table of tasks, how heads lie on disk, and how they are exported, is
:mod:`clip_text.checkpoints.heads`.
"""

from torch import nn

from clip_text.heads.classification import (
    Classification,
    ClassificationHead,
    HeadConfig,
    LabelProbability,
)
from clip_text.heads.standalone import StandaloneHead

Head = ClassificationHead | StandaloneHead[nn.Module]
"""Any head: a ``task``, a ``module`` with its weights, and perhaps a ``tower`` of its own."""

__all__ = [
    "Classification",
    "ClassificationHead",
    "Head",
    "HeadConfig",
    "LabelProbability",
    "StandaloneHead",
]
