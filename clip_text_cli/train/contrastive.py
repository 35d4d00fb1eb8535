"""Fine-tune a pair on pictures with captions: ``clip-text train contrastive``.

python scripts/train_contrastive.py photos.jsonl --val val.jsonl --out my-model
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from clip_text_cli.drawing.curves import CURVES, draw_run
from clip_text_cli.options import AsJson, LearningRate, Model, listed, numbers
from clip_text_cli.output import out, print_json
from clip_text_cli.train.runs import is_main, listening, tell

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.training.finetune import TrainedPair


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
    learning_rate: LearningRate = None,
    matryoshka: Annotated[
        str, typer.Option(help="Train rows to be cut to so many dimensions, too, like 64,128.")
    ] = "",
    seed: Annotated[int | None, typer.Option(help="Of draws, crops and dropout.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any number of the recipe: --set ema=0.99 --set text=lora."),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run", "--run-dir", help="Folder of the run's state; OUT.run if not given."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read pictures ahead.")] = 0,
    report_to: Annotated[
        str,
        typer.Option(help="Loggers, such as wandb, or none; tensorboard if it is installed."),
    ] = "",
    shard_optimizer: Annotated[
        bool, typer.Option("--shard-optimizer", help="Divide AdamW's means among the processes.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile by torch.compile.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune on pictures with captions; the same command again goes on where it stopped.

    Recall is measured before the first step and kept in view. What is written is never worse on
    the validation pictures than what was there before: if nothing better was found on the way, it
    is the start itself (and the command says so).

    Presets: `text` (the pictures' vectors stay, an index stays valid), `projections`, `two-stage`
    (text first, then the last layers of both), `both` (all of both towers, on pixels), `lora`,
    `sigmoid`. On several GPUs: `torchrun --nproc-per-node 4 scripts/train_contrastive.py …`; on
    several hosts: docs/training.md.

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
        "matryoshka": list(numbers(matryoshka)) or None,
        "seed": seed,
    }
    given = {name: value for name, value in named.items() if value is not None}
    given |= read_changes(changes or [])
    check_out(out_dir, model)
    loggers = _loggers(report_to)
    from clip_text.training import PictureData, read_stages, train_contrastive
    from clip_text.training.stages import fit_batches
    from clip_text.training.trainer import Plumbing

    stages = read_stages(preset, given)
    lessons = PictureData.read(
        *(data, val),
        keep=keep,
        images=images,
        kinds=listed(kinds),
        val_kinds=listed(val_kinds),
        pictures=pictures,
    )
    if "batch_size" not in given:
        stages = fit_batches(stages, len(lessons.train.image_ids))
    folder = run_dir or out_dir.with_name(out_dir.name + ".run")
    with listening() as listener:
        trained = train_contrastive(
            *(model, lessons, stages, folder),
            listener=listener,
            out=out_dir,
            plumbing=Plumbing(workers, loggers, compiled, shard_optimizer=shard_optimizer),
        )
    if not is_main():
        return
    picture = None
    if find_spec("matplotlib") is not None:
        picture = draw_run([folder / stage.name for stage in stages], trained, folder / CURVES)
    if as_json:
        print_json(trained.report)
    else:
        _tell(trained, folder, picture, out_dir)


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


def _tell(trained: "TrainedPair", folder: Path, picture: Path | None, out_dir: Path) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("%", "start", "written", "change"):
        table.add_column(column, justify="left" if column == "%" else "right")
    for name, before in trained.start.items():
        after = trained.chosen.metrics[name]
        cells = [f"{100 * before:.1f}", f"{100 * after:.1f}", f"{100 * (after - before):+.1f}"]
        table.add_row(name, *cells)
    out.print(table)
    if trained.rose:
        how = f"{trained.chosen.share:.0%} of the way from the start to the end of training"
    else:
        how = "the start itself: nothing better was found. Try a lower learning rate or more data"
    lines = [f"{out_dir}: {how}. {trained.report['minutes']:.1f} minutes; the run lies in {folder}"]
    tell([*lines, *([f"curves: {picture}"] if picture else [])])
