"""Train a head that finds named entities: ``clip-text train ner``.

python scripts/train_ner.py train.json --val dev.json --out my-model
"""

import hashlib
import random as random_module
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from clip_text_cli.drawing.curves import CURVES, draw_course
from clip_text_cli.options import AsJson, Model
from clip_text_cli.output import err, out, print_json
from clip_text_cli.runs import HeadRun, check_numbers, fit, place_towers

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.data.tagged_text import TaggedText, TaggedTexts
    from clip_text.tokenizer import Tokenizer
    from clip_text.towers import TextTower

HELD_OUT, MOST_HELD_OUT = 0.1, 1000
CONFUSION = "confusion.png"
PICTURES = (("curves", CURVES), ("confusion matrix", CONFUSION))
NONE = "none"


def command(
    data: Annotated[
        Path, typer.Argument(help="Texts with entities: .jsonl, or CoNLL's unit and tag a line.")
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the model; see below.")],
    val: Annotated[
        Path | None, typer.Option(help="What to measure on; a tenth is held out if not given.")
    ] = None,
    model: Model = "starter",
    random: Annotated[
        bool, typer.Option("--random", help="The model's shape with random weights: the control.")
    ] = False,
    name: Annotated[str, typer.Option(help="Of the head.")] = "ner",
    texts: Annotated[
        int | None, typer.Option(min=1, help="Learn from so many texts, drawn at random.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 10,
    patience: Annotated[int, typer.Option(min=1, help="Epochs to wait for a better F1.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows in a step.")] = 32,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Suggested if not given.")
    ] = None,
    context_length: Annotated[
        int, typer.Option(min=8, help="Tokens in a window; at most the model's positions.")
    ] = 128,
    overlap: Annotated[int, typer.Option(min=0, help="Tokens that windows share.")] = 16,
    seed: Annotated[int, typer.Option(help="Of weights, draws and dropout.")] = 0,
    export: Annotated[
        Path | None, typer.Option(help="Write a plain AutoModelForTokenClassification here, too.")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run", help="Folder of the run's state; OUT.run/ner if not given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a head for named entities with a backbone of its own, by F1 on validation texts.

    OUT becomes a checkpoint with the towers of the model and `heads/ner` beside them; where OUT
    holds a checkpoint already, the head is put beside its towers. The same command again goes on
    where it stopped. An I- without B- begins an entity, as seqeval reads it, and is counted.

    Examples:
        clip-text train ner train.json --val dev.json --out my-model

        clip-text train ner msra.txt --texts 4000 --out my-model -m hfl/chinese-roberta-wwm-ext
    """
    from clip_text.checkpoints import load_entities, start_backbone
    from clip_text.checkpoints.heads import check_name

    check_name(name)
    check_numbers(
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        seed=seed,
        learning_rate=learning_rate,
    )
    train, validation = _read(data, val, texts, seed)
    start = start_backbone(model, context_length, random=random, seed=seed)
    settings = {"random": random, "texts": _digest(train, validation), "epochs": epochs}
    settings |= {"patience": patience, "batch_size": batch_size, "seed": seed, "overlap": overlap}
    settings |= {"learning_rate": learning_rate, "context_length": context_length}
    job = HeadRun("ner", name, model, out_dir, run_dir, settings)
    report = job.report(
        start[0],
        export,
        lambda: _run(train, validation, start, job),
        lambda: load_entities(job.place),
    )
    if as_json:
        print_json(report)
        return
    _tell(report, job.folder)


def _run(
    train: "TaggedTexts",
    validation: "TaggedTexts",
    start: "tuple[TextTower, Tokenizer]",
    job: HeadRun,
) -> dict[str, Any]:
    import torch

    from clip_text.checkpoints.heads import save_heads
    from clip_text.evaluation.entities import entity_confusion, entity_scores
    from clip_text.heads.entities import EntityHead, EntityRecognizer, bio_labels
    from clip_text.training.heads_tokens import (
        count_unreachable,
        entity_trainer,
    )

    settings, folder = job.settings, job.folder
    tower, tokenizer = start
    recipe = job.recipe(tower.width)
    types = tuple(train.labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        head = EntityHead(tower, len(bio_labels(types)))
    recognizer = EntityRecognizer(head, tokenizer, types, settings["overlap"])
    counts = {
        "train_texts": len(train.texts),
        "validation_texts": len(validation.texts),
        "repaired": train.repaired + validation.repaired,
        "unreachable": count_unreachable(recognizer, validation.texts),
    }
    err.print(
        f"{counts['train_texts']:,} texts to learn from, {counts['validation_texts']:,} to measure "
        f"on; {counts['repaired']} entities with I- without B-, read as beginnings",
        soft_wrap=True,
    )
    report = fit(
        lambda callbacks: entity_trainer(
            recognizer, train.texts, validation.texts, recipe, folder, callbacks=callbacks
        ),
        "f1",
    )
    found = recognizer.entities([text.text for text in validation.texts])
    truth = [text.entities for text in validation.texts]
    overall, by_type = entity_scores(truth, found)
    draw_course(folder, "f1", folder / CURVES)
    _draw_confusion(entity_confusion(truth, found, types), types, overall.f1, folder)
    place_towers(job.model, job.out, alone=settings["random"])
    save_heads({job.name: recognizer}, job.out)
    scores = asdict(overall) | {"types": {label: asdict(each) for label, each in by_type.items()}}
    return {
        **scores,
        **counts,
        **report,
        "learning_rate": recipe.learning_rate,
        "head": str(job.place),
    }


def _draw_confusion(counts: Any, types: Sequence[str], f1: float, folder: Path) -> None:  # noqa: ANN401
    from clip_text_cli.drawing.confusion import draw_confusion

    if find_spec("matplotlib") is not None:
        title = f"F1 {f1:.1%}; shares of the entities there are, by type"
        draw_confusion(counts, [*types, NONE], folder / CONFUSION, title=title, of="entities")


def _read(
    data: Path, val: Path | None, texts: int | None, seed: int
) -> "tuple[TaggedTexts, TaggedTexts]":
    from clip_text.data.tagged_text import TaggedTexts, check_labels, read_tagged
    from clip_text.errors import DataError

    train = read_tagged(data)
    shuffled = list(train.texts)
    random_module.Random(seed).shuffle(shuffled)  # noqa: S311  (nothing secret)
    if val is None:
        number = min(MOST_HELD_OUT, max(1, round(HELD_OUT * len(shuffled))))
        held, shuffled = shuffled[:number], shuffled[number:]
        drawn = shuffled[: texts or len(shuffled)]
        known = {each.label for text in drawn for each in text.entities}
        rare = [text for text in held if any(each.label not in known for each in text.entities)]
        # a type that was drawn for validation alone is to be learnt
        learnt = TaggedTexts([*drawn, *rare], train.repaired)
        validation = TaggedTexts([text for text in held if text not in rare])
    else:
        validation = read_tagged(val)
        learnt = TaggedTexts(shuffled[: texts or len(shuffled)], train.repaired)
    if not learnt.labels:
        raise DataError(f"expected entities to learn from in {data}, got none. Tag some.")
    check_labels(validation, learnt.labels)
    return learnt, validation


def _digest(*sets: "TaggedTexts") -> str:
    def said(text: "TaggedText") -> tuple[object, ...]:
        return text.text, [one.key for one in text.entities]

    texts = repr([[said(text) for text in each.texts] for each in sets])
    return hashlib.blake2b(texts.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _tell(report: dict[str, Any], folder: Path) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("type", "precision", "recall", "F1", "entities"):
        table.add_column(column, justify="left" if column == "type" else "right")
    for label, scores in [*report["types"].items(), ("all", report)]:
        figures = [f"{100 * scores[key]:.1f}" for key in ("precision", "recall", "f1")]
        table.add_row(escape(label), *figures, f"{scores['support']:,}")
    out.print(table)
    lines = [
        f"best at step {report['best_step']:,} of {report['steps']:,}, "
        f"{report['seconds'] / 60:.1f} minutes",
        f"{report['unreachable']} entities begin or end within a token, so that no labels spell "
        "them",
        report["head"],
        *(f"{name}: {folder / file}" for name, file in PICTURES if (folder / file).is_file()),
    ]
    for line in lines:
        out.print(escape(line), soft_wrap=True)
