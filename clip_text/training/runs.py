"""The one protocol of all runs: what was asked for, the end of it, and what it came to.

FOLDER/settings.json          all that the outcome depends on; written first
FOLDER/checkpoint-*           what training goes on from, here or in a folder below
FOLDER/finished.safetensors   the weights at its end; the same call loads them
FOLDER/finished.json          what that took
FOLDER/report.json            the figures; written last
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from accelerate import PartialState
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import TrainerState

from clip_text.errors import ClipTextError
from clip_text.storage import check_new, partial_file, write_json
from clip_text.training.gather import largest, of_first
from clip_text.training.trainer import SaveError, join_processes, step_of

SETTINGS, REPORT = "settings.json", "report.json"
FINISHED, COURSE = "finished.safetensors", "finished.json"

_LEFT_BY_RUNS = ("checkpoint-*", "made-by.txt", FINISHED)
"""What shows that a folder without settings holds another run, such as an earlier version's."""

SEEN_WITHIN = 10.0
"""Seconds within which what one host has written is there for the others."""

Model = TypeVar("Model")


def check_inputs(data: object, data_kind: type, recipe: object, recipe_kind: type) -> None:
    """Refuse data and recipes of another training before anything is read.

    Args:
        data: What a training function was given to learn from.
        data_kind: Class of data that the training takes.
        recipe: Its numbers, as they were given.
        recipe_kind: Class of recipe that the training takes.

    Raises:
        TypeError: If one of them is something else.
    """
    for name, value, kind in (("data", data, data_kind), ("recipe", recipe, recipe_kind)):
        if not isinstance(value, kind):
            raise TypeError(
                f"expected {name} to be of {kind.__name__}, got {type(value).__name__}. "
                "Import it from clip_text.training."
            )


@dataclass(frozen=True, slots=True)
class Course:
    """How training went.

    Args:
        seconds: It took, what was read before the first step included where a run says so.
        steps: Steps that the optimizer takes.
        best_step: The one whose weights are kept.
        finished_before: Whether the run's end was there already, and nothing was trained now.
    """

    seconds: float
    steps: int
    best_step: int
    finished_before: bool = False

    def figures(self) -> dict[str, float]:
        """Give them by name, as reports have them."""
        return {"seconds": self.seconds, "steps": self.steps, "best_step": self.best_step}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained(Generic[Model]):
    """What comes of every training function.

    Args:
        model: What was trained, in evaluation mode.
        metrics: Its validation by name, as floats; shares lie in [0, 1].
        report: All figures by name, as ``report.json`` in the run's folder holds them.
    """

    model: Model
    metrics: dict[str, float]
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A folder of a run, or of a stage of one.

    Args:
        folder: Made when the run begins.
        settings: All that the outcome depends on, as JSON has it.
        anew: Whether other settings than the folder's empty it; else they are refused.
    """

    folder: Path
    settings: Mapping[str, object]
    anew: bool = False
    processes: PartialState = field(default_factory=join_processes)

    def begin(self) -> None:
        """Begin, or see that the folder holds the same run. The main process does it.

        Raises:
            ClipTextError: If the folder holds another run that is not to be replaced.
            FileExistsError: If it holds what no run of this version has left there.
        """
        if self.processes.is_main_process:
            self._stamp()
        self.processes.wait_for_everyone()
        if self.processes.num_processes > 1:
            self._check_shared()

    def _check_shared(self) -> None:
        """Refuse hosts that have not one folder, or not the same data, model and options.

        All processes refuse together: none is left waiting for the others.
        """
        file, asked = self.folder / SETTINGS, _as_json(self.settings)
        until = time.monotonic() + SEEN_WITHIN
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.2)
        seen = file.exists()
        same = seen and json.loads(file.read_text(encoding="utf-8")) == asked
        worst = largest(0 if same else 1 if seen else 2, self.processes.device)
        if worst == 2:
            raise ClipTextError(
                f"expected one folder of the run in all {self.processes.num_processes} processes, "
                f"got one without the first process's {SETTINGS} in {self.folder} of some. Name a "
                "folder on storage that all hosts share."
            )
        if worst == 1:
            raise ClipTextError(
                f"expected all {self.processes.num_processes} processes to be asked for the same "
                f"run, got other settings than those in {file} of some. Give all hosts the same "
                "data, model and options."
            )

    def _stamp(self) -> None:
        file = self.folder / SETTINGS
        asked = _as_json(self.settings)
        if file.exists():
            before = json.loads(file.read_text(encoding="utf-8"))
            other = [key for key in {**asked, **before} if asked.get(key) != before.get(key)]
            if not other:
                return
            if not self.anew:
                raise ClipTextError(
                    f"expected the run that {self.folder} holds, got another {', '.join(other)}. "
                    "Name another folder for the run, or ask for the same to go on from there."
                )
            _empty(self.folder, file)
        else:
            self._check_strange()
        with partial_file(file) as partial:
            write_json(partial, asked)

    def _check_strange(self) -> None:
        """Refuse a folder whose files would be emptied, or mixed with ours."""
        patterns = ("*",) if self.anew else _LEFT_BY_RUNS
        strange = [path for pattern in patterns for path in self.folder.glob(pattern)]
        if strange:
            raise FileExistsError(
                f"expected an earlier run of this version, or nothing, in {self.folder} "
                f"({strange[0].name} lies there), got files of something else. Name another folder "
                "for the run, or delete this one if an earlier version left it."
            )

    def fit(
        self,
        model: nn.Module,
        train: Callable[[], TrainerState],
        *,
        started: float | None = None,
    ) -> Course:
        """Train, or load the end of the same run into the model.

        Args:
            model: What training changes.
            train: Trains the model, from the newest checkpoint in the folder if there is one.
            started: When the seconds begin, by :func:`time.monotonic`; now if not given.

        Raises:
            ClipTextError: If the folder holds another run that is not to be replaced.
            FileExistsError: If it holds what no run of this version has left there.
            SaveError: If the disk is full.
        """
        self.begin()
        here = (self.folder / COURSE).exists()
        missing = not of_first(int(here), self.processes.device)
        if missing:
            started = time.monotonic() if started is None else started
            state = train()
            if self.processes.is_main_process:
                self._finish(model, state, time.monotonic() - started)
            self.processes.wait_for_everyone()
        load_model(model, self.folder / FINISHED)
        about = json.loads((self.folder / COURSE).read_text(encoding="utf-8"))
        return Course(**about, finished_before=not missing)

    def _finish(self, model: nn.Module, state: TrainerState, seconds: float) -> None:
        with partial_file(self.folder / FINISHED) as partial:
            try:
                save_model(model, str(partial))
            except (OSError, SafetensorError) as error:
                raise SaveError(
                    f"expected room for {FINISHED} in {self.folder}, got {error}. "
                    "Make room; the same command again goes on from the last checkpoint."
                ) from error
        best = state.best_model_checkpoint
        step = step_of(Path(best)) if best else state.global_step
        course = Course(round(seconds, 1), state.global_step, step)
        with partial_file(self.folder / COURSE) as partial:  # last: it says that all is there
            write_json(partial, course.figures())

    def report(self) -> dict[str, Any] | None:
        """Read what the run came to; None before its end."""
        return read_report(self.folder)

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Write what the run came to, which ends it. The main process does it."""
        if self.processes.is_main_process:
            write_report(self.folder, report)


def read_report(folder: Path) -> dict[str, Any] | None:
    """Read the report of a run that is at its end; None before."""
    file = folder / REPORT
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write what a run came to into its folder."""
    with partial_file(folder / REPORT) as file:
        text = json.dumps(report, ensure_ascii=False, indent=2)
        # a path may hold bytes that are no text; escaped so, they are JSON's own escapes
        file.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def check_export(export: Path | None, folder: Path) -> None:
    """Refuse to export into a folder that exists, but for a run that did so when it ended.

    Args:
        export: Where to; None for nowhere.
        folder: Folder of the run, where its report lies.

    Raises:
        FileExistsError: If it exists.
    """
    if export is not None and read_report(folder) is None:
        check_new(export)


def _as_json(settings: Mapping[str, object]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(json.dumps(settings))
    return read


def _empty(folder: Path, stamp: Path) -> None:
    for path in folder.iterdir():
        if path == stamp:  # goes last: half emptied, the folder still is a run's
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
