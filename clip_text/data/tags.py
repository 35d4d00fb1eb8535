"""Entities and the tags that spell them: BIO, BIOES, BMES and BILOU, read as seqeval reads them."""

from collections.abc import Sequence
from dataclasses import dataclass

from clip_text.errors import DataError

_BEGINS, _GOES_ON, _ENDS, _ALONE = "B", "IM", "EL", "SU"
"""First letters of a tag; M and E are BMES's, L and U are BILOU's."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A name in a text.

    Args:
        start: Position of its first character in the text.
        end: The character behind its last.
        label: Type of the entity, as PER or LOC.
        text: The entity's own characters.
        score: Probability of its tokens' labels, in the mean; 1 where a person said so.
    """

    start: int
    end: int
    label: str
    text: str
    score: float = 1.0

    @property
    def key(self) -> tuple[int, int, str]:
        """What has to agree for two entities to be the same."""
        return self.start, self.end, self.label


@dataclass(frozen=True, slots=True)
class Decoded:
    """Entities that tags spell.

    Args:
        found: First unit, unit behind the last, and type of each.
        repaired: How many begin with a tag that says they go on, such as I- without B-.
    """

    found: list[tuple[int, int, str]]
    repaired: int


def split_tag(tag: str) -> tuple[str, str]:
    """Split a tag into its first letter and its type, ``("O", "")`` outside of entities.

    Raises:
        DataError: If it is no tag of BIO, BIOES, BMES or BILOU.
    """
    if tag == "O":
        return "O", ""
    letter, dash, label = tag.partition("-")
    if not dash or not label or len(letter) != 1 or letter not in f"B{_GOES_ON}{_ENDS}{_ALONE}":
        raise DataError(
            f"expected O, or a tag such as B-PER of BIO, BIOES, BMES or BILOU, got {tag!r}. "
            "Mend the tag."
        )
    return letter, label


def decode_tags(tags: Sequence[str]) -> Decoded:
    """Read entities from one tag for each unit.

    A tag that says an entity goes on where none of its type is open begins one, as in seqeval's
    default mode and CoNLL's own script; these are counted. An entity that its E- never closes
    ends before the next O, beginning or type.

    Raises:
        DataError: If something is no tag.

    Example:
        >>> decode_tags(["B-PER", "I-PER", "O", "I-LOC"])
        Decoded(found=[(0, 2, 'PER'), (3, 4, 'LOC')], repaired=1)
    """
    found: list[tuple[int, int, str]] = []
    start, current, repaired = 0, "", 0
    for at, tag in enumerate(tags):
        letter, label = split_tag(tag)
        goes_on = letter in _GOES_ON + _ENDS
        if current and not (goes_on and label == current):
            found.append((start, at, current))
            current = ""
        if label and not current:
            start, current = at, label
            repaired += goes_on
        if letter in _ENDS + _ALONE:
            found.append((start, at + 1, current))
            current = ""
    if current:
        found.append((start, len(tags), current))
    return Decoded(found, repaired)


def spell(length: int, entities: Sequence[Entity]) -> list[str]:
    """Write entities as BIO tags, one for each character of a text of that length."""
    tags = ["O"] * length
    for entity in entities:
        tags[entity.start] = f"B-{entity.label}"
        for at in range(entity.start + 1, entity.end):
            tags[at] = f"I-{entity.label}"
    return tags
