"""Masked LM: a backbone learns a language, or a field's, by guessing words that are masked.

RoBERTa's recipe (Liu et al. 2019, arXiv:1907.11692): masks drawn anew in every epoch, sequences
packed of whole lines, no next-sentence task, large batches; for Chinese with whole-word masking
(Cui et al. 2019, arXiv:1906.08101). What is learnt is transformers' own model for masked LM; its
folder is one that ``load_text_tower`` starts a text tower from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from clip_text.errors import DataError
from clip_text.lengths import by_length
from clip_text.storage import partial_folder
from clip_text.tokenizer import Tokenizer
from clip_text.training.callbacks import EarlyStop
from clip_text.training.masked_sequences import (
    MaskedLMRecipe,
    MaskedSequences,
    MicroBatches,
)
from clip_text.training.recipe import RecipeError
from clip_text.training.trainer import SampledTrainer, common_arguments, join_processes

_LARGEST_LOSS = 700.0
"""Its exponential is about the largest number there is."""


def masked_logits(model: nn.Module, inputs: Tensor, pad_id: int, where: Tensor) -> Tensor:
    """Run a model for masked LM; logits of some places alone.

    The vocabulary is what costs most on a small encoder, and five of six places have nothing to
    guess. So BERT's and RoBERTa's heads get to see the others only; what other architectures
    compute is thrown away.

    Args:
        model: One of transformers' ``AutoModelForMaskedLM``, or what a launcher wrapped it in.
        inputs: Token ids, [n, length].
        pad_id: What fills the end of short rows.
        where: True at the places asked for, [n, length].

    Returns:
        Logits [places, vocabulary], row by row.
    """
    inner = getattr(model, "module", model)
    head = getattr(inner, "cls", None) or getattr(inner, "lm_head", None)
    mask = (inputs != pad_id).long()
    if not isinstance(head, nn.Module):
        return cast(Tensor, model(input_ids=inputs, attention_mask=mask).logits[where])
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][where], *args[1:]))
    try:
        return cast(Tensor, model(input_ids=inputs, attention_mask=mask).logits)
    finally:
        hook.remove()


@dataclass(slots=True)
class Perplexity:
    """How well a model guesses masked words of text held out; the masks are always the same.

    Args:
        sequences: Sequences of the text to measure on.
        batch_size: Sequences at a time.
    """

    sequences: MaskedSequences
    batch_size: int = 64

    @torch.inference_mode()
    def measure(self, model: nn.Module) -> dict[str, float]:
        """Measure a model in evaluation mode.

        Returns:
            ``loss``, the mean of -ln(probability of the right token) over masked tokens;
            ``perplexity``, its exponential; ``accuracy``, the share of them guessed right.

        Raises:
            DataError: If nothing was masked.
        """
        device = next(model.parameters()).device
        total, right, count = 0.0, 0, 0
        for places in by_length(self.sequences.places[:, 2], self.batch_size):
            batch = self.sequences.collate([self.sequences[0, place] for place in places])
            labels = batch["labels"].to(device)
            where = labels >= 0
            inputs = batch["input_ids"].to(device)
            logits = masked_logits(model, inputs, self.sequences.pad_id, where).float()
            total += float(F.cross_entropy(logits, labels[where], reduction="sum"))
            right += int((logits.argmax(-1) == labels[where]).sum())
            count += int(where.sum())
        if not count:
            raise DataError("expected masked tokens to validate on, got none. Hold out more text.")
        loss = total / count
        perplexity = math.exp(min(loss, _LARGEST_LOSS))
        return {"loss": loss, "perplexity": perplexity, "accuracy": right / count}


class MaskedLMTrainer(SampledTrainer):
    """``transformers.Trainer`` with our sequences, and perplexity on text held out as validation.

    Args:
        model: One of transformers' ``AutoModelForMaskedLM``; trained in place.
        sequences: Sequences of text that it learns from.
        exam: What says which checkpoint is best.
        recipe: Rates, epochs and batch sizes to train by.
        folder: Where checkpoints and logs go; the same again resumes.
        callbacks: Callbacks of transformers, for a progress bar.

    Raises:
        RecipeError: If a batch is larger than the text.
    """

    def __init__(  # noqa: PLR0917
        self,
        model: PreTrainedModel,
        sequences: MaskedSequences,
        exam: Perplexity,
        recipe: MaskedLMRecipe,
        folder: Path,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        if recipe.batch_size > len(sequences):
            raise RecipeError(
                f"expected a batch_size of at most {len(sequences):,} (sequences of text), "
                f"got {recipe.batch_size:,}. Lower it, or get more text."
            )
        self.recipe = recipe
        # a checkpoint holds tied weights once; the Trainer warns that the others are missing if
        # nobody told it that they are left out
        model._keys_to_ignore_on_save = list(getattr(model, "all_tied_weights_keys", None) or ())
        self.sampler = MicroBatches(sequences, recipe.micro_batch, recipe.seed)
        stop = (
            []
            if recipe.patience is None
            else [EarlyStop("perplexity", recipe.patience, greater_is_better=False)]
        )
        super().__init__(
            model=model,
            args=_arguments(recipe, folder, len(self.sampler)),
            train_dataset=sequences,
            eval_dataset=[],
            data_collator=sequences.collate,
            callbacks=[*callbacks, *stop],
            validate=lambda: exam.measure(model),
        )
        self.pad_id = sequences.pad_id
        self.model_accepts_loss_kwargs = True  # count the tokens to guess in the whole batch

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Mean, a scalar, over the masked tokens of the batch [n, length], however it is split.

        (transformers' BERT divides by those of the micro-batch, so that a token's weight would
        depend on its neighbours.)
        """
        where = inputs["labels"] >= 0
        logits = masked_logits(model, inputs["input_ids"], self.pad_id, where).float()
        loss = F.cross_entropy(logits, inputs["labels"][where], reduction="sum")
        count = where.sum() if num_items_in_batch is None else num_items_in_batch
        loss = loss / max(1, int(count))
        if num_items_in_batch is not None:  # of all processes, whose gradients get averaged
            loss = loss * self.accelerator.num_processes
        self.check_finite(loss)
        return (loss, {"logits": logits}) if return_outputs else loss


def save_masked_lm(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the model with its head and the tokenizer, as a plain folder of transformers.

    ``AutoModelForMaskedLM`` and ``AutoTokenizer`` load it without this package, and
    ``clip_text.checkpoints.load_text_tower`` starts a text tower from it.
    """
    with partial_folder(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save(partial)


def _arguments(recipe: MaskedLMRecipe, folder: Path, micro_batches: int) -> TrainingArguments:
    processes = join_processes().num_processes
    at_once = recipe.micro_batch * processes
    if recipe.batch_size % at_once:
        raise RecipeError(
            f"expected a batch_size that micro-batches of {recipe.micro_batch} in {processes} "
            f"processes fill, got {recipe.batch_size}. Make it a multiple of {at_once}."
        )
    accumulated = recipe.batch_size // at_once
    steps = max(1, math.ceil(micro_batches / processes / accumulated * recipe.epochs))
    return common_arguments(
        recipe,
        folder,
        max(1, steps // recipe.evaluations),
        "perplexity",
        greater_is_better=False,
        per_device_train_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=accumulated,
        adam_beta2=recipe.adam_beta2,
        adam_epsilon=recipe.adam_epsilon,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup,
    )
