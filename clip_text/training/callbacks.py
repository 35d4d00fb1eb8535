"""What our training loops tell as they go on, and what ends them early."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clip_text.progress import Progress, silent
from clip_text.storage import partial_file

METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class Listener:
    """What is told as a run goes on; nothing by default.

    Args:
        say: A line for a person.
        progress: Told how far a task is.
        callbacks: Callbacks of transformers, called by the Trainer as it goes on.
    """

    say: Callable[[str], None] = lambda _: None
    progress: Progress = silent
    callbacks: tuple[TrainerCallback, ...] = ()

    def heard(
        self, name: str, line: Callable[[TrainerState, Mapping[str, float]], str]
    ) -> tuple[TrainerCallback, ...]:
        """Make the callbacks of a Trainer that tell this listener of it.

        Args:
            name: Name of what is trained.
            line: Says a validation's metrics, by their plain names, in a line.
        """
        return (*self.callbacks, _Heard(name, self, line))


def step_line(said: Callable[[Mapping[str, float]], str]) -> Callable[..., str]:
    """Make the usual line of a validation: the step, and what ``said`` says of the metrics."""
    return lambda state, metrics: (
        f"  step {state.global_step:6,d} of {state.max_steps:,}  {said(metrics)}"
    )


class StepProgress(TrainerCallback):
    """Tells how many steps of a run are done.

    Args:
        name: Name of the run.
        progress: Called with the name, the steps done and all steps.
    """

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.progress = name, progress

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Called by the Trainer."""
        del args, control, kwargs
        if state.is_world_process_zero:
            self.progress(self.name, state.global_step, state.max_steps)


class _Heard(StepProgress):
    """Tells a listener of steps and validations."""

    def __init__(
        self,
        name: str,
        listener: Listener,
        line: Callable[[TrainerState, Mapping[str, float]], str],
    ) -> None:
        super().__init__(name, listener.progress)
        self.listener, self.line = listener, line

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Called by the Trainer."""
        del args, control, kwargs
        if state.is_world_process_zero and metrics:
            plain = {name.removeprefix("eval_"): value for name, value in metrics.items()}
            self.listener.say(self.line(state, plain))


class MetricLines(TrainerCallback):
    """Appends what is logged to ``metrics.jsonl``, a JSON object a line.

    A run that goes on from a checkpoint drops the lines the lost steps had left.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Called by the Trainer."""
        del control, kwargs
        file = Path(cast(str, args.output_dir)) / METRICS
        if state.is_world_process_zero and file.exists():
            kept = [line for line in read_metrics(file) if line["step"] <= state.global_step]
            with partial_file(file) as partial:
                partial.write_text("".join(map(_json_line, kept)), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Called by the Trainer."""
        del control, kwargs
        if state.is_world_process_zero and logs:
            folder = Path(cast(str, args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / METRICS).open("a", encoding="utf-8") as out:
                out.write(_json_line({"step": state.global_step, **logs}))


def _json_line(values: dict[str, Any]) -> str:
    return json.dumps(values) + "\n"


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Read a run's ``metrics.jsonl``; a last line cut short by a crash is passed over."""
    lines = file.read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


class EarlyStop(TrainerCallback):
    """Ends training after some validations without a better one, by what is logged alone.

    Checkpoints carry that, so a resumed run stops where it would have; transformers' own keeps a
    count that begins anew.

    Args:
        metric: Name of the metric to look at.
        patience: How many validations to wait.
        greater_is_better: Whether a higher one is, else a lower one.
    """

    def __init__(self, metric: str, patience: int, *, greater_is_better: bool = True) -> None:
        self.metric, self.patience = f"eval_{metric}", patience
        self.best = max if greater_is_better else min

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Called by the Trainer."""
        del args, kwargs
        values = [line[self.metric] for line in state.log_history if self.metric in line]
        if len(values) - 1 - values.index(self.best(values)) >= self.patience:
            control.should_training_stop = True
