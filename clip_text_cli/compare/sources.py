"""What models are compared on: captioned pictures, or a folder of pictures and queries."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clip_text.errors import DataError, NoFileError

if TYPE_CHECKING:  # it brings the readers: --help need not wait for it
    from clip_text.data.collection import RetrievalSet

__all__ = ["Captioned", "Source", "Unlabelled"]


@dataclass(frozen=True, slots=True)
class Captioned:
    """Captioned pictures, whose right answers are known.

    Args:
        data: File or folder, as ``clip-text evaluate`` reads it.
        images: Folder of the pictures, if not beside the file.
        kinds: Fields of captions; the usual one if None.
        split: Of a folder with several.
    """

    data: str
    images: Path | None = None
    kinds: Sequence[str] | None = None
    split: str | None = None

    @property
    def is_labelled(self) -> bool:
        """Say whether right answers are known: they are."""
        return True

    def read(self, problems: list[str] | None = None) -> "RetrievalSet":  # noqa: ARG002
        """Read it; pictures are opened later.

        Args:
            problems: Gets nothing: what cannot be read is an error.

        Raises:
            DataError: As :func:`clip_text.data.readers.read_retrieval_set`.
        """
        from clip_text.data.readers import read_retrieval_set

        return read_retrieval_set(self.data, images=self.images, kinds=self.kinds, split=self.split)


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """Pictures of which nothing is said, and queries.

    Args:
        pictures: Folder whose pictures are searched, with those in folders below it.
        queries: Text file, a query a line; blank lines and repeated queries don't count.
    """

    pictures: Path
    queries: Path

    @property
    def is_labelled(self) -> bool:
        """Say whether right answers are known: nobody has said them."""
        return False

    def read(self, problems: list[str] | None = None) -> "RetrievalSet":
        """Read the queries, and list the pictures in byte order of their paths.

        Args:
            problems: Gets a line for each folder that cannot be read.

        Returns:
            A set whose texts have no answers.

        Raises:
            NoFileError: If there is no such folder or file.
            DataError: If there is no picture, or no query.
        """
        from clip_text.data.collection import RetrievalSet, Text
        from clip_text.data.text_files import read_entries
        from retrieval.ingest.walk import Walk
        from retrieval.records import displayed, displayed_id

        queries = list(dict.fromkeys(read_entries(self.queries)))
        if not queries:
            raise DataError(
                f"expected queries in {self.queries}, one a line, got none. Write some."
            )
        folder = self.pictures.expanduser().resolve()
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing there"
            raise NoFileError(
                f"expected a folder of pictures at {self.pictures}, got {found}. Check the path."
            )
        root = os.fsencode(folder)
        walk = Walk(root, excluded=None)
        paths = list(walk)
        closed = [f"{displayed(path)}: {why}" for path, why in walk.unreadable]
        if not paths:
            told = f" that can be read ({closed[0]})" if closed else ""
            raise DataError(
                f"expected pictures in {self.pictures}, got none{told}. Name a folder with some."
            )
        if problems is not None:
            problems += closed
        return RetrievalSet(
            name=folder.name,
            image_ids=[displayed_id(root, path) for path in paths],
            images=[Path(os.fsdecode(path)) for path in paths],
            texts=[Text(str(number), query, ()) for number, query in enumerate(queries, 1)],
            answers=[[] for _ in queries],
        )


Source = Captioned | Unlabelled
