"""The numbers of a training stage, and what every recipe's numbers are checked by."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin

from clip_text.errors import ClipTextError

Learn = Literal["all", "none", "lora"] | int
"""What of a tower learns; a number opens the projection and so many of its last layers."""


class RecipeError(ClipTextError, ValueError):
    """Numbers that do not go together, or that the data do not allow."""


@dataclass(frozen=True, slots=True)
class Range:
    """What a number of a recipe may be; NaN and infinity are in no range.

    Args:
        expected: In words that follow "expected NAME to be".
        holds: Whether a finite number is in the range.
    """

    expected: str
    holds: Callable[[float], bool]


Count = Annotated[int, Range("1 or more", lambda value: value >= 1)]
Whole = Annotated[int, Range("0 or more", lambda value: value >= 0)]
Seed = Annotated[int, Range("from 0 to 4294967295", lambda value: 0 <= value < 2**32)]
Positive = Annotated[float, Range("a number above 0", lambda value: value > 0)]
NotNegative = Annotated[float, Range("0 or more", lambda value: value >= 0)]
Share = Annotated[float, Range("a share below 1", lambda value: 0 <= value < 1)]
InnerShare = Annotated[float, Range("a share between 0 and 1", lambda value: 0 < value < 1)]
Factor = Annotated[float, Range("a share up to 1", lambda value: 0 < value <= 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRecipe:
    """What every recipe says, and how its numbers are checked when it is made.

    Args:
        bf16: Compute in bfloat16 where it is faster (see :func:`clip_text.precision.bf16_pays`).
        seed: Seed of weights that start random, draws and dropout.

    Raises:
        RecipeError: If a number is out of its range.
    """

    bf16: bool = True
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_fields(self)
        self.check()

    def check(self) -> None:
        """Refuse numbers that are right alone and do not go together; a recipe's own rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(BaseRecipe):
    """The numbers of one training stage, beside those of :class:`BaseRecipe`.

    Args:
        epochs: Passes over the pictures of the first source.
        learning_rate: Learning rate of the text tower, both projections and the logit scale.
        image_learning_rate: Learning rate of the image tower below its projection.
        weight_decay: On matrices; norms, biases and the logit scale get none.
        image_weight_decay: The same of the image tower below its projection.
        layer_decay: Factor on the learning rate per layer from the top of a tower down.
        warmup_steps: Steps of linear warm-up, or below 1 their share of all steps; cosine decay
            follows.
        text: What of the text tower learns. ``lora``: the projection, and low-rank
            matrices beside the attention's, folded into it at the end (Hu et al. 2021,
            arXiv:2106.09685).
        image: What of the image tower learns.
        lora_rank: Rank of the low-rank matrices.
        loss: ``softmax`` is CLIP's, ``sigmoid`` SigLIP's.
        matryoshka: Numbers of first dimensions whose rows, made unit rows again, learn as the
            whole rows do, so that rows can be cut (Kusupati et al. 2022, arXiv:2205.13147); the
            loss is the mean over these and the whole. Empty: the whole alone.
        local_loss: With several processes: each computes the rows of its own pictures only. The
            gradients are the same; memory no longer grows with the square of the whole batch.
        micro_batch: Pictures (or texts) that run at a time, 0 for all: gradient caching, with the
            gradients of the whole batch (Gao et al. 2021, arXiv:2101.06983).
        gradient_checkpointing: Compute activations twice rather than keep them.
        patch_dropout: Share of a ViT's patches left out in training (Li et al. 2023, FLIP,
            arXiv:2212.00794).
        token_dropout: Share of the tokens the text tower does not get to see in training.
        ema: Decay of a running mean of the weights that is validated and kept in their place; 0
            for none.
        best_by: The metric of the checkpoint to keep; larger is better.
        evaluations: How often validation runs during the stage.

    Raises:
        RecipeError: If a number is out of its range.
    """

    epochs: Count
    learning_rate: Positive = 1e-3
    image_learning_rate: Positive = 2e-4
    weight_decay: NotNegative = 0.05
    image_weight_decay: NotNegative = 0.05
    layer_decay: Factor = 1.0
    warmup_steps: NotNegative = 60
    text: Learn = "all"
    image: Learn = 0
    lora_rank: Count = 16
    loss: Literal["softmax", "sigmoid"] = "softmax"
    matryoshka: tuple[int, ...] = ()
    local_loss: bool = False
    micro_batch: Whole = 0
    gradient_checkpointing: bool = False
    patch_dropout: Share = 0.0
    token_dropout: Share = 0.0
    ema: Share = 0.0
    best_by: str = "recall@10"
    evaluations: Count = 4

    def check(self) -> None:
        """Refuse what no tower can learn."""
        widths = self.matryoshka
        numbers = isinstance(widths, tuple) and all(type(width) is int for width in widths)
        holds = numbers and min(widths, default=1) >= 1
        _check("matryoshka", widths, holds, "whole numbers from 1 in a tuple, such as (64, 128)")
        _check_learn("text", self.text, ("all", "none", "lora"))
        _check_learn("image", self.image, ("all", "none"))
        if self.text == "none" and self.image == "none":
            raise RecipeError("expected something to learn, got two frozen towers. Open one.")


_TYPES: dict[object, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a word"),
}


def check_fields(record: Any) -> None:  # noqa: ANN401  (any dataclass)
    """Refuse values that are not of a field's type or range, as its annotation says them.

    A word where a number belongs is refused, too: ``"False"`` would be taken for true. Every
    recipe calls this when it is made.

    Raises:
        RecipeError: If a field holds what it may not; the message names it.
    """
    for field in fields(record):
        value = getattr(record, field.name)
        choices = get_args(field.type)
        optional = len(choices) == 2 and type(None) in choices
        if optional and value is None:
            continue
        kind = choices[0] if optional else field.type
        base, *ranges = get_args(kind) if hasattr(kind, "__metadata__") else (kind,)
        _check_type(field.name, value, base)
        for each in ranges:
            holds = math.isfinite(value) and each.holds(value)
            _check(field.name, value, holds, each.expected)


def _check_type(name: str, value: object, kind: Any) -> None:  # noqa: ANN401  (a type or a Literal)
    if get_origin(kind) is Literal:
        _check(name, value, value in get_args(kind), " or ".join(get_args(kind)))
    elif kind in _TYPES:
        types, expected = _TYPES[kind]
        holds = isinstance(value, types) and (kind is bool or not isinstance(value, bool))
        _check(name, value, holds, expected)


def _check(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise RecipeError(f"expected {name} to be {expected}, got {value!r}. Correct the recipe.")


def _check_learn(name: str, value: Learn, words: tuple[str, ...]) -> None:
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    expected = f"one of {', '.join(words)}, or a number of last layers"
    _check(name, value, number or value in words, expected)


REFERENCE_RATE, REFERENCE_BATCH, REFERENCE_WIDTH = 5e-5, 512, 768


def suggest_learning_rate(width: int, batch_size: int, pictures: int) -> float:
    """Suggest a peak learning rate for fine-tuning with AdamW.

    From 5e-5 at a batch of 512 and a width of 768 (Chinese-CLIP's own fine-tuning of its base
    model): as the square root of the batch (Malladi et al. 2022, arXiv:2205.10287); inversely as
    the square of the width, which is no more than what the starter, 256 wide, liked beside that
    (docs/training.md); and a little less where the data are few.

    Args:
        width: Width of the text tower's states.
        batch_size: Pictures in a batch, over all processes.
        pictures: How many there are to learn from.

    Returns:
        A rate to start from, not a truth; validation before the first step says what it gave.
    """
    few = min(1.0, (pictures / 30_000) ** 0.1)
    larger = (batch_size / REFERENCE_BATCH) ** 0.5
    rate = REFERENCE_RATE * larger * (REFERENCE_WIDTH / width) ** 2 * few
    return float(f"{rate:.1e}")
