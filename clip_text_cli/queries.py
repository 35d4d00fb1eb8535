"""The query of ``clip-text search`` from its options."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from retrieval.filters import Filter
    from retrieval.search import Query

Images = Annotated[
    list[Path] | None,
    typer.Option("--image", metavar="FILE", help="Also look for the like of this picture."),
]
Likes = Annotated[
    list[str] | None,
    typer.Option("--like", metavar="ID", help="And of this one of the index, by its id."),
]
Without = Annotated[
    list[str] | None,
    typer.Option("--not", metavar="TEXT", help="Words to stay away from."),
]
Fold = Annotated[
    bool, typer.Option("--fold", help="Show near-duplicates as one, their number beside it.")
]
FoldAt = Annotated[
    float | None,
    typer.Option(
        metavar="COSINE", help="Fold pictures at least so alike: above 0, up to 1; else 0.9."
    ),
]
Diverse = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="Hits less alike, 0.1 or 0.2, say; from 0 to below 1."),
]
Offset = Annotated[int, typer.Option(help="How many of the best to pass over.")]


def make_query(
    text: str | None,
    images: Sequence[Path] | None,
    likes: Sequence[str] | None,
    without: Sequence[str] | None,
    *,
    where: str | None,
    top_k: int,
    offset: int,
    fold: bool,
    fold_at: float | None,
    diversity: float | None,
    hybrid: bool,
) -> "Query":
    """Make the query that the options say.

    Raises:
        QueryError: If they say none; see ``Query``.
    """
    from retrieval.search import Query
    from retrieval.search.query import FOLD_AT

    return Query.of(
        *([] if text is None else [text]),
        *(images or ()),
        like=likes or (),
        without=without or (),
        where=parse_filter(where),
        top_k=top_k,
        offset=offset,
        fold=FOLD_AT if fold and fold_at is None else fold_at,
        diversity=diversity,
        hybrid=hybrid,
    )


def parse_filter(where: str | None) -> "Filter | None":
    """Read a filter, where one is given.

    Raises:
        QueryError: If it cannot be read.
    """
    if where is None:
        return None
    from retrieval.filters.language import parse_where  # brings its parser with it

    return parse_where(where)


def title(
    text: str | None,
    images: Sequence[Path] | None,
    likes: Sequence[str] | None,
    without: Sequence[str] | None,
) -> str:
    """Say what a query looks for, on one line: the text alone where there is no more."""
    from retrieval.records import displayed

    files = [displayed(os.fsencode(image.name)) for image in images or ()]
    wanted = [*([] if text is None else [text]), *files]
    said = " + ".join([*wanted, *(likes or ())])
    return " − ".join([said, *(without or ())])
