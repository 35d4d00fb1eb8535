"""What the commands that train share: a run's folder, its bar of steps, its end."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from clip_text_cli.output import err, progress_bar

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from transformers import TrainerCallback, TrainerState

    from clip_text.heads import Head
    from clip_text.towers import TextTower
    from clip_text.training.heads_tokens import HeadRecipe, HeadTrainer

SETTINGS, REPORT = "settings.json", "report.json"


def run_folder(out: Path, given: Path | None, task: str, name: str) -> Path:
    """Folder of a head's run: what was asked for, or one of its own in ``OUT.run``."""
    own = task if name == task else f"{task}-{name}"
    return given or out.with_name(out.name + ".run") / own


def begin(folder: Path, settings: Mapping[str, Any], how: str = "") -> None:
    """Begin a run in a folder, or see that it holds the same.

    Args:
        folder: Of the run; made if it is not there.
        settings: All that the run's outcome depends on, as JSON has it.
        how: How to name another folder, such as ``by --run``.

    Raises:
        ClipTextError: If the folder holds another run.
    """
    from clip_text.errors import ClipTextError
    from clip_text.storage import partial_file, write_json

    file = folder / SETTINGS
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with partial_file(file) as partial:
            write_json(partial, settings)
    before = json.loads(file.read_text(encoding="utf-8"))
    other = [name for name in {**settings, **before} if settings.get(name) != before.get(name)]
    if other:
        raise ClipTextError(
            f"expected the run that {folder} holds, got another {', '.join(other)}. "
            f"Name another folder{how and ' '}{how}, or ask for the same to go on from there."
        )


def check_export(folder: Path | None, report: object) -> None:
    """Refuse to export into a folder that exists, but for a run that did so when it ended.

    Raises:
        FileExistsError: If it does.
    """
    from clip_text.storage import check_new

    if folder is not None and report is None:
        check_new(folder)


def finished(folder: Path) -> dict[str, Any] | None:
    """Read the report of a run that is at its end; None before."""
    report = folder / REPORT
    return json.loads(report.read_text(encoding="utf-8")) if report.is_file() else None


def how_it_went(state: "TrainerState", started: float) -> dict[str, Any]:
    """Steps, the best of them, and seconds since ``started`` of :func:`time.monotonic`."""
    best = state.best_model_checkpoint
    at = int(str(best).rpartition("-")[2]) if best else state.global_step
    seconds = round(time.monotonic() - started, 1)
    return {"seconds": seconds, "steps": state.global_step, "best_step": at}


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write what a run came to, which ends it."""
    from clip_text.storage import partial_file

    with partial_file(folder / REPORT) as file:
        text = json.dumps(report, ensure_ascii=False, indent=2)
        # a path may hold bytes that are no text; escaped so, they are JSON's own escapes
        file.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class HeadRun:
    """A run of a command that trains a head over tokens.

    Args:
        task: ``ner`` or ``qa``.
        name: Of the head.
        model: What the head starts from.
        out: Folder of the model that the head lies in.
        run_dir: Folder of the run, if not the usual one.
        settings: What the outcome depends on, but for name and model.
    """

    task: str
    name: str
    model: str
    out: Path
    run_dir: Path | None
    settings: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Of the run."""
        return run_folder(self.out, self.run_dir, self.task, self.name)

    @property
    def place(self) -> Path:
        """Where the head lies in the end."""
        from clip_text.checkpoints.heads import head_folder

        return head_folder(self.out, self.name)

    def report(
        self,
        start: "TextTower",
        export: Path | None,
        train: Callable[[], dict[str, Any]],
        load: "Callable[[], Head]",
    ) -> dict[str, Any]:
        """Train, or find what that gave before; and export the head where that is asked for.

        Args:
            start: The backbone before the first step.
            export: Folder for transformers; one that is there already is left as it is.
            train: Trains, writes the head, and reports.
            load: Reads the head.
        """
        from clip_text.checkpoints.heads import export_head
        from clip_text.features import module_digest

        asked = {"name": self.name, "model": module_digest(start), **self.settings}
        begin(self.folder, asked, "by --run")
        report = finished(self.folder)
        check_export(export, report)
        if report is None or Path(report["head"]) != self.place or not self.place.exists():
            report = train()
            write_report(self.folder, report)
        if export is not None and not export.exists():
            export_head(load(), export)
        return report

    def recipe(self, width: int) -> "HeadRecipe":
        """Give the numbers of training; a rate for a backbone's width if none was asked for."""
        from clip_text.training.heads_tokens import HeadRecipe, suggested_rate

        chosen = ("epochs", "patience", "batch_size", "seed")
        return HeadRecipe(
            **{key: self.settings[key] for key in chosen},
            learning_rate=self.settings["learning_rate"] or suggested_rate(width),
        )


def check_numbers(**numbers: int | float | None) -> None:
    """Refuse numbers of a head's recipe before data are read; None for what is to be suggested.

    Raises:
        RecipeError: If a number is out of its range.
        MissingPackageError: If what training needs is not installed.
    """
    from clip_text.training.heads_tokens import HeadRecipe

    given: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    HeadRecipe(**given)


def place_towers(model: str, out: Path, *, alone: bool) -> None:
    """Put the towers a head came from into a new checkpoint's folder, for the head to lie beside.

    A folder that holds towers keeps them. A plain encoder has none, nor have random weights.
    """
    from clip_text.checkpoints import CONFIG_FILE, load_checkpoint, resolve, save_checkpoint
    from clip_text.checkpoints.backbones import is_encoder

    if alone or (out / CONFIG_FILE).exists() or is_encoder(resolve(model)):
        return
    save_checkpoint(load_checkpoint(model), out)


def fit(make: "Callable[[list[TrainerCallback]], HeadTrainer]", metric: str) -> dict[str, Any]:
    """Train with a bar; the best validation and what it took."""
    with step_bar(lambda metrics: f"{metric} {metrics.get(metric, 0.0):.1%}") as bar:
        trainer = make([bar])
        err.print(f"{trainer.recipe.epochs} epochs of {len(trainer.sampler):,} steps at most")
        started = time.monotonic()
        trainer.fit()
    return how_it_went(trainer.state, started)


@contextmanager
def step_bar(
    said: Callable[[Mapping[str, float]], str], what: str = "steps"
) -> "Iterator[TrainerCallback]":
    """A bar of training steps, and a line for each validation.

    Args:
        said: Says a validation's metrics in words.
        what: The bar's name.

    Yields:
        A callback for the Trainer.
    """
    from transformers import TrainerCallback

    with progress_bar(None, "{task.fields[said]}") as bar:

        class Steps(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
                self.task = bar.add_task(what, total=state.max_steps, said="")

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
                bar.update(self.task, completed=state.global_step)

            def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
                metrics = kwargs["metrics"].items()
                words = escape(said({name.removeprefix("eval_"): each for name, each in metrics}))
                bar.update(self.task, said=words)
                err.print(f"  step {state.global_step:6,d} of {state.max_steps:,}  {words}")

        yield Steps()
