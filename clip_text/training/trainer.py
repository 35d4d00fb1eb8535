"""What every training loop here adds to ``transformers.Trainer``."""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from clip_text.errors import ClipTextError
from clip_text.precision import bf16_pays
from clip_text.storage import disk_trouble
from clip_text.training.average import Average
from clip_text.training.callbacks import MetricLines
from clip_text.training.gather import of_first
from clip_text.training.launching import check_whole_weights, longest_wait
from clip_text.training.recipe import Recipe
from clip_text.training.sharing import SharedAdamW

KEPT = 2
"""Checkpoints of a run that stay: the newest, to go on from, and the best; the newest two if that
is one."""


class NonFiniteLossError(ClipTextError, RuntimeError):
    """The loss became NaN or infinite; the message names the step."""


class SaveError(ClipTextError, OSError):
    """A checkpoint could not be written; older ones are untouched."""


class Numbers(Protocol):
    """What every recipe says."""

    @property
    def epochs(self) -> float:
        """Passes over the data."""

    @property
    def learning_rate(self) -> float:
        """At its peak."""

    @property
    def bf16(self) -> bool:
        """Compute in bfloat16 where it is faster."""

    @property
    def seed(self) -> int:
        """Of weights, draws and dropout."""


@dataclass(frozen=True, slots=True)
class Plumbing:
    """What surrounds a run and does not change what is learnt.

    Args:
        workers: Processes that read pictures ahead; 0 reads in the training process.
        report_to: Names of loggers, such as ``tensorboard`` and ``wandb``; they must be installed.
        compile: Compile the model by ``torch.compile``: a minute's wait, then faster steps.
        callbacks: What else is called as the run goes on, such as a progress bar; the trainers
            themselves print nothing.
        shard_optimizer: With several processes: AdamW's means are divided among them.
    """

    workers: int = 0
    report_to: tuple[str, ...] = ()
    compile: bool = False
    callbacks: tuple[TrainerCallback, ...] = ()
    shard_optimizer: bool = False


def join_processes() -> PartialState:
    """Join the other processes, if a launcher such as ``torchrun`` started this one.

    Raises:
        ClipTextError: If the launcher asks for weights in parts, or for a wait that is none.
    """
    check_whole_weights()
    cuda = torch.cuda.is_available()
    backend = {"backend": "gloo"} if _launched() and not cuda else {}
    return PartialState(cpu=not cuda, timeout=longest_wait(), **backend)


def _launched() -> bool:
    return "LOCAL_RANK" in os.environ


def common_arguments(
    recipe: Numbers,
    folder: Path,
    every: int,
    best_by: str,
    **others: Any,  # noqa: ANN401
) -> TrainingArguments:
    """Say in the Trainer's words what all our loops have in common.

    Args:
        recipe: Rates, epochs and batch sizes to train by.
        folder: Where checkpoints and logs go.
        every: How many steps apart validation runs and a checkpoint is kept.
        best_by: The metric of the one to end with.
        others: The Trainer's own, in addition or instead.
    """
    cuda = torch.cuda.is_available()
    common: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": recipe.epochs,
        "learning_rate": recipe.learning_rate,
        "max_grad_norm": 1.0,
        "bf16": recipe.bf16 and bf16_pays("cuda" if cuda else "cpu"),
        "seed": recipe.seed,
        "logging_steps": min(20, every),
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "load_best_model_at_end": True,
        "metric_for_best_model": f"eval_{best_by}",
        "greater_is_better": True,
        "remove_unused_columns": False,
        "report_to": "none",
        "use_cpu": not cuda,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "ddp_backend": "gloo" if _launched() and not cuda else None,
        "ddp_find_unused_parameters": False,
    }
    arguments = TrainingArguments(**common | others)
    # without a launcher the Trainer would cut batches over all GPUs there are (DataParallel), and
    # our losses are of whole batches
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def training_arguments(
    recipe: Recipe, folder: Path, steps_per_epoch: int, plumbing: Plumbing
) -> TrainingArguments:
    """Say a recipe in the Trainer's words."""
    if plumbing.compile:  # what the compiler cannot do runs uncompiled
        torch._dynamo.config.suppress_errors = True
    every = max(1, steps_per_epoch * recipe.epochs // recipe.evaluations)
    return common_arguments(
        recipe,
        folder,
        every,
        recipe.best_by,
        adam_beta2=0.98,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_steps,
        report_to=list(plumbing.report_to) or "none",
        ddp_broadcast_buffers=False,  # batch norms keep their statistics: they are equal anyway
        torch_compile=plumbing.compile,
    )


class CheckedTrainer(Trainer):
    """``transformers.Trainer`` with a guard at every end.

    It stops at a loss that is not finite, resumes by itself, leaves nothing half-written, appends
    its metrics as JSON lines, and may keep a running mean of the weights.

    Its model returns ``{"loss": …}`` when called with a batch, or ``compute_loss`` is overridden.

    Args:
        args: Arguments of transformers' Trainer, in any order: ``model``, ``args``,
            ``train_dataset``, …
        validate: Returns metrics by name, in place of a validation loss.
        ema: Decay of the running mean, 0 for none.
        kwargs: Named arguments of transformers' Trainer.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401
        validate: Callable[[], dict[str, float]] | None = None,
        ema: float = 0.0,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self.validate = validate
        self.average = None
        if ema:
            network = cast(nn.Module, self.model)
            network.average = self.average = Average(network, ema)
            self.add_callback(self.average.callback())
        self.remove_callback(PrinterCallback)
        self.add_callback(MetricLines())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Run the model; a loss that is not finite ends the run."""
        del num_items_in_batch
        out = model(**inputs)
        self.check_finite(out["loss"])
        return (out["loss"], out) if return_outputs else out["loss"]

    def check_finite(self, loss: Tensor) -> None:
        """Refuse a loss that is not finite.

        Raises:
            NonFiniteLossError: With the number of the step.
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"expected a finite loss, got {value} at step {self.state.global_step + 1}. "
                "Lower the learning rate, or look for broken features."
            )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ANN401
        """Measure by ``validate``, on the running mean of the weights where there is one."""
        if self.validate is None:
            return super().evaluate(*args, **kwargs)
        metrics = {f"eval_{name}": value for name, value in self.measure().items()}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def measure(self) -> dict[str, float]:
        """Call ``validate`` with the model in evaluation mode; metrics by name."""
        if self.validate is None:
            raise ValueError("expected a validate function, got none. Give one to the trainer.")
        model = cast(nn.Module, self.model)
        model.eval()
        with _in_full_precision(model):
            if self.average is None:
                metrics = self.validate()
            else:
                with self.average.in_place(model):
                    metrics = self.validate()
        model.train()
        return metrics

    def fit(self) -> None:
        """Train, from the last complete checkpoint in the folder if there is one."""
        folder = Path(cast(str, self.args.output_dir))
        last = last_checkpoint(folder)
        step = of_first(step_of(Path(last)) if last else 0, self.accelerator.device)
        self.train(resume_from_checkpoint=str(folder / f"checkpoint-{step}") if step else None)
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        if self.average is not None:
            self.average.load_into(cast(nn.Module, self.model))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:  # noqa: ANN401
        folder = Path(cast(str, self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not disk_trouble(error):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            last = last_checkpoint(folder.parent)
            then = f"goes on from {Path(last).name}" if last else "starts anew"
            raise SaveError(
                f"expected room for a checkpoint in {folder.parent}, got {error}. "
                f"Make room; the same command again {then}."
            ) from error
        if self.args.should_save:
            self._drop_older(folder)

    def _save_rng_state(self, output_dir: str) -> None:
        # before the file that says that a checkpoint is complete: it is so for all processes then
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _drop_older(self, newest: Path) -> None:
        """Delete all but :data:`KEPT` checkpoints; the Trainer's own way goes by their times.

        Where steps are so quick that these are alike it says that the file system is at fault.
        """
        best = Path(self.state.best_model_checkpoint or "").name
        order = sorted(newest.parent.glob("checkpoint-*"), key=step_of, reverse=True)
        needed = {newest.name, best} & {each.name for each in order}
        others = [each for each in order if each.name not in needed]
        for old in others[KEPT - len(needed) :]:
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _in_full_precision(model: nn.Module) -> Iterator[None]:
    """Lift accelerate's autocast from a model, meanwhile: what is measured is what gets saved."""
    autocast, own = model.__dict__.get("forward"), model.__dict__.get("_original_forward")
    if own is None or autocast is None:
        yield
        return
    model.forward = own
    try:
        yield
    finally:
        model.forward = autocast


class SampledTrainer(CheckedTrainer):
    """A :class:`CheckedTrainer` that draws batches by a sampler of its own and steps by AdamW.

    A subclass sets ``sampler`` and ``recipe`` before it calls ``super().__init__``.
    """

    sampler: Any
    recipe: Any
    shard_optimizer = False

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Draw batches by the sampler; accelerate splits them over processes."""
        loader: DataLoader[Any] = DataLoader(
            cast(Any, self.train_dataset),
            batch_sampler=self.sampler,
            collate_fn=self.data_collator,
        )
        return cast(DataLoader[Any], self.accelerator.prepare(loader))

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Group what learns for AdamW: no decay on norms and biases."""
        learning = [each for each in network.parameters() if each.requires_grad]
        matrices = [each for each in learning if each.ndim > 1]
        vectors = [each for each in learning if each.ndim <= 1]
        return [
            {"params": matrices, "weight_decay": self.recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over :meth:`parameter_groups`."""
        del model
        if self.optimizer is None:
            shared = self.shard_optimizer and self.args.world_size > 1
            kind = SharedAdamW if shared else torch.optim.AdamW
            self.optimizer = kind(
                self.parameter_groups(self.accelerator.unwrap_model(self.model)),
                lr=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
                fused=True,
            )
        return self.optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        shared = getattr(self.optimizer, "optimizer", self.optimizer)
        if not isinstance(shared, SharedAdamW):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        shared.gather()
        super()._save_optimizer_and_scheduler(output_dir)
        shared.forget()


def last_checkpoint(folder: Path) -> str | None:
    """Path of the newest complete checkpoint in a run's folder, None if there is none."""
    # The Trainer writes this file last: a checkpoint without it was cut short.
    complete = [state.parent for state in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=step_of, default="")) or None


def step_of(checkpoint: Path) -> int:
    """Step after which a checkpoint was written, which its folder is named by."""
    return int(checkpoint.name.rpartition("-")[2])
