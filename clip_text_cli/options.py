"""Options that several commands have, and how their lists are written."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from platformdirs import user_data_path

from clip_text.names import RuntimeName

if TYPE_CHECKING:
    from retrieval.stores import StoreAddress

DEFAULT_INDEX = user_data_path("clip-text") / "index"

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="CLIP_TEXT_MODEL",
        help="starter, a folder, a file, a hub name, or LIBRARY:NAME of open_clip, transformers or "
        "sentence_transformers.",
    ),
]
# no envvar of typer's: with it the preference of a shell looks like an option that was given
Runtime = Annotated[
    RuntimeName | None,
    typer.Option(
        "--runtime",
        help="How to compute, if not as CLIP_TEXT_RUNTIME says; by default auto, the quickest "
        "whose rows are within 0.999 of torch's.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that lies beside a model's weights; read it first.",
    ),
]
Dimensions = Annotated[
    int | None,
    typer.Option(min=1, help="Keep so many of each row's first dimensions; all if not given."),
]


def index_place(text: str | Path) -> "Path | StoreAddress":
    """Read where an index is.

    Raises:
        typer.BadParameter: If it is the address of no server that indexes can be on.
    """
    from retrieval.errors import StoreAddressError
    from retrieval.stores.address import as_location

    try:
        return as_location(text)
    except StoreAddressError as error:
        raise typer.BadParameter(str(error)) from error


def index_folder(text: str | Path) -> Path:
    """Read in which folder an index is.

    Raises:
        typer.BadParameter: If it is on a server.
    """
    place = index_place(text)
    if isinstance(place, Path):
        return place
    raise typer.BadParameter(
        f"expected the folder of an index, got {place}, which is on a server: this command is for "
        "folders alone. Name one, or make one: clip-text index copy PLACE --index FOLDER."
    )


IndexPlace = Annotated[
    Any,  # a Path or a StoreAddress, which typer takes no union for
    typer.Option(
        "--index",
        envvar="CLIP_TEXT_INDEX",
        parser=index_place,
        metavar="PLACE",
        help="Folder of the index, or its address on a server: milvus://HOST:PORT/NAME, "
        "postgresql://USER@HOST/DATABASE/NAME.",
    ),
]
IndexDir = Annotated[
    Path,
    typer.Option(
        "--index",
        envvar="CLIP_TEXT_INDEX",
        parser=index_folder,
        metavar="FOLDER",
        help="Folder of the index.",
    ),
]
PictureFolder = Annotated[
    Path | None, typer.Option(help="Folder of the pictures; images/ beside the file.")
]
CaptionKinds = Annotated[
    str, typer.Option(help="Fields of captions, like zh,en; the data's usual one if none.")
]
Resamples = Annotated[int, typer.Option(min=100, help="Draws behind the intervals.")]
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", "--lr", help="Suggested if not given.")
]
HeadName = Annotated[str, typer.Option(help="Of the head.")]
Random = Annotated[
    bool, typer.Option("--random", help="The model's shape with random weights: the control.")
]
Where = Annotated[
    str | None,
    typer.Option(help="Only the pictures this holds of: 'year >= 2020 and tags = \"海边\"'."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


def listed(text: str) -> list[str] | None:
    """Read an option like ``zh,en``; None for nothing."""
    return [part.strip() for part in text.split(",") if part.strip()] or None


def numbers(text: str) -> tuple[int, ...]:
    """Read an option like ``1,5``.

    Raises:
        typer.BadParameter: If it is not a list of whole numbers from 1.
    """
    try:
        found = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        found = (0,)
    if any(number < 1 for number in found):
        raise typer.BadParameter(f"expected numbers like 1,5, got {text!r}. Start from 1.")
    return found
