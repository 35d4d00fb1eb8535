"""What the commands that train heads over tokens share: a run's folder, its bar, its end."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .output import err

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from transformers import TrainerCallback

    from clip_text.training.heads_tokens import HeadTrainer

SETTINGS, REPORT = "settings.json", "report.json"


def finished(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Begin a run, or go on with it: its report if it is at its end.

    Raises:
        ClipTextError: If the folder holds another run.
    """
    from clip_text.checkpoints.files import write_json
    from clip_text.errors import ClipTextError

    file = folder / SETTINGS
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, settings)
    before = json.loads(file.read_text(encoding="utf-8"))
    other = [name for name in {**settings, **before} if settings.get(name) != before.get(name)]
    if other:
        raise ClipTextError(
            f"expected the run that {folder} holds, got another {', '.join(other)}. "
            "Name another folder by --run, or ask for the same to go on from there."
        )
    report = folder / REPORT
    return json.loads(report.read_text(encoding="utf-8")) if report.is_file() else None


def fit(make: "Callable[[list[TrainerCallback]], HeadTrainer]", metric: str) -> dict[str, Any]:
    """Train with a bar; the best validation and what it took."""
    with step_bar(metric) as bar:
        trainer = make([bar])
        err.print(f"{trainer.recipe.epochs} epochs of {len(trainer.sampler):,} steps at most")
        started = time.monotonic()
        trainer.fit()
    seconds = round(time.monotonic() - started, 1)
    best = trainer.state.best_model_checkpoint
    at = int(str(best).rpartition("-")[2]) if best else trainer.state.global_step
    return {"steps": trainer.state.global_step, "best_step": at, "seconds": seconds}


def place_towers(model: str, out: Path, *, alone: bool) -> None:
    """Put the towers a head came from into a new checkpoint's folder, for the head to lie beside.

    A folder that holds towers keeps them. A plain encoder has none, nor have random weights.
    """
    from clip_text.checkpoints import CONFIG_FILE, load_checkpoint, resolve, save_checkpoint
    from clip_text.heads.token_heads import is_encoder

    if alone or (out / CONFIG_FILE).exists() or is_encoder(resolve(model)):
        return
    save_checkpoint(load_checkpoint(model), out)


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write what a run came to, which ends it."""
    from clip_text.checkpoints.files import partial_file, write_json

    with partial_file(folder / REPORT) as file:
        write_json(file, report)


@contextmanager
def step_bar(metric: str) -> "Iterator[TrainerCallback]":
    """A bar of training steps with time left, on stderr and only on a terminal."""
    from transformers import TrainerCallback

    bar = Progress(
        TextColumn("steps"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[best]}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )

    class Steps(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
            self.task = bar.add_task("steps", total=state.max_steps, best="")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
            bar.update(self.task, completed=state.global_step)

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
            value = f"{metric} {kwargs['metrics'].get(f'eval_{metric}', 0.0):.1%}"
            bar.update(self.task, best=value)
            err.print(escape(f"  step {state.global_step:5,d}  {value}"))

    with bar:
        yield Steps()
