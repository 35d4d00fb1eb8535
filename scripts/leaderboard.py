"""Models on data sets in languages, as a page.

python scripts/leaderboard.py flickr8k-cn/val.jsonl
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clip_text_cli.evaluate.retrieval import percent
from clip_text_cli.main import run
from clip_text_cli.options import listed
from clip_text_cli.output import err, named_bars, print_json
from scripts.evaluate_emoji import CACHE, emoji_set

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.evaluation import RetrievalSet
    from clip_text.evaluation.measure import Encoded
    from clip_text.evaluation.statistics import Interval

KINDS = ("zh", "zh_mt", "en")
STYLES = ("twitter", "google", "fluent-3d", "fluent-flat")
LANGUAGES = ("zh", "zh-hant", "en", "ja", "ko", "de", "fr", "es", "ru")
SHOWN = ("recall@1", "recall@5", "recall@10", "mrr")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the page: text to image."""

    data: str
    language: str
    model: str
    texts: int
    pictures: int
    figures: "dict[str, Interval]"


def rows(
    models: Sequence[str], collections: Sequence["RetrievalSet"], resamples: int
) -> Iterator[Row]:
    """Measure every model on every data set, language by language."""
    from clip_text import Encoder
    from clip_text.evaluation.measure import encode_set

    for model in models:
        encoder = Encoder.from_pretrained(model, runtime="torch")
        for collection in collections:
            err.print(f"{model} on {collection.name}", markup=False)
            with named_bars() as progress:
                encoded = encode_set(encoder, collection, progress=progress)
            yield from _by_language(collection, encoded, model, resamples)


def _by_language(
    collection: "RetrievalSet", encoded: "Encoded", model: str, resamples: int
) -> Iterator[Row]:
    from clip_text.evaluation.measure import measure

    for language in dict.fromkeys(text.kind for text in collection.texts):
        own = [i for i, text in enumerate(collection.texts) if text.kind == language]
        part = replace(
            collection,
            texts=[collection.texts[i] for i in own],
            answers=[collection.answers[i] for i in own],
        )
        measured = measure(part, replace(encoded, texts=encoded.texts[own]))
        yield Row(
            collection.name,
            language,
            model,
            len(own),
            len(collection.images),
            measured.intervals("t2i", resamples=resamples),
        )


def as_markdown(results: Sequence[Row], command: str) -> str:
    """The page: a table per data set, best model of each language first."""
    lines = [
        "# Leaderboard",
        "",
        "Text to image, every text asked on its own over all pictures; percent with 95% intervals",
        "(cluster bootstrap over pictures). Ties count in expectation.",
        "",
        f"{_machine()}. Made by:",
        "",
        "```bash",
        command,
        "```",
    ]
    for data in dict.fromkeys(row.data for row in results):
        lines += ["", f"## {data}", ""]
        lines.append(f"| language | model | {' | '.join(SHOWN)} | texts | pictures |")
        lines.append(f"|---|---|{'---|' * len(SHOWN)}---|---|")
        here = [row for row in results if row.data == data]
        languages = list(dict.fromkeys(row.language for row in here))
        here.sort(key=lambda row: (languages.index(row.language), -row.figures[SHOWN[2]].value))
        for row in here:
            cells = [percent(row.figures[name]) for name in SHOWN]
            counts = f"{row.texts:,} | {row.pictures:,}"
            lines.append(f"| {row.language} | {row.model} | {' | '.join(cells)} | {counts} |")
    return "\n".join(lines) + "\n"


def _machine() -> str:
    import torch

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    chip = platform.machine()
    described = Path("/proc/cpuinfo")
    if described.is_file():
        names = [x for x in described.read_text().splitlines() if x.startswith("model name")]
        chip = names[0].split(":", 1)[1].strip() if names else chip
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores of {chip}, "
        f"torch {torch.__version__}, commit {commit or 'unknown'}"
    )


def as_json(results: Sequence[Row]) -> dict[str, float]:
    """Flatten the page: ``model/data/language recall@1`` and so on, shares in [0, 1]."""
    return {
        f"{row.model}/{row.data}/{row.language} {name}{suffix}": getattr(interval, end)
        for row in results
        for name, interval in row.figures.items()
        for suffix, end in (("", "value"), (" low", "low"), (" high", "high"))
    }


def command(
    data: Annotated[
        list[Path] | None, typer.Argument(help="Captioned pictures, as evaluate retrieval reads.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Repeat it; starter if not given.")
    ] = None,
    kind: Annotated[str, typer.Option(help="Fields of captions.")] = ",".join(KINDS),
    style: Annotated[str, typer.Option(help="Drawing styles of emoji.")] = ",".join(STYLES),
    language: Annotated[str, typer.Option(help="Of the emoji's names.")] = ",".join(LANGUAGES),
    cache: Annotated[Path, typer.Option(help="Folder for the npm packages.")] = CACHE,
    resamples: Annotated[int, typer.Option(min=100, help="Draws behind the intervals.")] = 2000,
    to: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path(
        "docs/leaderboard.md"
    ),
    as_json_: Annotated[bool, typer.Option("--json", help="Also print JSON.")] = False,
) -> None:
    """Measure models on data sets and emoji, language by language, and write a page.

    The emoji come from npm packages (four drawing styles), so npm has to be there the first time.

    Examples:
        python scripts/leaderboard.py flickr8k-cn/val.jsonl

        python scripts/leaderboard.py val.jsonl -m starter -m ./mine --style twitter
    """
    from clip_text.data.readers import read_retrieval_set

    models = model or ["starter"]
    collections = [read_retrieval_set(path, kinds=listed(kind)) for path in data or []]
    collections += [
        emoji_set(name, listed(language) or [], cache)  # type: ignore[arg-type]
        for name in listed(style) or []
    ]
    results = list(rows(models, collections, resamples))
    files = " ".join(f"{path.parent.name}/{path.name}" for path in data or [])
    options = "".join(f" -m {name}" for name in models)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(
        as_markdown(results, f"python scripts/leaderboard.py {files}{options}"), encoding="utf-8"
    )
    err.print(f"written to {to}", markup=False)
    if as_json_:
        print_json(as_json(results))


if __name__ == "__main__":
    run(lambda: typer.run(command))
