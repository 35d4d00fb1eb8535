"""Pictures that are there twice, and texts that describe several pictures."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from clip_text.data.collection import RetrievalSet


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What comes more than once in a data set; groups are positions, ascending.

    Args:
        images: Groups of pictures of equal content.
        texts: Groups of texts of equal wording that don't describe the same pictures.
    """

    images: list[list[int]]
    texts: list[list[int]]

    @property
    def extra_images(self) -> int:
        """How many pictures one could drop."""
        return sum(len(group) - 1 for group in self.images)

    @property
    def ambiguous_texts(self) -> int:
        """How many texts also say what describes another picture."""
        return sum(len(group) for group in self.texts)


def find_duplicates(collection: RetrievalSet, digests: Iterable[str]) -> Duplicates:
    """Look for equal pictures and equal texts.

    Args:
        collection: The data set.
        digests: What names the content of each picture, in order.
    """
    by_content: defaultdict[str, list[int]] = defaultdict(list)
    for at, digest in enumerate(digests):
        by_content[digest].append(at)
    by_wording: defaultdict[str, list[int]] = defaultdict(list)
    for at, text in enumerate(collection.texts):
        by_wording[text.text].append(at)
    return Duplicates(
        [group for group in by_content.values() if len(group) > 1],
        [
            group
            for group in by_wording.values()
            if len({tuple(collection.answers[at]) for at in group}) > 1
        ],
    )


def merge_duplicates(collection: RetrievalSet, duplicates: Duplicates) -> RetrievalSet:
    """Count the twin of a right answer as right too.

    Every text is then answered by all pictures that equal one of its own, and by all that a text
    of the same wording describes. Ids, texts and pictures stay as they are.
    """
    answers = [set(each) for each in collection.answers]
    for group in duplicates.texts:
        together = set().union(*(answers[at] for at in group))
        for at in group:
            answers[at] = set(together)
    twins = {at: group for group in duplicates.images for at in group}
    for each in answers:
        each.update(*(twins[at] for at in list(each) if at in twins))
    return replace(collection, answers=[sorted(each) for each in answers])


def merge_wordings(collection: RetrievalSet) -> RetrievalSet:
    """Count what is worded as a right answer as right too, as a training's losses do.

    Pictures stay as different as they are; see :func:`merge_duplicates`.
    """
    return merge_duplicates(collection, find_duplicates(collection, ()))


def pictures_by_wording(collection: RetrievalSet) -> dict[str, set[int]]:
    """By wording, the positions of all pictures that a text of this wording describes."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for text, answers in zip(collection.texts, collection.answers, strict=True):
        found[text.text].update(answers)
    return dict(found)
