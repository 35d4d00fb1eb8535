"""Masked LM: the numbers of a run, and the batches it draws."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from clip_text.data.corpus import Tokens
from clip_text.data.length_grouped import LengthGrouped
from clip_text.data.masking import IGNORED, Flags, Ids, Masking, mask_rng
from clip_text.data.packing import Packing, render
from clip_text.tokenizer import Tokenizer
from clip_text.training.recipe import (
    BaseRecipe,
    Count,
    InnerShare,
    NotNegative,
    Positive,
    Range,
    RecipeError,
    Share,
)

Drawn = tuple[Ids, Ids]
"""What the model reads of a sequence, and what it has to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedLMRecipe(BaseRecipe):
    """The numbers of masked-LM training, beside those of :class:`BaseRecipe`.

    Args:
        epochs: Passes over the text; may be broken.
        batch_size: Sequences in a step.
        micro_batch: Sequences of a batch that run at a time; the gradients are those of the whole
            batch.
        learning_rate: Learning rate at the peak, after the warm-up.
        warmup: Share of the steps in which the rate rises.
        schedule: How the rate falls after that, to 0.
        weight_decay: On matrices; norms and biases get none.
        adam_beta2: AdamW's decay of the mean of squared gradients.
        adam_epsilon: AdamW's term that keeps a division from zero.
        context_length: Longest sequence, in tokens with special ones; the tokenizer's if None.
        packing: How lines become sequences; see :mod:`clip_text.data.packing`.
        share: Share of the tokens that have to be guessed, in [0, 1].
        evaluations: How often validation runs.
        held_sequences: Sequences of the text held out that validation reads at most.
        patience: Validations without a lower perplexity after which the run ends; None for none.

    Raises:
        RecipeError: If a number is out of its range, or micro-batches do not fill the batch.
    """

    epochs: Positive = 1.0
    batch_size: Count = 256
    micro_batch: Count = 32
    learning_rate: Positive = 1e-4
    warmup: Share = 0.06
    schedule: Literal["linear", "cosine"] = "linear"
    weight_decay: NotNegative = 0.01
    adam_beta2: Share = 0.98
    adam_epsilon: Positive = 1e-6
    context_length: Annotated[int, Range("3 or more", lambda value: value >= 3)] | None = None
    packing: Packing = "document"
    share: InnerShare = 0.15
    evaluations: Count = 10
    held_sequences: Count = 2000
    patience: Count | None = None

    def check(self) -> None:
        """Refuse micro-batches that do not fill the batch."""
        if self.batch_size % self.micro_batch:
            raise RecipeError(
                f"expected a batch_size that micro-batches of {self.micro_batch} fill, "
                f"got {self.batch_size}. Make it a multiple."
            )


PRESETS: dict[str, dict[str, float]] = {
    # A pretrained encoder goes on with text of one's own. Gururangan et al. 2020
    # (arXiv:2004.10964), appendix B: 6% warm-up; their rate for small corpora, 1e-4.
    "continue": {"learning_rate": 1e-4, "batch_size": 256, "warmup": 0.06},
    # From random weights, or with a head of random weights on an encoder of a few layers.
    "scratch": {"learning_rate": 1e-3, "batch_size": 256, "warmup": 0.1},
    # RoBERTa base from random weights: Liu et al. 2019, table 9; 24,000 of 500,000 steps.
    "roberta": {"learning_rate": 6e-4, "batch_size": 8192, "warmup": 0.048},
}
"""Rate, batch and warm-up by what is to be done."""


class MaskedSequences(Dataset[Drawn]):
    """Sequences of a text with masks that depend on seed, epoch and sequence alone.

    Args:
        tokens: Token ids and flags of the whole text.
        tokenizer: Tokenizer whose ids the text has.
        recipe: Its context, packing, share and seed count here.
        at_most: How many sequences to take, evenly spread; 0 for all.

    Raises:
        DataError: If the tokenizer has no mask.
    """

    def __init__(
        self, tokens: Tokens, tokenizer: Tokenizer, recipe: MaskedLMRecipe, at_most: int = 0
    ) -> None:
        self.tokens, self.recipe = tokens, recipe
        self.masking = Masking.of(tokenizer, recipe.share)
        backend = tokenizer.backend
        self.cls_id, self.sep_id, self.pad_id = (
            int(cast(int, each))
            for each in (backend.cls_token_id, backend.sep_token_id, backend.pad_token_id)
        )
        length = recipe.context_length or tokenizer.context_length
        found = tokens.sequences(length, recipe.packing)
        if at_most and len(found) > at_most:
            found = found[np.linspace(0, len(found) - 1, at_most).astype(np.int64)]
        self.places = found

    def __len__(self) -> int:
        return len(self.places)

    def sequence(self, at: int) -> tuple[Ids, Flags]:
        """Give a sequence as it is, and where its words begin."""
        begin, end, _ = self.places[at].tolist()
        run = slice(begin, end)
        ids, flags = np.asarray(self.tokens.ids[run]), np.asarray(self.tokens.flags[run])
        return render(ids, flags, self.cls_id, self.sep_id)

    def __getitem__(self, place: tuple[int, int]) -> Drawn:
        """Draw a sequence's mask for an epoch; ``place`` is the two of them, epoch first."""
        epoch, at = place
        return self.masking.draw(*self.sequence(at), mask_rng(self.recipe.seed, epoch, at))

    def collate(self, drawn: Sequence[Drawn]) -> dict[str, Tensor]:
        """Stack sequences, padded to the longest: ``input_ids`` and ``labels``, [n, length]."""
        length = max(len(inputs) for inputs, _ in drawn)
        inputs = np.full((len(drawn), length), self.pad_id, np.int64)
        labels = np.full((len(drawn), length), IGNORED, np.int64)
        for at, (read, said) in enumerate(drawn):
            inputs[at, : len(read)], labels[at, : len(said)] = read, said
        return {"input_ids": torch.from_numpy(inputs), "labels": torch.from_numpy(labels)}


class MicroBatches(Sampler[list[tuple[int, int]]]):
    """Batches of sequences of like length, with the epoch, which draws the mask, beside each.

    Args:
        sequences: What to draw from.
        micro_batch: Sequences in a batch; a rest too small for one waits for another epoch.
        seed: Seed of the order in which batches come.
    """

    def __init__(self, sequences: MaskedSequences, micro_batch: int, seed: int) -> None:
        lengths = sequences.places[:, 2]
        self._batches = LengthGrouped(lengths, micro_batch, seed, drop_last=True)

    def set_epoch(self, epoch: int) -> None:
        """Choose which epoch the next iteration draws."""
        self._batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self._batches.epoch
        for batch in self._batches:
            yield [(epoch, at) for at in batch]
