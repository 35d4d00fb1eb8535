"""What retrieval is measured on: pictures, texts, and which answers which."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

from clip_text.errors import DataError
from clip_text.images import ImageSource

EXAMPLES = 3
"""How many offenders an error names."""

OTHER_ENCODINGS, ROWS_OVER_LINES = "other_encodings", "rows_over_lines"
"""Kinds of :class:`Problem` that are worth knowing, and nothing is wrong with."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with places of a data set, told instead of raised; see :func:`refuse`.

    Args:
        kind: One word for programs, such as ``"unreadable_entries"``.
        message: For people: what was expected, what is there, what to do.
        offenders: The places, or names of what is there.
    """

    kind: str
    message: str
    offenders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """One query text.

    Args:
        text_id: The data set's own id.
        text: What is encoded.
        image_ids: Ids of the pictures it describes; at least one.
        kind: Language or kind of caption, for tables by language; may be empty.
    """

    text_id: str
    text: str
    image_ids: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Pictures, texts, and which answers which; many to many.

    Build it with :func:`retrieval_set`, which checks that the ids match.

    Args:
        name: Name of the data set, for tables.
        image_ids: One per picture, all different.
        images: The pictures, in the same order; may load lazily.
        texts: The texts, with ids that all differ.
        answers: For each text, the positions of its pictures in ``image_ids``, ascending.
        negatives: For each picture, captions that look right for it and are wrong (hard
            negatives); none for any if left out. Training may use them; evaluation does not.
    """

    name: str
    image_ids: list[str]
    images: Sequence[ImageSource]
    texts: list[Text]
    answers: list[list[int]]
    negatives: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.negatives:
            object.__setattr__(self, "negatives", [[] for _ in self.image_ids])
        if len(self.negatives) != len(self.image_ids):
            raise DataError(
                f"expected negatives of each of {len(self.image_ids):,} pictures in {self.name}, "
                f"got {len(self.negatives):,} lists. Give a list for every picture, empty or not."
            )

    @property
    def texts_of(self) -> list[list[int]]:
        """For each picture, the positions of its texts, ascending."""
        out: list[list[int]] = [[] for _ in self.image_ids]
        for text, images in enumerate(self.answers):
            for image in images:
                out[image].append(text)
        return out

    def of_kind(self, kind: str) -> "RetrievalSet":
        """Keep the texts of one kind, and the pictures these describe."""
        kept = [text for text in self.texts if text.kind == kind]
        used = {image for text in kept for image in text.image_ids}
        places = {one: at for at, one in enumerate(self.image_ids) if one in used}
        negatives = {one: self.negatives[at] for one, at in places.items()}
        images = self.images_at(places)
        return retrieval_set(f"{self.name} {kind}", images, kept, negatives=negatives)

    def images_at(self, places: Mapping[str, int]) -> Mapping[str, ImageSource]:
        """Give some of the pictures by id, read no sooner than before.

        Args:
            places: By id, the position in ``images``.
        """
        some = _Part(self.images, places)
        return dict(some) if isinstance(self.images, list) else some


def retrieval_set(
    name: str,
    images: Mapping[str, ImageSource],
    texts: Iterable[Text],
    *,
    allow_distractors: bool = False,
    negatives: Mapping[str, Sequence[str]] | None = None,
    problems: list[Problem] | None = None,
) -> RetrievalSet:
    """Put a data set together and check that it hangs together.

    Args:
        name: Name of the data set.
        images: Picture by id; any mapping, so a lazy one does.
        texts: The texts.
        allow_distractors: Accept pictures that no text describes: searched among, never right.
        negatives: By a picture's id, captions that look right for it and are wrong.
        problems: A list to be told what is wrong instead of an error. Texts without words and
            pictures without a text then stay; texts of no picture that is there are dropped.

    Raises:
        DataError: If there is no picture or no text, a text is empty, names no picture or one
            that is not there, an id of a text comes twice, or a picture has no text; with counts
            and the first few.
    """
    texts = list(texts)
    image_ids = list(images)
    if not image_ids or not texts:
        raise DataError(
            f"expected pictures and texts in {name}, got {len(image_ids)} pictures and "
            f"{len(texts)} texts. Check the path."
        )
    position = {image_id: at for at, image_id in enumerate(image_ids)}
    refuse(name, "ids of texts that differ", _repeated(text.text_id for text in texts), "Rename")
    if problems is None:
        refuse(name, "texts with words", [t.text_id for t in texts if not t.text.strip()], "Drop")
    kind = "texts_without_picture"
    mute = [text.text_id for text in texts if not text.image_ids]
    refuse(name, "a picture for every text", mute, "Drop", kind=kind, problems=problems)
    lost = [
        f"{text.text_id} → {image}"
        for text in texts
        for image in text.image_ids
        if image not in position
    ]
    expected = "texts of pictures that are there"
    remedy = "Add the pictures or drop"
    refuse(name, expected, lost, remedy, kind=kind, problems=problems)
    if lost or mute:
        texts = _without_lost(texts, position)
    if not allow_distractors:
        described = {image for text in texts for image in text.image_ids}
        mute = [image for image in image_ids if image not in described]
        kind = "pictures_without_text"
        refuse(name, "a text for every picture", mute, "Drop", kind=kind, problems=problems)
    answers = [sorted({position[image] for image in text.image_ids}) for text in texts]
    wrong = [list(negatives.get(image, ())) for image in image_ids] if negatives else []
    sources = images.values() if isinstance(images, dict) else None
    lazy: Sequence[ImageSource] = (
        list(sources) if sources is not None else _InOrder(images, image_ids)
    )
    return RetrievalSet(name, image_ids, lazy, texts, answers, wrong)


def refuse(
    name: str,
    expected: str,
    offenders: Sequence[str],
    remedy: str,
    *,
    kind: str = "",
    problems: list[Problem] | None = None,
) -> None:
    """Raise a DataError that counts the offenders and names the first few, if there are any.

    Args:
        name: Name of the data set, or where it lies.
        expected: What the offenders lack, for the error.
        offenders: Places, ids or names of what is wrong.
        remedy: What to do with them, a verb.
        kind: One word for programs.
        problems: A list that is told, instead of the error.

    Raises:
        DataError: If there are offenders, and no list to tell.
    """
    if not offenders:
        return
    first = ", ".join(repr(str(offender)) for offender in offenders[:EXAMPLES])
    message = (
        f"expected {expected} in {name}, got {len(offenders):,} without: {first}"
        f"{', …' if len(offenders) > EXAMPLES else ''}. {remedy} them."
    )
    if problems is None:
        raise DataError(message)
    problems.append(Problem(kind, message, tuple(map(str, offenders))))


def first_error(problems: Iterable[Problem] | None) -> Problem | None:
    """Find the first problem that is one, not a note of an encoding, say; None if there is none."""
    notes = (OTHER_ENCODINGS, ROWS_OVER_LINES)
    return next((problem for problem in problems or () if problem.kind not in notes), None)


@contextmanager
def entry(problems: list[Problem] | None, place: str) -> Iterator[None]:
    """Read one entry of a file; a DataError goes to ``problems`` if there is such a list."""
    try:
        yield
    except DataError as error:
        if problems is None:
            raise
        problems.append(Problem("unreadable_entries", str(error), (place,)))


def _without_lost(texts: Iterable[Text], there: Container[str]) -> list[Text]:
    kept = ((text, tuple(one for one in text.image_ids if one in there)) for text in texts)
    return [replace(text, image_ids=image_ids) for text, image_ids in kept if image_ids]


def _repeated(ids: Iterable[str]) -> list[str]:
    return [one for one, number in Counter(ids).items() if number > 1]


class _InOrder(Sequence[ImageSource]):
    """A lazy mapping's values by position: a picture is read when it is asked for."""

    def __init__(self, images: Mapping[str, ImageSource], ids: Sequence[str]) -> None:
        self._images, self._ids = images, ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        if isinstance(at, slice):
            return [self._images[one] for one in self._ids[at]]
        return self._images[self._ids[at]]

    def shard_of(self, at: int) -> int | None:
        return _shard_of(self._images, self._ids[at])


class _Part(Mapping[str, ImageSource]):
    """Some of a sequence's pictures, by id: read when they are asked for."""

    def __init__(self, images: Sequence[ImageSource], places: Mapping[str, int]) -> None:
        self._images, self._places = images, places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, image_id: object) -> bool:  # the mixin's would read the picture
        return image_id in self._places

    def __getitem__(self, image_id: str) -> ImageSource:
        return self._images[self._places[image_id]]

    def shard_of(self, image_id: str) -> int | None:
        return _shard_of(self._images, self._places[image_id])


def shards_of(images: Sequence[ImageSource]) -> list[int] | None:
    """Say in which file each picture lies, by a number; None if they are files of their own.

    Args:
        images: Those of a :class:`RetrievalSet`.
    """
    found = [_shard_of(images, at) for at in range(len(images))]
    known = [shard for shard in found if shard is not None]
    return known if len(known) == len(found) else None


def _shard_of(images: object, key: object) -> int | None:
    """Ask what keeps pictures together in files, which only such a thing knows."""
    ask = getattr(images, "shard_of", None)
    return None if ask is None else cast(int | None, ask(key))
