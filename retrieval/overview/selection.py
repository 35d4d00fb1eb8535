"""Pictures of an index that a filter holds of, read page by page."""

from collections.abc import Iterator

import numpy as np

from retrieval.catalogue.store import ReadableStore
from retrieval.filters import Filter
from retrieval.protocols import Features, Rows
from retrieval.records import Record

__all__ = ["feature_pages", "records_of", "selected"]

_PAGE = 16_384  # rows; 32 MiB of features at width 512


def selected(catalogue: ReadableStore, where: Filter | None) -> Rows:
    """Read which rows a filter holds of, ascending, int64 [n]; all of them without one.

    Raises:
        QueryError: If the filter cannot be used.
    """
    if where is None:
        return catalogue.rows()
    return np.array(catalogue.filters.rows(where).tolist(), np.int64)


def records_of(catalogue: ReadableStore, rows: Rows) -> Iterator[Record]:
    """Read the pictures of rows, in any order; those that are gone are left out."""
    for start in range(0, len(rows), _PAGE):
        yield from catalogue.records(rows[start : start + _PAGE].tolist()).values()


def feature_pages(catalogue: ReadableStore, rows: Rows) -> Iterator[tuple[Rows, Features]]:
    """Read features of rows, in the order of their rows; those that are gone are left out.

    Yields:
        Rows, int64 [n], and their features, unit rows [n, embed_dim], n at least 1.
    """
    for start in range(0, len(rows), _PAGE):
        features = catalogue.features_of(np.sort(rows[start : start + _PAGE]).tolist())
        if features:
            held = np.fromiter(features, np.int64, len(features))
            yield held, np.stack(list(features.values()))
