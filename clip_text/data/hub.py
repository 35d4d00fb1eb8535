"""The reader of Hugging Face's datasets: from its hub, or a folder ``save_to_disk`` wrote.

====================================  =====================================================
what is read                          what it is called
====================================  =====================================================
``hf://owner/name``                   a data set of the hub; ``hf://datasets/owner/name`` too
``hf://owner/name@revision``          as it was at a commit, branch or tag
``hf://owner/name/configuration``     one of its configurations
a folder with a state.json            what ``Dataset.save_to_disk`` wrote
a folder with a dataset_dict.json     what ``DatasetDict.save_to_disk`` wrote, of several splits
====================================  =====================================================

Pictures stay as they are stored, undecoded, until they are asked for.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_text.data.rows import BATCH
from clip_text.errors import DataError, needs

if TYPE_CHECKING:
    import datasets

SCHEME = "hf://"

_NAME = re.compile(
    r"hf://(?:datasets/)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?(?:/(?P<config>[^/]+))?"
)


def is_saved(folder: Path) -> bool:
    """Say whether ``save_to_disk`` wrote a folder."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def load(source: str, split: str | None) -> tuple["datasets.Dataset", str]:
    """Load one split.

    Args:
        source: A folder that ``save_to_disk`` wrote, or a name of the hub with ``hf://``.
        split: Which one; may be left out where there is but one.

    Returns:
        The split, and its name, empty if it has none.

    Raises:
        DataError: If there is no such data set or split, or it is damaged.
        MissingPackageError: If datasets is not installed.
    """
    with needs("clip-text[data]", source):
        import datasets  # noqa: PLC0415  (optional)
    try:
        if source.startswith(SCHEME):
            found: Any = datasets.load_dataset(**_arguments(source))
        else:
            found = datasets.load_from_disk(source)
    except DataError:
        raise
    except Exception as error:  # whatever a file system, a server or a builder raises
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"expected a data set that datasets can load at {source}, got "
            f"{type(error).__name__}: {reason}. Check the name, or download or save it again."
        ) from error
    if not isinstance(found, dict):
        if split is not None:
            raise DataError(
                f"expected no split for {source}, which has none, got {split}. Leave it out."
            )
        return found, ""
    if split is None and len(found) == 1:
        split = next(iter(found))
    if split is None or split not in found:
        raise DataError(
            f"expected one of the splits of {source}, got {split or 'none'}. "
            f"There are: {', '.join(found)}."
        )
    return found[split], split


def _arguments(source: str) -> dict[str, str | None]:
    match = _NAME.fullmatch(source)
    if match is None:
        raise DataError(f"expected a name like hf://owner/name, got {source}. Correct the name.")
    return {"path": match["name"], "name": match["config"], "revision": match["revision"]}


class HubRows:
    """Rows of a data set.

    May be used from several threads, and sent to or inherited by the workers of a DataLoader.

    Args:
        dataset: One split of a data set of Hugging Face's datasets.
        source: What to call it in errors.
    """

    def __init__(self, dataset: "datasets.Dataset", source: str) -> None:
        self.source = source
        # Arrow's format takes no feature apart: pictures are not decoded
        self._dataset = dataset.with_format("arrow")
        self._one_column: dict[str, Any] = {}

    @property
    def types(self) -> Mapping[str, Any]:
        """Arrow's type of each column."""
        schema = self._dataset.features.arrow_schema
        return dict(zip(schema.names, schema.types, strict=True))

    def batches(self, columns: Sequence[str], size: int = BATCH) -> Iterator[tuple[int, Any]]:
        """Number of the first row, and table, of at most so many rows at a time."""
        types = self.types
        whole = [name if name in types else name.rpartition(".")[0] for name in columns]
        part = self._dataset.select_columns(list(dict.fromkeys(whole)))
        for start in range(0, len(part), size):
            yield start, part[start : start + size]

    def place(self, row: int) -> str:
        """Say where a row is."""
        return f"{self.source}, row {row}"

    def name(self, row: int) -> str:
        """Name the picture of a row that has no name of its own."""
        return f"#{row}"

    def picture(self, column: str, row: int) -> object:
        """Read one value, undecoded."""
        if column not in self._one_column:
            self._one_column[column] = self._dataset.select_columns([column])
        return self._one_column[column][row].column(0)[0].as_py()
