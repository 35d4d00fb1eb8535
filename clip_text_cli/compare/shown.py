"""What the page shows of a comparison: all queries, or those in which the models differ most."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clip_text_cli.compare.measuring import Measured
from clip_text_cli.compare.page import Hit, Page, Row
from clip_text_cli.compare.tables import Recalls, overlaps
from clip_text_cli.evaluate.retrieval import Report, percent

if TYPE_CHECKING:
    from clip_text.data.collection import RetrievalSet
    from clip_text.evaluation.agreement import Places
    from clip_text.evaluation.ranking import Features, PerQuery

__all__ = ["Found", "labelled_page", "search_all", "unlabelled_page", "unreadable_by_any"]

MOST_ROWS = 30
"""Queries of labelled data that are shown."""

_MOST_ANSWERS = 3  # right pictures that are shown beside a query

Found = Mapping[str, "tuple[Features, Places]"]
"""By a model's name, scores and positions of what it found for each query, best first."""


def unreadable_by_any(measured: Mapping[str, Measured]) -> dict[int, str]:
    """Name the pictures that one model at least cannot read: by position, why."""
    told: dict[int, str] = {}
    for one in measured.values():
        for place, why in one.facts.unreadable:
            told.setdefault(place, why)
    return dict(sorted(told.items()))


def search_all(measured: Mapping[str, Measured], k: int) -> Found:
    """Search the pictures that all models can read, by each of them.

    Args:
        measured: By the name that a model is told by.
        k: Hits of each query.
    """
    from clip_text.evaluation.agreement import nearest

    left_out = list(unreadable_by_any(measured))
    found = {}
    for name, one in measured.items():
        encoded = one.encoded()
        encoded.images[left_out] = np.nan
        found[name] = nearest(encoded.texts, encoded.images, k)
    return found


def unlabelled_page(
    collection: "RetrievalSet", measured: Mapping[str, Measured], found: Found
) -> Page:
    """Show every query.

    Args:
        collection: Pictures and queries.
        measured: By the name that a model is told by.
        found: As :func:`search_all` gives it.
    """
    left_out = unreadable_by_any(measured)
    k = _depth(found)
    shares = overlaps({name: places for name, (_, places) in found.items()})
    rows = [
        Row(text.text, _overlap_notes(shares, at, k), (), _hits(found, at, ()))
        for at, text in enumerate(collection.texts)
    ]
    pictures = len(collection.image_ids) - len(left_out)
    return Page(
        title=_title(measured, collection),
        lead=(
            f"The {k:,} pictures nearest to each of {len(rows):,} queries, among {pictures:,}. "
            "Nobody has said which are right; ids show over a picture. "
            "Cosines of two models cannot be compared.",
        ),
        facts=[_models(measured, {}), *_agreement(shares, k)],
        image_ids=collection.image_ids,
        rows=rows,
        models=list(measured),
        unreadable=[(collection.image_ids[at], why) for at, why in left_out.items()],
    )


def labelled_page(
    measured: Mapping[str, Measured], reports: Mapping[str, Report], recalls: Recalls
) -> Page:
    """Show the queries whose right answers models rank most differently; of one, the worst.

    Args:
        measured: By the name that a model is told by.
        reports: Likewise; all of one data set.
        recalls: As :func:`clip_text_cli.compare.tables.recall_intervals` gives them.
    """
    from clip_text.evaluation.agreement import nearest, rank_spread

    some = next(iter(reports.values()))
    collection = some.collection
    ranks = np.stack([one.measured.by_direction["t2i"].ranks for one in reports.values()])
    order = np.argsort(-(rank_spread(ranks) if len(reports) > 1 else ranks[0]), kind="stable")
    chosen = _one_of_each_picture(order, collection)
    k = max(some.measured.by_direction["t2i"].ks)
    found = {
        name: nearest(one.encoded.texts, one.encoded.images, k) for name, one in reports.items()
    }
    shares = overlaps({name: places for name, (_, places) in found.items()})
    rows = []
    for at in chosen:
        of = zip(reports, ranks[:, at], strict=True)
        told = ", ".join(f"{name} {rank:,g}" for name, rank in of)
        answers = collection.answers[at]
        notes = [f"right answer at rank: {told}", *_overlap_notes(shares, at, _depth(found))]
        hits = _hits(found, at, answers)
        rows.append(Row(collection.texts[at].text, notes, answers[:_MOST_ANSWERS], hits))
    which = (
        "whose right answers the models rank most differently"
        if len(reports) > 1
        else ("whose right answers rank lowest")
    )
    return Page(
        title=_title(measured, collection),
        lead=(
            f"{len(rows):,} of {len(collection.texts):,} queries, those {which}, over "
            f"{len(collection.image_ids):,} pictures; ids show over a picture. They are chosen "
            "because models differ: the figures are those of all queries.",
        ),
        facts=[_models(measured, recalls), *_agreement(shares, _depth(found))],
        image_ids=collection.image_ids,
        rows=rows,
        models=list(measured),
        unreadable=(),
    )


def _title(measured: Mapping[str, Measured], collection: "RetrievalSet") -> str:
    several = f"{len(measured)} models" if len(measured) > 1 else next(iter(measured))
    return f"{several} on {collection.name}"


def _one_of_each_picture(order: NDArray[np.intp], collection: "RetrievalSet") -> list[int]:
    """Take the first queries in an order, one of those that the same picture answers."""
    chosen: list[int] = []
    seen: set[tuple[int, ...]] = set()
    for at in order.tolist():
        answers = tuple(collection.answers[at])
        if answers not in seen:
            seen.add(answers)
            chosen.append(at)
        if len(chosen) == MOST_ROWS:
            break
    return chosen


def _hits(found: Found, row: int, answers: Sequence[int]) -> dict[str, list[Hit]]:
    """What each model found for a query."""
    of = {name: set(places[row].tolist()) for name, (_, places) in found.items()}
    out = {}
    for name, (scores, places) in found.items():
        others: set[int] = set().union(*(of[other] for other in of if other != name))
        out[name] = [
            Hit(place, float(score), place in answers, len(of) > 1 and place not in others)
            for place, score in zip(places[row].tolist(), scores[row], strict=True)
        ]
    return out


def _depth(found: Found) -> int:
    """How many hits of a query there are: as many as asked for, or all pictures."""
    _, places = next(iter(found.values()))
    return int(places.shape[1])


def _overlap_notes(shares: "Mapping[tuple[str, str], PerQuery]", row: int, k: int) -> list[str]:
    """Say how many hits each two models have in common, on one line; nothing of one model."""
    told = [
        f"{first} + {second} {round(k * found[row])}" for (first, second), found in shares.items()
    ]
    return [f"of {k:,} hits in common: {', '.join(told)}"] if told else []


def _agreement(
    shares: "Mapping[tuple[str, str], PerQuery]", k: int
) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """A table of the hits that each two models have in common; none of one model."""
    if not shares:
        return []
    names = list(dict.fromkeys(name for pair in shares for name in pair))
    of = {frozenset(pair): f"{found.mean():.1%}" for pair, found in shares.items()}
    rows = [
        [name, *("–" if other == name else of[frozenset((name, other))] for other in names)]
        for name in names
    ]
    return [(f"Hits in common in the top {k}, on the whole", ["model", *names], rows)]


def _models(
    measured: Mapping[str, Measured], recalls: Recalls
) -> tuple[str, Sequence[str], list[list[str]]]:
    """A table of what is known of each model."""
    told = list(next(iter(recalls.values()), {}))
    rows = []
    for name, one in measured.items():
        facts = one.facts
        costs = [f"{facts.texts_per_second:,.0f}", f"{facts.pictures_per_second:,.1f}"]
        size = [f"{facts.embed_dim:,}", facts.fingerprint[:12]]
        rows.append([name, *(percent(recalls[name][each]) for each in told), *costs, *size])
    heads = [f"{direction} recall@{k}, %" for direction, k in told]
    heads = ["model", *heads, "texts/s", "pictures/s", "dimensions", "fingerprint begins"]
    return "Models", heads, rows
