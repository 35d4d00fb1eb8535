"""What retrieval is measured on: pictures, texts, and which answers which."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clip_text.errors import DataError
from clip_text.images import ImageSource

EXAMPLES = 3
"""How many offenders an error names."""


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
        name: Of the data set, for tables.
        image_ids: One per picture, all different.
        images: The pictures, in the same order; may load lazily.
        texts: The texts, with ids that all differ.
        answers: For each text, the positions of its pictures in ``image_ids``, ascending.
    """

    name: str
    image_ids: list[str]
    images: Sequence[ImageSource]
    texts: list[Text]
    answers: list[list[int]]

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
        images = {
            image_id: image
            for image_id, image in zip(self.image_ids, self.images, strict=True)
            if image_id in used
        }
        return retrieval_set(f"{self.name} {kind}", images, kept)


def retrieval_set(
    name: str,
    images: Mapping[str, ImageSource],
    texts: Iterable[Text],
    *,
    allow_distractors: bool = False,
) -> RetrievalSet:
    """Put a data set together and check that it hangs together.

    Args:
        name: Of the data set.
        images: Picture by id; any mapping, so a lazy one does.
        texts: The texts.
        allow_distractors: Accept pictures that no text describes: searched among, never right.

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
    refuse(name, "texts with words", [t.text_id for t in texts if not t.text.strip()], "Drop")
    refuse(name, "a picture for every text", [t.text_id for t in texts if not t.image_ids], "Drop")
    missing = [
        f"{text.text_id} → {image}"
        for text in texts
        for image in text.image_ids
        if image not in position
    ]
    refuse(name, "texts of pictures that are there", missing, "Add the pictures or drop")
    if not allow_distractors:
        described = {image for text in texts for image in text.image_ids}
        mute = [image for image in image_ids if image not in described]
        refuse(name, "a text for every picture", mute, "Drop")
    answers = [sorted({position[image] for image in text.image_ids}) for text in texts]
    sources = images.values() if isinstance(images, dict) else None
    lazy: Sequence[ImageSource] = (
        list(sources) if sources is not None else _InOrder(images, image_ids)
    )
    return RetrievalSet(name, image_ids, lazy, texts, answers)


def refuse(name: str, expected: str, offenders: Sequence[str], remedy: str) -> None:
    """Raise a DataError that counts the offenders and names the first few, if there are any."""
    if offenders:
        first = ", ".join(repr(str(offender)) for offender in offenders[:EXAMPLES])
        raise DataError(
            f"expected {expected} in {name}, got {len(offenders):,} without: {first}"
            f"{', …' if len(offenders) > EXAMPLES else ''}. {remedy} them."
        )


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
