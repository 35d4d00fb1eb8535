"""Names of tensors in every format, as tables that are read in both directions.

A table is *order-dependent*: the first rule that matches a name decides. ``left`` is one tensor;
``right`` is the same tensor under another name, or several that are its equal parts along the
first dimension. In a name, ``#`` stands for a layer's number and ``*`` for any rest; both sides
of a rule have the same ones in the same order.

The tables that convert models have our own names, open_clip's, on the left.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a table.

    Args:
        left: Name of one tensor.
        right: Its other name, or the names of its equal parts along the first dimension.
        transposed: Whether the two sides are each other's transpose.
    """

    left: str
    right: str | tuple[str, ...]
    transposed: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The names on the right."""
        return (self.right,) if isinstance(self.right, str) else self.right


Table = tuple[Rule, ...]

CN_CLIP: Table = (
    Rule("logit_scale", "logit_scale"),
    Rule("text.proj.weight", "text_projection", transposed=True),
    Rule("text.transformer.*", "bert.*"),
    Rule("visual.*", "visual.*"),
)
"""open_clip and cn_clip, whose image towers both descend from OpenAI's code."""

_OURS = "visual.transformer.resblocks.#"
_BERT_LAYER = "bert.encoder.layer.#.attention"

FLASH: Table = (
    Rule(f"{_OURS}.attn.Wqkv.*", f"{_OURS}.attn.in_proj_*"),
    *(
        Rule(
            f"{_BERT_LAYER}.self.Wqkv.{kind}",
            tuple(f"{_BERT_LAYER}.self.{part}.{kind}" for part in ("query", "key", "value")),
        )
        for kind in ("weight", "bias")
    ),
    Rule(f"{_BERT_LAYER}.self.out_proj.*", f"{_BERT_LAYER}.output.dense.*"),
    Rule("*", "*"),
)
"""cn_clip with FlashAttention (left) and without."""

_THEIRS = "vision_model.encoder.layers.#"

HUGGING_FACE: Table = (
    Rule("logit_scale", "logit_scale"),
    Rule("text.proj.weight", "text_projection.weight"),
    Rule("text.transformer.*", "text_model.*"),
    Rule("visual.proj", "visual_projection.weight", transposed=True),
    Rule("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    Rule("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    Rule("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    Rule("visual.ln_pre.*", "vision_model.pre_layrnorm.*"),  # spelt so
    Rule("visual.ln_post.*", "vision_model.post_layernorm.*"),
    *(
        Rule(
            f"{_OURS}.attn.in_proj_{kind}",
            tuple(f"{_THEIRS}.self_attn.{part}_proj.{kind}" for part in "qkv"),
        )
        for kind in ("weight", "bias")
    ),
    Rule(f"{_OURS}.attn.out_proj.*", f"{_THEIRS}.self_attn.out_proj.*"),
    Rule(f"{_OURS}.ln_1.*", f"{_THEIRS}.layer_norm1.*"),
    Rule(f"{_OURS}.ln_2.*", f"{_THEIRS}.layer_norm2.*"),
    Rule(f"{_OURS}.mlp.c_fc.*", f"{_THEIRS}.mlp.fc1.*"),
    Rule(f"{_OURS}.mlp.c_proj.*", f"{_THEIRS}.mlp.fc2.*"),
)
"""open_clip and transformers' ``ChineseCLIPModel``, which has no ResNet."""

LEGACY_LAYER_NORM: Table = (
    Rule("*LayerNorm.weight", "*LayerNorm.gamma"),
    Rule("*LayerNorm.bias", "*LayerNorm.beta"),
    Rule("*", "*"),
)
"""BERTs that were converted from TensorFlow, as ``hfl/chinese-roberta-wwm-ext`` was (right)."""

TAIYI: Table = (
    Rule("proj.0.*", "bert.pooler.dense.*"),
    Rule("proj.2.*", "classifier.*"),
    Rule("transformer.*", "bert.*"),
)
"""Our text tower with the projection ``tanh`` and a ``BertForSequenceClassification``."""

COMPUTE_NOTHING = (
    "bert.pooler.*",
    "text_model.pooler.*",
    "text.transformer.pooler.*",
    "*embeddings.position_ids",
    "*embeddings.token_type_ids",
)
"""Tensors that old files carry and no CLIP of these formats reads: 0, 1, 2, … and a pooler."""

TRAINING_HEADS = ("cls.*", "lm_head.*", "qa_outputs.*", "discriminator_predictions.*")
"""What pretraining left on top of a plain encoder."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """Tensors under their new names.

    Args:
        weights: By new name.
        problems: What could not be mapped, a phrase each.
    """

    weights: dict[str, Tensor]
    problems: list[str] = field(default_factory=list)


def to_left(weights: Mapping[str, Tensor], table: Table) -> Mapped:
    """Rename from the right side of a table to its left, joining parts."""
    mapped = Mapped({})
    parts: dict[tuple[Rule, str], dict[int, tuple[str, Tensor]]] = {}
    for name, tensor in weights.items():
        for rule, slot, filled in _matches_right(name, table):
            parts.setdefault((rule, filled), {})[slot] = (name, tensor)
            break
        else:
            mapped.problems.append(f"unknown {name}")
    for (rule, new), found in parts.items():
        ordered = [found[slot] for slot in sorted(found)]
        if len(found) < len(rule.parts):
            lacking = [rule.parts[slot] for slot in range(len(rule.parts)) if slot not in found]
            numbers = _wildcards(new, rule.left)
            mapped.problems.extend(f"missing {_fill(name, numbers)}" for name in lacking)
            continue
        shapes = {tuple(tensor.shape) for _, tensor in ordered}
        if len(shapes) > 1:
            sides = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in ordered)
            mapped.problems.append(f"unequal parts {sides}")
            continue
        if new in mapped.weights:
            mapped.problems.append(f"{ordered[0][0]} a second time under another name")
            continue
        tensors = [tensor for _, tensor in ordered]
        whole = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        mapped.weights[new] = whole.T.contiguous() if rule.transposed else whole
    return mapped


def to_right(weights: Mapping[str, Tensor], table: Table) -> Mapped:
    """Rename from the left side of a table to its right, splitting into parts."""
    mapped = Mapped({})
    for name, tensor in weights.items():
        names = right_names(name, table)
        if names is None:
            mapped.problems.append(f"unknown {name}")
            continue
        rule, new = names
        again = [part for part in new if part in mapped.weights]
        if again:
            mapped.problems.append(f"{', '.join(again)} a second time, in {name}")
            continue
        if len(new) > 1 and (tensor.ndim == 0 or len(tensor) % len(new)):
            sides = list(tensor.shape)
            mapped.problems.append(f"{name} {sides}, which is not {len(new)} equal parts")
            continue
        turned = tensor.T.contiguous() if rule.transposed else tensor
        # a clone: parts that share memory are refused by safetensors and stored thrice by torch
        pieces = [turned] if len(new) == 1 else [p.clone() for p in turned.chunk(len(new))]
        mapped.weights.update(zip(new, pieces, strict=True))
    return mapped


def right_names(name: str, table: Table) -> tuple[Rule, list[str]] | None:
    """Find what a left name is called on the right; None where the table has no place for it."""
    for rule in table:
        match = _pattern(rule.left).fullmatch(name)
        if match:
            return rule, [_fill(part, match.groups()) for part in rule.parts]
    return None


def their_name(name: str, table: Table) -> str:
    """Say what a file calls one of our (left) tensors; its own name where the table has none."""
    found = right_names(name, table)
    return " + ".join(found[1]) if found else name


def drop(
    weights: Mapping[str, Tensor], patterns: tuple[str, ...]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Leave out the tensors whose names match; returns the others and the names left out."""
    dropped = tuple(
        name for name in weights if any(_pattern(each).fullmatch(name) for each in patterns)
    )
    return {name: tensor for name, tensor in weights.items() if name not in dropped}, dropped


def _matches_right(name: str, table: Table) -> Iterator[tuple[Rule, int, str]]:
    for rule in table:
        for slot, part in enumerate(rule.parts):
            match = _pattern(part).fullmatch(name)
            if match:
                yield rule, slot, _fill(rule.left, match.groups())


@cache
def _pattern(name: str) -> re.Pattern[str]:
    wildcards = {"#": r"(\d+)", "*": "(.*)"}
    return re.compile("".join(wildcards.get(char) or re.escape(char) for char in name))


def _wildcards(name: str, pattern: str) -> tuple[str, ...]:
    match = _pattern(pattern).fullmatch(name)
    assert match is not None
    return match.groups()


def _fill(pattern: str, values: tuple[str, ...]) -> str:
    rest = iter(values)
    return re.sub(r"[#*]", lambda _: next(rest), pattern)
