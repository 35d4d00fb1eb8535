"""Fine-tune a pair on pictures with captions: ``clip-text train contrastive``.

python scripts/train_contrastive.py photos.jsonl --val val.jsonl --out my-model
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from clip_text_cli.options import AsJson, Model, listed
from clip_text_cli.output import err, named_bars, out, print_json
from clip_text_cli.runs import write_report

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.data import RetrievalSet
    from clip_text.training.finetune import Data, Listener, Outcome
    from clip_text.training.stages import Stage

HELD_OUT = 0.1
MOST_HELD_OUT = 1000


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run came to."""

    outcome: "Outcome"
    folder: Path
    minutes: float
    picture: Path | None


def command(
    data: Annotated[
        str, typer.Argument(help="Pictures with captions, in any format of docs/data.md.")
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the model to write.")],
    val: Annotated[
        str | None,
        typer.Option(help="What to measure on; a tenth of the pictures is held out if not given."),
    ] = None,
    model: Model = "starter",
    preset: Annotated[
        str, typer.Option(help="Recipe: a bundled preset's name (see below), or a .toml file.")
    ] = "text",
    kinds: Annotated[str, typer.Option(help="Which captions, such as zh,zh_mt.")] = "",
    val_kinds: Annotated[str, typer.Option(help="Captions to measure by, if others.")] = "",
    images: Annotated[Path | None, typer.Option(help="Folder that file names start from.")] = None,
    pictures: Annotated[
        int | None, typer.Option(min=2, help="Learn from the first so many pictures only.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Data that must not get worse; measured, never learnt.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of every stage.")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pictures in a batch; the preset's, or a quarter of the pictures."
        ),
    ] = None,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Pictures that run at a time: same gradients.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Suggested if not given.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of draws, crops and dropout.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any number of the recipe: --set ema=0.99 --set text=lora."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run", help="Folder of the run's state; OUT.run if not given.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read pictures ahead.")] = 0,
    report_to: Annotated[
        str,
        typer.Option(help="Loggers, such as wandb, or none; tensorboard if it is installed."),
    ] = "",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile by torch.compile.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune on pictures with captions; the same command again goes on where it stopped.

    Recall is measured before the first step and kept in view. What is written is never worse on
    the validation pictures than what was there before: if nothing better was found on the way, it
    is the start itself (and the command says so).

    Presets: `text` (the pictures' vectors stay, an index stays valid), `projections`, `two-stage`
    (text first, then the last layers of both), `both` (all of both towers, on pixels), `lora`,
    `sigmoid`. On several GPUs: `torchrun --nproc-per-node 4 scripts/train_contrastive.py …`.

    Examples:
        clip-text train contrastive photos/ --out my-model

        clip-text train contrastive train.jsonl --val val.jsonl --kinds zh --out my-model

        clip-text train contrastive train.jsonl --preset both --batch-size 512 --micro-batch 32
        --out my-model -m OFA-Sys/chinese-clip-vit-base-patch16
    """
    named = {
        "epochs": epochs,
        "batch_size": batch_size,
        "micro_batch": micro_batch,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    given = {name: value for name, value in named.items() if value is not None}
    given |= read_changes(changes or [])
    check_out(out_dir, model)
    loggers = _loggers(report_to)
    from clip_text.training.finetune import Data
    from clip_text.training.stages import fit_batches, read_stages
    from clip_text.training.trainer import Plumbing

    stages = read_stages(preset, given)
    train, validation = _read(data, val, images, listed(kinds), listed(val_kinds), pictures)
    if "batch_size" not in given:
        stages = fit_batches(stages, len(train.image_ids))
    plumbing = Plumbing(workers=workers, report_to=loggers, compile=compiled)
    kept = _read_one(keep, None, listed(val_kinds)) if keep else None
    finished = run(
        model,
        Data(train, validation, {}, kept),
        stages,
        out_dir,
        run_dir or out_dir.with_name(out_dir.name + ".run"),
        plumbing,
    )
    if finished is None:  # another process tells
        return
    if as_json:
        print_json(_as_json(finished))
    else:
        _tell(finished, out_dir)


def run(
    model: str,
    data: "Data",
    stages: "list[Stage]",
    out_dir: Path,
    folder: Path,
    plumbing: Any,  # noqa: ANN401  (Plumbing: torch is not imported yet)
) -> Finished | None:
    """Fine-tune, write the model, the report and the curves; None in all processes but one."""
    from clip_text.checkpoints import load_checkpoint, save_checkpoint
    from clip_text.checkpoints.heads import backbone_digest
    from clip_text.training.finetune import finetune
    from clip_text.training.trainer import join_processes

    started = time.monotonic()
    main = join_processes().is_main_process
    checkpoint = load_checkpoint(model)
    read = backbone_digest(checkpoint.model.text) if checkpoint.heads else ""
    sizes = f"{len(data.train.image_ids):,} pictures with {len(data.train.texts):,} captions"
    if main:
        err.print(f"learning from {sizes}, measured on {len(data.validation.image_ids):,} others")
    with listener(main) as listening:
        outcome = finetune(checkpoint, data, stages, folder, plumbing=plumbing, listener=listening)
    if not main:
        return None
    if checkpoint.heads and backbone_digest(checkpoint.model.text) != read:
        kept = checkpoint.without_readers()
        for name in sorted(checkpoint.heads.keys() - kept.heads.keys()):
            err.print(f"head {name} is left out: it reads the text tower as it was. Train it anew.")
        checkpoint = kept
    save_checkpoint(checkpoint, out_dir)
    finished = Finished(
        outcome, folder, (time.monotonic() - started) / 60, _curves(folder, stages, outcome)
    )
    write_report(folder, _as_json(finished))
    return finished


def read_changes(changes: list[str]) -> dict[str, Any]:
    """Read options like ``ema=0.99``: numbers, true and false, or words.

    Raises:
        typer.BadParameter: If there is no ``=``.
    """
    import json

    found: dict[str, Any] = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"expected name=value, got {change!r}. Write --set ema=0.99.")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value.strip()
    return found


def check_out(out_dir: Path, model: str) -> None:
    """Refuse a place for the model before the run rather than after it.

    Raises:
        typer.BadParameter: If it is a file, or the folder of the model to start from.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise typer.BadParameter(f"expected a folder at --out, got the file {out_dir}. Rename one.")
    if out_dir.exists() and Path(model).exists() and out_dir.samefile(model):
        raise typer.BadParameter(
            f"expected another folder at --out than the model's own, got {out_dir}: the same "
            "command again could not start from it. Name a new one."
        )


def _loggers(names: str) -> tuple[str, ...]:
    chosen = listed(names)
    if chosen is None:
        return ("tensorboard",) if find_spec("tensorboard") else ()
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    installed = get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    missing = [name for name in chosen if name not in {*installed, "none"}]
    if missing:
        raise typer.BadParameter(
            f"expected loggers that are installed ({', '.join(installed) or 'none is'}), got "
            f"{', '.join(missing)}. Install them, or leave them out."
        )
    return tuple(chosen)


def _read_one(data: str, images: Path | None, kinds: list[str] | None) -> "RetrievalSet":
    from clip_text.data.readers import read_retrieval_set

    return read_retrieval_set(data, images=images, kinds=kinds)


def _read(
    data: str,
    val: str | None,
    images: Path | None,
    kinds: list[str] | None,
    val_kinds: list[str] | None,
    pictures: int | None,
) -> "tuple[RetrievalSet, RetrievalSet]":
    from clip_text.data.splits import held_out, part

    train = _read_one(data, images, kinds)
    if val is None:
        number = min(MOST_HELD_OUT, max(1, round(HELD_OUT * len(train.image_ids))))
        train, validation = held_out(train, number)
    else:
        validation = _read_one(val, images, val_kinds or kinds)
    if pictures is not None:
        train = part(train, range(min(pictures, len(train.image_ids))))
    return train, validation


@contextmanager
def listener(shown: bool = True) -> "Iterator[Listener]":
    """Lines on stderr, and a bar there on a terminal, of what a run says."""
    from clip_text.training.finetune import Listener

    def say(line: str) -> None:
        err.print(escape(line), soft_wrap=True)

    with named_bars(shown=shown) as progress:
        yield Listener(say, progress) if shown else Listener(progress=progress)


def _curves(folder: Path, stages: "list[Stage]", outcome: "Outcome") -> Path | None:
    from clip_text_cli.drawing.curves import CURVES, draw_run

    if find_spec("matplotlib") is None:
        return None
    return draw_run([folder / stage.name for stage in stages], outcome, folder / CURVES)


def _as_json(finished: Finished) -> dict[str, Any]:
    outcome = finished.outcome
    flat: dict[str, Any] = {
        "share_of_fine_tuned": outcome.chosen.share,
        "rose": outcome.rose,
        "minutes": round(finished.minutes, 2),
    }
    flat |= {f"start_{name}": value for name, value in outcome.start.items()}
    flat |= {f"kept_{name}": value for name, value in outcome.chosen.metrics.items()}
    for one in outcome.mixtures:
        flat[f"mixture_{one.share:g}_{outcome.best_by}"] = one.metrics[outcome.best_by]
    return flat


def _tell(finished: Finished, out_dir: Path) -> None:
    outcome = finished.outcome
    table = Table(box=None, pad_edge=False)
    for column in ("%", "start", "written", "change"):
        table.add_column(column, justify="left" if column == "%" else "right")
    for name, before in outcome.start.items():
        after = outcome.chosen.metrics[name]
        cells = [f"{100 * before:.1f}", f"{100 * after:.1f}", f"{100 * (after - before):+.1f}"]
        table.add_row(name, *cells)
    out.print(table)
    if outcome.rose:
        how = f"{outcome.chosen.share:.0%} of the way from the start to the end of training"
    else:
        how = "the start itself: nothing better was found. Try a lower learning rate or more data"
    lines = [f"{out_dir}: {how}. {finished.minutes:.1f} minutes; the run lies in {finished.folder}"]
    if finished.picture:
        lines.append(f"curves: {finished.picture}")
    for line in lines:
        out.print(escape(line), soft_wrap=True)
