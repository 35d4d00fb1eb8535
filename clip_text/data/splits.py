"""Parts of a data set, and the one rule by which some of it is held out to measure on."""

import random
from collections.abc import Hashable, Iterable, Sequence

from clip_text.data.collection import RetrievalSet, retrieval_set
from clip_text.errors import DataError

HELD_OUT = 0.1
"""Share of the data that is measured on where no others are given."""
MOST_HELD_OUT = 1000
"""How many at most, where a training says no other number."""


def part(collection: RetrievalSet, places: Iterable[int], name: str | None = None) -> RetrievalSet:
    """Keep some pictures, and of the texts what describes them.

    Args:
        collection: What to take a part of.
        places: Positions of the pictures to keep, in any order.
        name: Name of the part; the whole's if not given.
    """
    kept = sorted(set(places))
    ids = {collection.image_ids[at] for at in kept}
    images = collection.images_at({collection.image_ids[at]: at for at in kept})
    texts = [
        type(text)(text.text_id, text.text, tuple(i for i in text.image_ids if i in ids), text.kind)
        for text in collection.texts
        if ids & set(text.image_ids)
    ]
    negatives = {collection.image_ids[at]: collection.negatives[at] for at in kept}
    return retrieval_set(name or collection.name, images, texts, negatives=negatives)


def held_out(
    collection: RetrievalSet, number: int | None = None, seed: int = 0
) -> tuple[RetrievalSet, RetrievalSet]:
    """Hold out some pictures, drawn at random, to measure on.

    Args:
        collection: What to split.
        number: Number of pictures to hold out; a tenth, at most 1,000, if None.
        seed: Seed of the draw; an equal seed gives equal draws.

    Returns:
        What to learn from, and what to measure on.

    Raises:
        DataError: If that leaves no picture to learn from, or none to measure on.
    """
    chosen = held_out_places(
        len(collection.image_ids), number, seed=seed, what=f"pictures in {collection.name}"
    )
    rest = places_without(len(collection.image_ids), chosen)
    return part(collection, rest), part(collection, chosen, f"{collection.name} held out")


def held_out_places(
    total: int,
    number: int | None = None,
    *,
    share: float = HELD_OUT,
    most: int | None = MOST_HELD_OUT,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
    labels: Sequence[Iterable[str]] | None = None,
    what: str = "texts",
) -> list[int]:
    """Say which of some items are held out to measure on, drawn at random: the one rule for it.

    Args:
        total: How many items there are.
        number: How many to hold out; the share if None. Of groups, where there are some.
        share: What to hold out then, in (0, 1), rounded; one at least.
        most: How many at most then; no limit if None.
        seed: Seed of the draw; equal seeds draw the same of as many items.
        groups: Group that each item belongs to: groups fall on one side as a whole.
        labels: Labels of each item: one whose label would be held out whole stays to be learnt.
        what: Word for the items, for errors.

    Returns:
        Positions of the items held out, ascending; never all of them.

    Raises:
        DataError: If the number leaves nothing to learn from, or nothing to measure on.
    """
    kinds = list(dict.fromkeys(range(total) if groups is None else groups))
    if len(kinds) < 2:
        raise DataError(
            f"expected at least 2 {what} to hold some out of, got {len(kinds)}. Add some, or give "
            "others to measure on."
        )
    if number is None:
        number = min(max(1, round(share * len(kinds))), len(kinds) if most is None else most)
    if not 0 < number < len(kinds):
        raise DataError(
            f"expected to hold out between 1 and {len(kinds) - 1} of {len(kinds)} {what}, got "
            f"{number}. Hold out fewer, or give others to measure on."
        )
    drawn = set(random.Random(seed).sample(kinds, number))  # noqa: S311  (nothing secret)
    chosen = [
        place for place in range(total) if (place if groups is None else groups[place]) in drawn
    ]
    if labels is None:
        return chosen
    return known_only(chosen, places_without(total, chosen), labels)


def known_only(
    chosen: Iterable[int], learnt: Iterable[int], labels: Sequence[Iterable[str]]
) -> list[int]:
    """Leave out of what is held out the items that have a label of which none is learnt.

    Args:
        chosen: Positions of the items held out.
        learnt: Positions of the items to learn from.
        labels: Labels of each item, one or several.
    """
    known = {label for place in learnt for label in labels[place]}
    return [place for place in chosen if known.issuperset(labels[place])]


def places_without(total: int, chosen: Iterable[int]) -> list[int]:
    """Give the positions of as many items as there are, ascending, without the chosen ones."""
    left_out = set(chosen)
    return [place for place in range(total) if place not in left_out]
