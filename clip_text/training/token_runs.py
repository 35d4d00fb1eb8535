"""What the trainings of heads that stand alone share: recipe, backbone, run, and the end of it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from torch import nn
from transformers import TrainerCallback, TrainerState

from clip_text.checkpoints import (
    CONFIG_FILE,
    Checkpoint,
    load_checkpoint,
    resolve,
    save_checkpoint,
    start_backbone,
)
from clip_text.checkpoints.backbones import is_encoder
from clip_text.checkpoints.heads import check_name, export_head, head_folder, save_heads
from clip_text.features import module_digest
from clip_text.heads import StandaloneHead
from clip_text.tokenizer import Tokenizer
from clip_text.towers import TextTower
from clip_text.training.callbacks import Listener, step_line
from clip_text.training.heads_tokens import HeadRecipe, HeadTrainer, suggested_rate
from clip_text.training.recipe import (
    BaseRecipe,
    Count,
    NotNegative,
    Positive,
    Range,
    Share,
)
from clip_text.training.runs import Course, Run, check_export

_LATER = ("weight_decay", "warmup", "bf16")
"""Numbers that are part of a run's settings only where they are not the usual ones."""


Head = TypeVar("Head", bound=nn.Module)
Window = Annotated[int, Range("3 or more", lambda value: value >= 3)]
"""Tokens in a window, with special ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecipe(BaseRecipe):
    """The numbers of a head with a backbone of its own, beside those of :class:`BaseRecipe`.

    Args:
        epochs: Passes over the data, at most.
        patience: Epochs without a better validation after which it stops.
        batch_size: Windows in a step.
        learning_rate: At its peak; suggested by the backbone's width if None.
        weight_decay: On matrices; norms and biases get none.
        warmup: Share of all steps of linear warm-up; linear decay follows.
        context_length: Tokens in a window; at most the backbone's positions.

    Raises:
        RecipeError: If a number is out of its range.
    """

    epochs: Count = 10
    patience: Count = 3
    batch_size: Count = 32
    learning_rate: Positive | None = None
    weight_decay: NotNegative = 0.01
    warmup: Share = 0.1
    context_length: Window = 128

    def general(self, width: int) -> HeadRecipe:
        """Say it as the trainers' recipe; a rate for a backbone's width if none was given."""
        given = {field.name: getattr(self, field.name) for field in fields(HeadRecipe)}
        return HeadRecipe(**given | {"learning_rate": self.learning_rate or suggested_rate(width)})

    def settings(self) -> dict[str, Any]:
        """Give the numbers that a run's outcome depends on, by name."""
        usual = {field.name: field.default for field in fields(self)}
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in _LATER or value != usual[name]
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRun:
    """One training of a head with a backbone of its own.

    Args:
        start: Name of the model whose backbone it starts from, or a checkpoint that was loaded.
        recipe: Rates, epochs and batch sizes to train by.
        folder: Folder of the run, where its report lies.
        listener: Listener that is told how the run goes.
        name: Name of the head.
        random: Whether the backbone starts from random weights, in the model's shape.
        out: Folder of the checkpoint that the head is put into, if any.
        export: Folder for transformers' own class, if any.
    """

    start: str | Path | Checkpoint
    recipe: TokenRecipe
    folder: Path
    listener: Listener
    name: str
    random: bool
    out: Path | None
    export: Path | None

    @classmethod
    def of(  # noqa: PLR0917
        cls,
        start: str | Path | Checkpoint,
        recipe: TokenRecipe,
        folder: str | Path,
        listener: Listener | None,
        name: str,
        random: bool,
        out: str | Path | None,
        export: str | Path | None,
    ) -> "TokenRun":
        """Take the arguments of a training function, in its order; see the class for each."""
        return cls(
            start=start,
            recipe=recipe,
            folder=Path(folder),
            listener=listener or Listener(),
            name=name,
            random=random,
            out=None if out is None else Path(out),
            export=None if export is None else Path(export),
        )

    def backbone(self) -> tuple[TextTower, Tokenizer]:
        """Load what the head starts from.

        Raises:
            CheckpointError: If there is none, it is damaged, or the head's name names no folder.
        """
        check_name(self.name)
        length, seed = self.recipe.context_length, self.recipe.seed
        return start_backbone(self.start, length, random=self.random, seed=seed)

    def begin(self, tower: TextTower, data: Mapping[str, str]) -> Run:
        """Begin the run, or see that its folder holds the same.

        Args:
            tower: The backbone before the first step.
            data: Digests of what is learnt from and measured on, by name.

        Raises:
            ClipTextError: If the folder holds another run.
            FileExistsError: If the folder to export to is there already.
        """
        asked: dict[str, Any] = {"name": self.name, "model": module_digest(tower)}
        asked |= {"random": self.random, **data, **self.recipe.settings()}
        run = Run(self.folder, asked)
        run.begin()
        check_export(self.export, self.folder)
        return run

    def new_head(self, make: Callable[[], Head]) -> Head:
        """Make a head whose new weights are those of the recipe's seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            return make()

    def fit(
        self,
        run: Run,
        head: nn.Module,
        make: Callable[[tuple[TrainerCallback, ...]], HeadTrainer],
        metric: str = "f1",
    ) -> Course:
        """Train a head, or load the end of a finished run into it.

        Args:
            run: Run that was begun.
            head: With its backbone; what training changes.
            make: Makes the trainer, with these callbacks.
            metric: What is told of a validation, a share.
        """
        heard = self.listener.heard(
            "steps", step_line(lambda metrics: f"{metric} {metrics.get(metric, 0.0):.1%}")
        )

        def train() -> TrainerState:
            trainer = make(heard)
            self.listener.say(
                f"{self.recipe.epochs} epochs of {len(trainer.sampler):,} steps at most"
            )
            trainer.fit()
            return trainer.state

        course = run.fit(head, train)
        head.eval()
        return course

    def finish(
        self, run: Run, reader: StandaloneHead[nn.Module], report: dict[str, Any]
    ) -> dict[str, Any]:
        """Put the head where it belongs, export it where that is asked for, and report.

        Args:
            run: Run that is at its end.
            reader: The head, with all that it takes to read texts.
            report: Figures to write into the report.

        Returns:
            The figures, with the head's place if it has one.
        """
        if run.processes.is_main_process:
            if self.out is not None:
                place = head_folder(self.out, self.name)
                if report.get("head") != str(place) or not place.exists():
                    self._place_towers(self.out)
                    save_heads({self.name: reader}, self.out)
                report = report | {"head": str(place)}
            run.write_report(report)
            if self.export is not None and not self.export.exists():
                export_head(reader, self.export)
        return report

    def _place_towers(self, out: Path) -> None:
        if not self.random:
            place_towers(self.start, out)


def place_towers(start: str | Path | Checkpoint, out: Path) -> None:
    """Put the towers a head came from into a new checkpoint's folder, for the head to lie beside.

    A folder that holds towers keeps them. A plain encoder has none to put there.

    Args:
        start: What the head started from.
        out: Folder of the checkpoint.
    """
    if (out / CONFIG_FILE).exists():
        return
    if not isinstance(start, Checkpoint):
        if is_encoder(resolve(start)):
            return
        start = load_checkpoint(start)
    save_checkpoint(start, out)
