"""Where pictures lie on a map of two dimensions: what looks alike lies together."""

from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import MissingPackageError, QueryError
from retrieval.filters import Filter, Scalar
from retrieval.filters.matching import FieldsOf
from retrieval.filters.values import as_scalar
from retrieval.overview.selection import feature_pages, records_of, selected
from retrieval.protocols import Feature, Features
from retrieval.records import Record, displayed
from retrieval.stores import Location, open_for_reading

__all__ = ["ROOT", "SAMPLE", "PictureMap", "map_pictures", "place", "values_by"]

SAMPLE = 5000
"""So many pictures are placed at most if nothing is said; placing takes time in proportion."""

ROOT = "root"
"""What :func:`values_by` calls the indexed folder that a picture belongs to."""

Positions2D = NDArray[np.float32]
"""Places on the map, [n, 2], both coordinates in [0, 1]."""

_PERPLEXITY = 30.0
_LEAST_FOR_TSNE = 10  # different rows; fewer lie where their principal components do
_COMPONENTS = 50


@dataclass(frozen=True, slots=True)
class PictureMap:
    """Pictures and their places.

    Args:
        records: The pictures that were placed, in the order of their rows.
        positions: Their places, [n, 2], both coordinates in [0, 1]. Only what lies near what says
            something: neither axis, nor the distance between what is far apart, nor the size of
            an island does.
        total: How many pictures there are that could have been placed.
        values: Of each picture one value of the field that was asked for, None where it has
            none; None where no field was.
    """

    records: list[Record]
    positions: Positions2D
    total: int
    values: list[Scalar] | None = None


def map_pictures(
    index_dir: Location,
    where: Filter | None = None,
    *,
    field: str | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
) -> PictureMap:
    """Place the pictures of an index on a map, those together that look alike.

    Args:
        index_dir: Where the index is, a folder or on a server.
        where: Places only pictures that this holds of.
        field: Also gives its values, as :func:`values_by` does.
        sample: How many at most; of more so many are drawn at random.
        seed: Of the draw: equal ones give the same map of the same pictures.

    Raises:
        MissingPackageError: If scikit-learn is not installed.
        IndexNotFoundError: If there is no index.
        QueryError: If the filter cannot be used, no picture has the field, there is no picture, or
            the sample is below 1.
    """
    if sample < 1:
        raise QueryError(f"expected a sample of at least 1, got {sample}. Ask for one or more.")
    _sklearn("manifold")
    with open_for_reading(index_dir) as catalogue, catalogue.snapshot():
        if field not in {None, ROOT}:
            catalogue.filters.check(field)
        every = selected(catalogue, where)
        drawn = every
        if len(every) > sample:
            drawn = np.sort(np.random.default_rng(seed).choice(every, sample, replace=False))
        features = dict[int, Feature]()
        for rows, page in feature_pages(catalogue, drawn):
            features |= zip(rows.tolist(), page, strict=True)
        records = [record for record in records_of(catalogue, drawn) if record.row in features]
    if not records:
        raise QueryError("expected pictures to place, got none. Index some, or ask for others.")
    records.sort(key=lambda record: record.row)
    positions = place(np.stack([features[record.row] for record in records]), seed)
    values = None if field is None else values_by(records, field)
    return PictureMap(records, positions, len(every), values)


def place(features: Features, seed: int = 0) -> Positions2D:
    """Place rows in two dimensions: t-SNE of their principal components, equal rows in one place.

    Args:
        features: Unit rows, [n, embed_dim], n at least 1.
        seed: Of what is random; equal ones place equal rows equally, on one kind of machine.

    Returns:
        Places, [n, 2], both coordinates in [0, 1]; the wider one fills it, and the other is as
        much narrower as it was.

    Raises:
        MissingPackageError: If scikit-learn is not installed.

    Source:
        van der Maaten & Hinton 2008, Visualizing Data using t-SNE.
    """
    distinct, of = np.unique(features, axis=0, return_inverse=True)
    # on one thread: sums of several come out in any order, and t-SNE makes much of little
    with import_module("threadpoolctl").threadpool_limits(1):
        places = _reduced(distinct, seed)
    places -= places.min(axis=0)
    span = float(places.max())
    places = places / span if span > 0.0 else places
    places += (1.0 - places.max(axis=0)) / 2.0
    return places[of.ravel()].astype(np.float32)


def _reduced(distinct: Features, seed: int) -> NDArray[np.float64]:
    """Reduce different rows to two dimensions, [n, 2], on any scale."""
    count, embed_dim = distinct.shape
    components = min(count, embed_dim, _COMPONENTS)
    pca = _sklearn("decomposition").PCA(components, random_state=seed)
    reduced = pca.fit_transform(distinct.astype(np.float64)) if count > 1 else np.zeros((1, 1))
    if count >= _LEAST_FOR_TSNE:
        tsne = _sklearn("manifold").TSNE(
            perplexity=min(_PERPLEXITY, (count - 1) / 3), init="pca", random_state=seed
        )
        reduced = tsne.fit_transform(reduced)
    flat = np.zeros((count, 2))
    flat[:, : min(2, reduced.shape[1])] = reduced[:, :2]
    return flat


def values_by(records: list[Record], field: str) -> list[Scalar]:
    """Give of each picture one value of a field: of several the one that most pictures have.

    Args:
        records: The pictures.
        field: As in filters, ``date`` by years in UTC; or :data:`ROOT` for the indexed folder.

    Returns:
        Of each its value; None where it has none.
    """
    if field == ROOT:
        roots = [record.picture.root for record in records]
        return [None if root is None else displayed(root) for root in roots]
    found = [FieldsOf(record.picture).values(field) for record in records]
    counts = Counter(value for values in found for value in values)
    best = [max(values, key=lambda each: (counts[each], each), default=None) for values in found]
    scalars = [None if value is None else as_scalar(*value) for value in best]
    if field != "date":
        return scalars
    years = np.array([0 if moment is None else moment for moment in scalars], np.int64)
    told = years.view("datetime64[ns]").astype("datetime64[Y]").astype(np.int64) + 1970
    return [
        None if moment is None else int(year) for moment, year in zip(scalars, told, strict=True)
    ]


def _sklearn(module: str) -> Any:  # noqa: ANN401
    try:
        return import_module(f"sklearn.{module}")
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "expected the package scikit-learn for a map, got none. "
            "Run: pip install 'clip-text[evaluate]'.",
            name=error.name,
        ) from error
