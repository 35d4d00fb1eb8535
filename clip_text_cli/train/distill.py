"""Teach a text tower another language, from parallel sentences: ``clip-text train distill``.

python scripts/distill_text.py captions.jsonl --from en --to zh --out tower
"""

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from platformdirs import user_cache_path
from rich.markup import escape

from clip_text_cli.options import AsJson, listed
from clip_text_cli.output import err, out, print_json, progress_bar
from clip_text_cli.runs import begin, finished, how_it_went, step_bar, write_report

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from transformers import TrainerCallback

    from clip_text.checkpoints import LoadedTextTower
    from clip_text.data.parallel import ParallelSentences
    from clip_text.tokenizer import Tokenizer
    from clip_text.training.distillation import (
        DistillationModel,
        DistillationRecipe,
        DistillationTrainer,
        Examination,
    )
    from clip_text.training.lessons import Lessons
    from clip_text.training.teachers import Teacher

CACHE = user_cache_path("clip-text") / "teachers"
HELD_OUT = 1000
MODEL = "model"
PoolerChoice = Literal["auto", "cls", "mean", "max"]


@dataclass(frozen=True, slots=True)
class Job:
    """One distillation: what is learnt, from whom, and by which numbers."""

    teacher: "Teacher"
    student: str
    tokenizer: "Tokenizer"
    lessons: "Lessons"
    examination: "Examination"
    recipe: "DistillationRecipe"
    folder: Path

    def start(self, pooler: str) -> "LoadedTextTower":
        """Make the student; the same weights every time."""
        from clip_text.training.students import make_student

        return make_student(
            self.student,
            self.tokenizer,
            self.teacher.width,
            pooler=pooler,  # type: ignore[arg-type]
            seed=self.recipe.seed,
        )

    def model(self, student: "LoadedTextTower") -> "DistillationModel":
        """Make what is trained of a student."""
        from clip_text.training.distillation import DistillationModel

        return DistillationModel(student.tower, self.teacher.width, self.recipe)

    def trainer(
        self, model: "DistillationModel", callbacks: "list[TrainerCallback]"
    ) -> "DistillationTrainer":
        """Make its trainer, with a folder of its own for each pooler."""
        from clip_text.training.distillation import DistillationTrainer

        folder = self.folder / model.tower.pooler
        return DistillationTrainer(
            model, self.lessons, self.examination, self.recipe, folder, callbacks
        )


def run(job: Job, pooler: PoolerChoice, say: Callable[[str], None]) -> dict[str, Any]:
    """Choose the pooler if asked to, train, write the model, and report.

    Args:
        job: What to do.
        pooler: ``auto`` lets validation choose.
        say: Is told what goes on, a line at a time.

    Returns:
        Figures by name; recall in [0, 1].
    """
    from clip_text.training.distillation import choose_pooler
    from clip_text.training.students import save_student

    report: dict[str, Any] = {}
    steps = job.recipe.trial_steps
    chosen: str = pooler
    if pooler == "auto":
        say(f"poolers: {steps} steps each, {2 * steps} of them for the two not chosen")
        with step_bar(_recall, "poolers") as bar:
            chosen, trials = choose_pooler(
                lambda name: job.trainer(job.model(job.start(name)), [bar])
            )
        for name, metrics in trials.items():
            report[f"trial_{name}_recall@1"] = metrics["recall@1"]
            say(f"pooler {name}: recall@1 {metrics['recall@1']:.1%} after {steps} steps")
    student = job.start(chosen)
    model = job.model(student)
    with step_bar(_recall) as bar:
        trainer = job.trainer(model, [bar])
        batches = len(trainer.sampler)
        say(f"pooler {chosen}: {job.recipe.epochs} epochs of {batches} steps")
        started = time.monotonic()
        trainer.fit()
    report |= how_it_went(trainer.state, started)
    report |= trainer.measure()
    report |= {"pooler": chosen, "candidates": len(job.examination.originals)}
    report["parameters"] = sum(each.numel() for each in student.tower.parameters())
    model.fold()
    place = job.folder / MODEL
    report["format"] = save_student(student, job.teacher, place)
    report["model"] = str(place)
    return report


def _recall(metrics: Mapping[str, float]) -> str:
    return f"recall@1 {metrics.get('recall@1', 0.0):.1%}"


def split(
    sentences: "ParallelSentences", held_out: int, seed: int
) -> "tuple[ParallelSentences, ParallelSentences]":
    """Hold out some lines at random: at most a tenth of them, and the first sentence of each.

    Returns:
        What to learn from, and what to examine by.
    """
    groups = sorted(set(sentences.groups))
    count = min(held_out, max(1, len(groups) // 10))
    kept = set(random.Random(seed).sample(groups, count))  # noqa: S311  (nothing secret)
    inside = [at for at, group in enumerate(sentences.groups) if group in kept]
    outside = [at for at, group in enumerate(sentences.groups) if group not in kept]
    return sentences.take(outside), sentences.take(inside).first_of_each()


def read_weights(text: str) -> tuple[list[str], dict[str, float] | None]:
    """Read ``zh,ja`` or ``zh=2,ja=1``: languages, and how often to draw each.

    Raises:
        typer.BadParameter: If it is neither.
    """
    parts = [part.partition("=") for part in listed(text) or []]
    names = [name.strip() for name, _, _ in parts]
    given = [value for _, sign, value in parts if sign]
    try:
        weights = [float(value) for value in given]
    except ValueError:
        weights = [0.0]
    if not names or len(given) not in (0, len(names)) or any(weight <= 0 for weight in weights):
        raise typer.BadParameter(f"expected languages like zh,ja or zh=2,ja=1, got {text!r}.")
    return names, dict(zip(names, weights, strict=True)) if given else None


def lines(report: dict[str, Any]) -> list[str]:
    """Say a report in words."""
    recalls = "  ".join(f"recall@{k} {report[f'recall@{k}']:.1%}" for k in (1, 5, 10))
    said = [f"{recalls}  ({report['candidates']:,} candidates, {report['queries']:,} queries)"]
    for name in sorted(report):
        language = name.removesuffix("_recall@1")
        if name.endswith("_recall@1") and not name.startswith("trial_"):
            said.append(f"  {language:8s} recall@1 {report[name]:.1%}")
    if report["known_originals"]:
        said.append(f"  {report['known_originals']:,} of the candidates were learnt from, too")
    said.append(
        f"pooler {report['pooler']}, best at step {report['best_step']:,} of {report['steps']:,}, "
        f"{report['pairs']:,} pairs, {report['seconds'] / 60:.1f} minutes"
    )
    return [*said, f"{report['model']} ({report['format']}, {report['parameters']:,} numbers)"]


def distill(
    data: Annotated[Path, typer.Argument(help="Parallel sentences: .jsonl, .csv, .tsv or .xlsx.")],
    source: Annotated[str, typer.Option("--from", help="Field the teacher reads.")],
    to: Annotated[str, typer.Option(help="Field(s) to learn: zh, or zh,ja, or zh=2,ja=1.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder of run and model.")],
    val: Annotated[
        Path | None, typer.Option(help="Sentences to examine by; lines held out if none.")
    ] = None,
    teacher: Annotated[
        str, typer.Option(help="minilm, a folder, a hub name, or open_clip:ViT-B-32/openai.")
    ] = "minilm",
    student: Annotated[
        str, typer.Option(help="tiny, mini, small, medium, base; or an encoder to start from.")
    ] = "mini",
    tokenizer: Annotated[
        Path | None, typer.Option(help="Of a new student; Chinese WordPiece if none.")
    ] = None,
    pooler: Annotated[PoolerChoice, typer.Option(help="auto lets validation choose.")] = "auto",
    trial_steps: Annotated[int, typer.Option(min=1, help="Steps per pooler, for auto.")] = 100,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the sentences.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences in a step.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="At its peak.")] = 1e-3,
    contrastive: Annotated[
        float, typer.Option(min=0, help="Weight of the in-batch contrast; 0 for none.")
    ] = 0.1,
    token_dropout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of tokens hidden in training.")
    ] = 0.1,
    evaluations: Annotated[int, typer.Option(min=1, help="How often to validate.")] = 10,
    held_out: Annotated[
        int, typer.Option(min=1, help="Lines held out without --val; a tenth at most.")
    ] = HELD_OUT,
    seed: Annotated[int, typer.Option(help="Of weights, draws and dropout.")] = 0,
    cache: Annotated[Path, typer.Option(help="Folder for the teacher's rows.")] = CACHE,
    as_json: AsJson = False,
) -> None:
    """Teach a text tower a language by a teacher of another, without pictures.

    Each line of DATA holds the same sentence in two or more languages, or equally long lists of
    them. The same command again goes on from the last checkpoint. The result, OUT/model, is a pair
    of towers if the teacher is a CLIP, and a sentence-transformers folder if it is not.

    Examples:
        clip-text train distill captions.jsonl --from en --to zh --out tower

        clip-text train distill pairs.tsv --from en --to zh,ja --teacher open_clip:ViT-B-32/openai
        --student hfl/chinese-roberta-wwm-ext --learning-rate 5e-5 --out clip-zh-ja
    """
    from transformers.utils.logging import disable_progress_bar

    from clip_text.training.distillation import DistillationRecipe

    disable_progress_bar()  # type: ignore[no-untyped-call]  # of loading weights
    languages, weights = read_weights(to)
    say = partial(err.print, highlight=False, soft_wrap=True, markup=False)
    recipe = DistillationRecipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        contrastive=contrastive,
        token_dropout=token_dropout,
        weights=weights,
        trial_steps=trial_steps,
        seed=seed,
        evaluations=evaluations,
    )
    names = {"data": data, "val": val, "teacher": teacher, "student": student}
    names |= {"tokenizer": tokenizer, "pooler": pooler, "from": source, "to": to}
    settings = {name: None if value is None else str(value) for name, value in names.items()}
    job, counts = prepare(recipe, settings, languages, held_out, cache, folder)
    report = finished(folder)
    if report is None:
        report = counts | run(job, pooler, say)
        write_report(folder, report)
    if as_json:
        print_json(report)
        return
    for line in lines(report):
        out.print(escape(line), soft_wrap=True)


def prepare(
    recipe: "DistillationRecipe",
    settings: dict[str, str | None],
    languages: list[str],
    held_out: int,
    cache: Path,
    folder: Path,
) -> tuple[Job, dict[str, int]]:
    """Read sentences and teacher, and compute the teacher's rows; a job, and how much there is."""
    from clip_text.checkpoints import resolve
    from clip_text.data.parallel import read_parallel
    from clip_text.tokenizer import Tokenizer
    from clip_text.training.distillation import Examination
    from clip_text.training.lessons import Lessons
    from clip_text.training.students import SIZES, make_student
    from clip_text.training.teachers import load_teacher, teacher_rows

    source = str(settings["from"])
    everything = read_parallel(Path(str(settings["data"])), [source, *languages])
    if settings["val"] is None:
        learnt, held = split(everything, held_out, recipe.seed)
    else:
        learnt = everything
        held = read_parallel(Path(settings["val"]), [source, *languages]).first_of_each()
    master = load_teacher(str(settings["teacher"]))
    student = str(settings["student"])
    # fails before the teacher has read everything
    tokenizer = Tokenizer.from_folder(Path(settings["tokenizer"] or resolve("starter")))
    if student not in SIZES:
        tokenizer = make_student(student, tokenizer, master.width).tokenizer
    numbers = {field: getattr(recipe, field) for field in recipe.__slots__ if field != "bf16"}
    texts = json.dumps([dict(learnt.by_language), dict(held.by_language)]).encode()
    numbers["sentences"] = hashlib.blake2b(texts, digest_size=16).hexdigest()
    numbers["teacher's weights"] = master.digest
    # files may have moved
    asked = {name: value for name, value in settings.items() if name not in ("data", "val")}
    begin(folder, asked | numbers)

    def read(what: "ParallelSentences") -> "Lessons":
        texts = what.by_language[source]
        with progress_bar() as bar:
            task = bar.add_task("teacher", total=len(set(texts)))
            rows = teacher_rows(master, texts, cache, on_progress=partial(bar.advance, task))
        return Lessons(tokenizer, {name: what.by_language[name] for name in languages}, rows)

    originals = held.by_language[source]
    exam = Examination(read(held), originals)
    lessons = read(learnt)
    counts = {
        "pairs": len(lessons),
        "queries": len(exam.lessons),
        "known_originals": len(set(originals) & set(learnt.by_language[source])),
    }
    return Job(master, student, tokenizer, lessons, exam, recipe, folder), counts
