"""Classifiers on one encoder beside two controls: its architecture untrained, and words alone.

python benchmarks/classification.py TNEWS/train.tsv --hold-out 5000
python benchmarks/classification.py CHNSENTICORP/train.tsv \
    --val CHNSENTICORP/dev.tsv

Rows: ``tfidf`` is jieba's words and pairs of them, TF-IDF, and logistic regression; ``head`` a
head on the frozen tower; ``copy`` fine-tuning of a copy; ``mlm`` the same from ``--start``, which
masked LM left; ``random`` the same from random weights, of that architecture; ``joint`` of the
tower itself, held to its own rows. Every row learns the same texts and is measured on the same
others. Which checkpoint is kept is chosen on these, so figures are a little too good, but for
tfidf, which chooses nothing. Seconds are of CPU time, all threads.
"""

import json
import logging
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import jieba
import numpy as np
import typer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clip_text.allocator import keep_freed_memory
from clip_text.checkpoints import load_checkpoint, start_backbone
from clip_text.data.labelled_texts import (
    LabelledTexts,
    hold_out,
    labels_of,
    read_labelled_texts,
    without,
)
from clip_text.evaluation.classification import score
from clip_text.heads.classification import HeadConfig, targets_of
from clip_text.training import ClassifierRecipe, LabelData, train_classifier
from clip_text_cli.train.runs import listening

QUICK = 2000


@dataclass(frozen=True, slots=True)
class Row:
    """One classifier; shares in [0, 1], seconds of CPU time."""

    row: str
    texts: int
    accuracy: float
    macro_f1: float
    seed: int
    cpu_seconds: float
    ece_before: float | None = None
    ece_after: float | None = None


def words_alone(data: LabelData, config: HeadConfig, seed: int) -> Row:
    """Fit the baseline of words."""
    jieba.setLogLevel(logging.WARNING)
    jieba.initialize()
    started = time.process_time()
    vectors = TfidfVectorizer(
        tokenizer=jieba.lcut, token_pattern=None, ngram_range=(1, 2), min_df=2
    )
    model = LogisticRegression(C=10, max_iter=200, random_state=seed)
    model.fit(vectors.fit_transform(data.train.texts), targets_of(data.train.labels, config))
    answers = model.predict(vectors.transform(data.validation.texts))
    given = answers[:, None] == np.arange(len(config.labels))
    found = score(given, targets_of(data.validation.labels, config), config.labels)
    seconds = time.process_time() - started
    return Row("tfidf", len(data.train), found.accuracy, found.macro_f1, seed, round(seconds, 1))


def trained(
    row: str,
    model: str,
    data: LabelData,
    labels: tuple[str, ...],
    numbers: dict[str, Any],
    *,
    start: tuple[str, int] | None,
) -> Row:
    """Train a row's head; ``start`` is what ``mlm`` starts from, and its context length."""
    checkpoint = load_checkpoint(model)
    train = "copy" if row in ("random", "mlm") else row
    if row == "head":
        numbers = {"seed": numbers["seed"], "epochs": 30, "batch_size": 256}
    copied = None
    if row in ("random", "mlm"):
        name, length = start or (model, checkpoint.config.context_length)
        copied = start_backbone(name, length, random=row == "random", seed=numbers["seed"])
    config = HeadConfig(labels=labels, pooler=checkpoint.config.pooler)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        recipe = ClassifierRecipe(train=train, **numbers)  # type: ignore[arg-type]
        place = Path(folder)
        with listening() as listener:
            found = train_classifier(
                *(checkpoint, data, recipe, place),
                listener=listener,
                config=config,
                backbone=copied,
            )
    seconds = round(time.process_time() - began, 1)
    for name, before in found.retrieval_before.items():
        sys.stderr.write(f"  {name} {before:.4f} -> {found.retrieval_after[name]:.4f}\n")
    scores, calibration = found.scores, found.calibration
    return Row(
        row,
        len(data.train),
        scores.accuracy,
        scores.macro_f1,
        recipe.seed,
        seconds,
        calibration.ece_before,
        calibration.ece_after,
    )


def figures_of(row: Row) -> list[tuple[str, Any]]:
    """Give what was measured, by name."""
    return [(name, value) for name, value in asdict(row).items() if name != "row"]


def thinned(texts: LabelledTexts, number: int | None) -> LabelledTexts:
    """Keep so many texts at random, the same ones every time."""
    if number is None or number >= len(texts):
        return texts
    return hold_out(texts, number, seed=1)[1]


def main(  # noqa: PLR0917  (its parameters are its options)
    data: Path,
    val: Path | None = None,
    hold: Annotated[int, typer.Option("--hold-out")] = 5000,
    rows: Annotated[
        str, typer.Option(help="Which, such as tfidf,copy,mlm.")
    ] = "tfidf,head,copy,random",
    texts: Annotated[int | None, typer.Option(help="Learn so many of the texts only.")] = None,
    model: Annotated[str, typer.Option("--model", "-m")] = "starter",
    start: Annotated[str | None, typer.Option(help="What mlm starts from: OUT/model.")] = None,
    context_length: Annotated[int, typer.Option(help="Tokens that mlm reads.")] = 64,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="Learn no text that --val holds, too.")
    ] = False,
    epochs: Annotated[int, typer.Option(help="At most; three validations without a rise end.")] = 4,
    lr: Annotated[float | None, typer.Option(help="Suggested if not given.")] = None,
    seed: int = 0,
    quick: Annotated[bool, typer.Option(help=f"{QUICK} texts, an epoch: does it run?")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure classifiers on labelled texts."""
    keep_freed_memory()
    everything = read_labelled_texts(data)
    labels = labels_of(everything, multi_label=False)
    train, held = (everything, read_labelled_texts(val)) if val else hold_out(everything, hold)
    if not val or unseen:
        train = without(train, held)
    lessons = LabelData(thinned(train, QUICK if quick else texts), held)
    numbers = {"epochs": 1 if quick else epochs, "evaluations": 2 * epochs, "seed": seed}
    numbers |= {"learning_rate": lr} if lr else {}
    found = []
    for row in rows.split(","):
        if row == "tfidf":
            one = words_alone(lessons, HeadConfig(labels=labels), seed)
        else:
            first = (start, context_length) if start else None
            one = trained(row, model, lessons, labels, numbers, start=first)
        found.append(one)
        if not as_json:
            print(
                f"{one.row:8s} {one.texts:7,d} texts  accuracy {one.accuracy:.4f}  macro F1 "
                f"{one.macro_f1:.4f}  seed {one.seed}  {one.cpu_seconds:.0f} s CPU"
                + (
                    ""
                    if one.ece_after is None
                    else f"  ECE {one.ece_before:.4f} -> {one.ece_after:.4f}"
                ),
                flush=True,
            )
    if as_json:
        figures = {f"{one.row}_{name}": value for one in found for name, value in figures_of(one)}
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    typer.run(main)
