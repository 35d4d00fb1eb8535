"""Teaching a text tower another language by a teacher, from parallel sentences."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_cache_path
from transformers import TrainerState

from clip_text.checkpoints import Checkpoint, LoadedTextTower, resolve
from clip_text.data.parallel import ParallelSentences
from clip_text.storage import digest
from clip_text.tokenizer import Tokenizer
from clip_text.towers import Pooler
from clip_text.training.callbacks import Listener, step_line
from clip_text.training.data import ParallelData
from clip_text.training.distillation import (
    DistillationModel,
    DistillationRecipe,
    DistillationTrainer,
    Examination,
    choose_pooler,
)
from clip_text.training.lessons import Lessons
from clip_text.training.runs import Course, Run, Trained, check_inputs
from clip_text.training.students import SIZES, make_student, paired, save_student
from clip_text.training.teacher_rows import teacher_rows
from clip_text.training.teachers import Teacher, load_teacher

PoolerChoice = Literal["auto", "cls", "mean", "max"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStudent(Trained[Checkpoint | LoadedTextTower]):
    """What came of it: ``model`` is a pair of towers if the teacher is one, else a text tower.

    ``metrics`` has recall@1, @5 and @10, and those of each language where there are several.

    Args:
        student: The text tower with its tokenizer; its rows lie beside the teacher's.
    """

    student: LoadedTextTower


def train_distillation(
    start: str | Path,
    data: ParallelData,
    recipe: DistillationRecipe,
    folder: str | Path,
    *,
    listener: Listener | None = None,
    out: str | Path | None = None,
    teacher: str = "minilm",
    tokenizer: str | Path | None = None,
    pooler: PoolerChoice = "auto",
    cache: str | Path | None = None,
) -> TrainedStudent:
    """Teach a text tower a language; the same call again goes on where it was stopped.

    Args:
        start: What the student starts as: a size (``tiny``, ``mini``, ``small``, ``medium``,
            ``base``) of random weights, or a plain encoder's folder or hub name.
        data: Parallel sentences.
        recipe: Rates, epochs and batch sizes to train by.
        folder: Folder of the run: checkpoints of each pooler, metrics, report.
        listener: Told how the run goes.
        out: Folder to write the model to: a checkpoint if the teacher is a pair, else a folder
            for sentence-transformers.
        teacher: Name, as :func:`~clip_text.training.teachers.load_teacher` takes it.
        tokenizer: Folder of a new student's; Chinese word pieces if None.
        pooler: How token states become one vector; ``auto`` lets validation choose.
        cache: Folder for the teacher's rows; in the user's cache if None.

    Raises:
        TypeError: If data or recipe are of another training.
        CheckpointError: If student or teacher cannot be read.
        ClipTextError: If the folder holds another run.
        DataError: If the teacher's rows are broken.
        NonFiniteLossError: If the loss is no number any more.
    """
    check_inputs(data, ParallelData, recipe, DistillationRecipe)
    master = load_teacher(teacher)
    own = Tokenizer.from_folder(Path(tokenizer or resolve("starter")))
    if str(start) not in SIZES:  # fails before the teacher has read everything
        own = make_student(str(start), own, master.width).tokenizer
    asked = {
        "teacher": str(teacher),
        "student": str(start),
        "tokenizer": None if tokenizer is None else str(tokenizer),
        "pooler": pooler,
    }
    run = Run(Path(folder), asked | _settings(data, recipe, master))
    run.begin()
    lessons = _Lessons(
        data,
        own,
        master,
        Path(cache or user_cache_path("clip-text") / "teachers"),
        listener or Listener(),
    )
    job = _Job(run, str(start), master, recipe, lessons)
    report = run.report()
    trials: dict[str, Any] = {}
    chosen: str = pooler
    if report is not None:
        chosen = report["pooler"]
    elif pooler == "auto":
        chosen, trials = job.choose()
    student, course, metrics = job.train(chosen, report)
    if report is None:
        report = lessons.counts() | trials | course.figures() | metrics
        report |= {"pooler": chosen, "candidates": len(lessons.exam.originals)}
        report["parameters"] = sum(each.numel() for each in student.tower.parameters())
    if out is not None and run.processes.is_main_process:
        if report.get("model") != str(out) or not Path(out).exists():
            report["format"] = save_student(student, master, Path(out))
        report["model"] = str(out)
    run.write_report(report)
    return TrainedStudent(
        model=paired(student, master),
        metrics={name: value for name, value in report.items() if name in metrics},
        report=report,
        student=student,
    )


def _settings(data: ParallelData, recipe: DistillationRecipe, master: Teacher) -> dict[str, Any]:
    """Give what the outcome depends on beside names, as JSON has it."""
    to = [f"{name}={recipe.weights[name]:g}" if recipe.weights else name for name in data.languages]
    numbers = asdict(recipe)
    del numbers["bf16"]
    sets = [dict(data.train.by_language), dict(data.validation.by_language)]
    asked = {"from": data.source, "to": ",".join(to), **numbers}
    return asked | {"sentences": digest(*sets), "teacher's weights": master.digest}


class _Lessons:
    """What is learnt and what is measured by, with the teacher's rows.

    Args:
        data: Parallel sentences to learn from and to measure on.
        tokenizer: Tokenizer that the student reads with.
        master: Teacher whose rows the student is to give.
        cache: Folder for the teacher's rows.
        listener: Told how many sentences the teacher has read.
    """

    def __init__(
        self,
        data: ParallelData,
        tokenizer: Tokenizer,
        master: Teacher,
        cache: Path,
        listener: Listener,
    ) -> None:
        self.data, self.tokenizer, self.master = data, tokenizer, master
        self.cache, self.listener = cache, listener
        originals = data.validation.by_language[data.source]
        self.exam = Examination(self._read(data.validation), originals)
        self.learnt = self._read(data.train)

    def _read(self, sentences: ParallelSentences) -> Lessons:
        texts = sentences.by_language[self.data.source]
        rows = teacher_rows(self.master, texts, self.cache, progress=self.listener.progress)
        by_language = {name: sentences.by_language[name] for name in self.data.languages}
        return Lessons(self.tokenizer, by_language, rows)

    def counts(self) -> dict[str, Any]:
        """Count what is learnt, what is asked, and what of that was learnt from."""
        learnt = set(self.data.train.by_language[self.data.source])
        return {
            "pairs": len(self.learnt),
            "queries": len(self.exam.lessons),
            "known_originals": len(set(self.exam.originals) & learnt),
        }


@dataclass(frozen=True, slots=True)
class _Job:
    """One distillation: what is learnt, from whom, and by which numbers."""

    run: Run
    start: str
    master: Teacher
    recipe: DistillationRecipe
    lessons: _Lessons

    def student(self, pooler: str) -> LoadedTextTower:
        """Make the student; the same weights every time."""
        return make_student(
            self.start,
            self.lessons.tokenizer,
            self.master.width,
            pooler=pooler,  # type: ignore[arg-type]
            seed=self.recipe.seed,
        )

    def trainer(self, model: DistillationModel, name: str) -> DistillationTrainer:
        """Make a student's trainer, with a folder of its own for each pooler."""
        return DistillationTrainer(
            *(model, self.lessons.learnt, self.lessons.exam, self.recipe),
            self.run.folder / model.tower.pooler,
            self.lessons.listener.heard(name, step_line(_told)),
        )

    def choose(self) -> tuple[Pooler, dict[str, Any]]:
        """Let validation choose the pooler; the best, and the figures of the trials."""
        steps, say = self.recipe.trial_steps, self.lessons.listener.say
        say(f"poolers: {steps} steps each, {2 * steps} of them for the two not chosen")
        chosen, trials = choose_pooler(
            lambda pooler: self.trainer(
                DistillationModel(self.student(pooler).tower, self.master.width, self.recipe),
                f"pooler {pooler}",
            )
        )
        report = {}
        for name, metrics in trials.items():
            report[f"trial_{name}_recall@1"] = metrics["recall@1"]
            say(f"pooler {name}: recall@1 {metrics['recall@1']:.1%} after {steps} steps")
        return chosen, report

    def train(
        self, pooler: str, report: Mapping[str, Any] | None
    ) -> tuple[LoadedTextTower, Course, dict[str, float]]:
        """Train a student, or load the end of a finished run; and measure it.

        Args:
            pooler: How the student makes a row of its token states.
            report: Report of the run, if it is at its end: nothing is measured then.

        Returns:
            The student, whose rows are in the teacher's space; how it went; metrics by name.
        """
        student = self.student(pooler)
        model = DistillationModel(student.tower, self.master.width, self.recipe)
        exam = self.lessons.exam

        def train() -> TrainerState:
            trainer = self.trainer(model, "steps")
            steps = len(trainer.sampler)
            self.lessons.listener.say(
                f"pooler {pooler}: {self.recipe.epochs} epochs of {steps} steps"
            )
            trainer.fit()
            return trainer.state

        course = self.run.fit(model, train)
        model.eval()
        if report is None:
            metrics = exam.measure(model)
        else:
            metrics = {
                name: value
                for name, value in report.items()
                if "recall@" in name and not name.startswith("trial_")
            }
        model.fold()
        return student, course, metrics


def _told(metrics: Mapping[str, float]) -> str:
    return f"recall@1 {metrics.get('recall@1', 0.0):.1%}"
