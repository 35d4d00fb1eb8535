"""A query as one value that Python, the command line and HTTP share.

    Query.of("狗")
    Query.of("狗", Path("beach.jpg"), without=["雪"], like=["holiday/12.jpg"])
    Query((TextTerm("狗", 2.0), LikeTerm(42), TextTerm("雪", -0.4)), fold=FOLD_AT, offset=20)

What it looks for is a weighted sum of terms, each a text, a picture, or a picture of the index. A
term of negative weight is stayed away from.
"""

import math
import operator
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from retrieval.errors import QueryError
from retrieval.filters import Filter
from retrieval.filters.shown import shown
from retrieval.filters.tree import And, Compare, Exists, In, Not, Or, Prefix
from retrieval.records import displayed
from retrieval.search.hybrid import Blend, blend_of

__all__ = [
    "FOLD_AT",
    "MAX_RANKED",
    "MAX_TERMS",
    "WITHOUT_WEIGHT",
    "LikeTerm",
    "PictureTerm",
    "Query",
    "Term",
    "TextTerm",
    "as_query",
]

MAX_TERMS = 32
"""How many terms one query may have."""

MAX_RANKED = 1_000
"""How far down pictures are folded, diversified, and kept in a ranking for paging."""

WITHOUT_WEIGHT = 0.4
"""How much what is stayed away from weighs beside what is looked for; docs/queries.md measures."""

FOLD_AT = 0.9
"""Cosine at which two pictures are near-duplicates; docs/queries.md measures it."""


@dataclass(frozen=True, slots=True)
class TextTerm:
    """Words to look for.

    Args:
        text: Not blank.
        weight: Finite and not 0; below 0 to stay away from it.

    Raises:
        QueryError: If either cannot be used.
    """

    text: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        what = "expected a text to search for, got"
        if not isinstance(self.text, str):
            raise QueryError(f"{what} {type(self.text).__name__}. Pass a str.")
        if not self.text.strip():
            raise QueryError(f"{what} a blank one. Say what to look for.")
        _check_weight(self.weight)


@dataclass(frozen=True, slots=True)
class PictureTerm:
    """A picture from outside the index to look for the like of.

    Args:
        picture: Its file, or what would be in it.
        weight: Finite and not 0; below 0 to stay away from it.

    Raises:
        QueryError: If either cannot be used. The picture is not looked at yet.
    """

    picture: Path | bytes
    weight: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.picture, str | os.PathLike):
            object.__setattr__(self, "picture", Path(self.picture))
        elif not isinstance(self.picture, bytes):
            raise QueryError(
                f"expected a picture's file or its bytes, got {type(self.picture).__name__}. "
                "Pass a Path, or what is in the file."
            )
        _check_weight(self.weight)

    @property
    def name(self) -> str:
        """What messages call it."""
        picture = self.picture
        return (
            f"{len(picture)} bytes"
            if isinstance(picture, bytes)
            else displayed(os.fsencode(picture))
        )


@dataclass(frozen=True, slots=True)
class LikeTerm:
    """A picture of the index to look for more like; never a hit itself.

    Args:
        picture: Its row, or its id.
        weight: Finite and not 0; below 0 to stay away from it.

    Raises:
        QueryError: If either cannot be used. Whether there is such a picture is not known yet.
    """

    picture: int | str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.picture, str):
            row = _integer(self.picture)
            if row is None:
                raise QueryError(
                    "expected the row or the id of a picture, got "
                    f"{type(self.picture).__name__}. Pass a hit's row, an int, or image_id, a str."
                )
            object.__setattr__(self, "picture", row)
        _check_weight(self.weight)


Term = TextTerm | PictureTerm | LikeTerm


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for, among what, and which part of the answer to give.

    Args:
        terms: What to look for: the pictures nearest to the weighted sum of the terms' unit rows.
            1 to :data:`MAX_TERMS`, at least one of positive weight.
        where: What must hold of a picture to be considered at all; None for nothing.
        top_k: How many hits at most.
        offset: How many of the best to pass over.
        fold: Cosine from which a picture is folded into a better hit, in (0, 1]; None folds none.
            :data:`FOLD_AT` is what near-duplicates have.
        diversity: How much a hit's likeness to the hits before it counts against it, in [0, 1):
            maximal marginal relevance over the best hits. None, like 0, for not at all.
        hybrid: Search the words that are said of pictures as well, and place hits by both; a
            :class:`~retrieval.search.hybrid.Blend` says how much words count. For a query of one
            text.

    Raises:
        QueryError: If one of them cannot be used.

    Source:
        Of diversity, Carbonell & Goldstein 1998, whose λ is 1 - diversity.
    """

    terms: tuple[Term, ...]
    where: Filter | None = None
    top_k: int = 10
    offset: int = 0
    fold: float | None = None
    diversity: float | None = None
    hybrid: bool | Blend = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", _checked_terms(self.terms))
        if self.where is not None and not isinstance(self.where, _FILTERS):
            raise QueryError(
                f"expected a filter as where, got {type(self.where).__name__}. "
                "Read one with retrieval.filters.language.read_where."
            )
        object.__setattr__(self, "top_k", checked_top_k(self.top_k))
        offset = _integer(self.offset)
        if offset is None or offset < 0:
            raise QueryError(
                f"expected an offset of at least 0, got {shown(self.offset)}. 0 passes over none."
            )
        object.__setattr__(self, "offset", offset)
        _check_share(self.fold, "fold", "a cosine above 0 and up to 1", above=0.0, upto=1.0)
        if self.diversity != 0:
            below_1 = math.nextafter(1.0, 0.0)
            _check_share(
                self.diversity, "diversity", "at least 0 and below 1", above=0.0, upto=below_1
            )
        if self.is_reranked and self.offset + self.top_k > MAX_RANKED:
            raise QueryError(
                f"expected offset and top_k of {MAX_RANKED} together at most where hits are folded "
                f"or diversified, got {self.offset + self.top_k}. Ask for less, or for neither."
            )
        if self.blend is not None and self.words is None:
            raise QueryError(
                f"expected one text to search for in words, got {len(self.terms)} terms. Leave out "
                "hybrid, or all but one text."
            )
        if self.blend is not None and self.diversity:
            raise QueryError(
                "expected either hybrid or diversity, got both: their orders are not of one kind. "
                "Leave one out."
            )

    @classmethod
    def of(
        cls,
        *wanted: str | Path | bytes | Term,
        like: Iterable[str | int] = (),
        without: Iterable[str | Path | bytes] = (),
        where: Filter | None = None,
        top_k: int = 10,
        offset: int = 0,
        fold: float | None = None,
        diversity: float | None = None,
        hybrid: bool | Blend = False,
    ) -> Self:
        """Make a query of texts, files and ids, all of the same weight.

        Args:
            wanted: Texts, files or bytes of pictures, and terms with weights of their own.
            like: Rows or ids of pictures of the index.
            without: Texts and pictures to stay away from, each of weight -:data:`WITHOUT_WEIGHT`.
            where: See :class:`Query`.
            top_k: See :class:`Query`.
            offset: See :class:`Query`.
            fold: See :class:`Query`.
            diversity: See :class:`Query`.
            hybrid: See :class:`Query`.

        Raises:
            QueryError: As for :class:`Query`.
        """
        terms = (
            *(_term(each) for each in wanted),
            *(LikeTerm(each) for each in _listed(like, "like")),
            *(_term(each, -WITHOUT_WEIGHT) for each in _listed(without, "without")),
        )
        return cls(terms, where, top_k, offset, fold, diversity, hybrid)

    @property
    def blend(self) -> Blend | None:
        """How what is said of pictures counts; None where it does not."""
        return blend_of(self.hybrid)

    @property
    def words(self) -> str | None:
        """The text, where one is all that is looked for; else None."""
        first, *others = self.terms
        if others or not isinstance(first, TextTerm) or first.weight < 0:
            return None
        return first.text

    @property
    def is_reranked(self) -> bool:
        """True if hits are not simply given in the order of their scores."""
        return self.fold is not None or bool(self.diversity)


_FILTERS = (And, Or, Not, Compare, In, Prefix, Exists)


def as_query(
    query: object, top_k: int = 10, where: Filter | None = None, *, hybrid: bool | Blend = False
) -> Query:
    """Take a query as it is, and a text as one for the best hits.

    Raises:
        QueryError: If it is neither, ``top_k`` cannot be used, or ``where`` or ``hybrid`` stands
            beside a :class:`Query`, which has its own.
    """
    if isinstance(query, Query):
        beside = {"where": where is not None, "hybrid": bool(hybrid)}
        if said := [name for name, is_said in beside.items() if is_said]:
            raise QueryError(
                f"expected a Query alone, which says the rest itself, got {' and '.join(said)} "
                "beside it. Say it in the query: Query.of(…, where=…, hybrid=…)."
            )
        return query
    return Query((TextTerm(query),), where, top_k, hybrid=hybrid)  # type: ignore[arg-type]  # it is checked there


def checked_top_k(top_k: object) -> int:
    """Give a number of hits as an int.

    Raises:
        QueryError: If it is none, or below 1.
    """
    number = _integer(top_k)
    if number is None or number < 1:
        raise QueryError(f"expected top_k of at least 1, got {top_k!r}. Ask for one hit or more.")
    return number


def _term(value: object, weight: float = 1.0) -> Term:
    if isinstance(value, TextTerm | PictureTerm | LikeTerm):
        return value
    if isinstance(value, Path | bytes):
        return PictureTerm(value, weight)
    return TextTerm(value, weight)  # type: ignore[arg-type]  # it is checked there


def _listed(values: object, name: str) -> Iterable[str | int]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise QueryError(f"expected a list as {name}, got {type(values).__name__}. Wrap it in one.")
    return values


def _checked_terms(terms: object) -> tuple[Term, ...]:
    if not isinstance(terms, list | tuple):
        raise QueryError(
            f"expected a tuple of terms, got {type(terms).__name__}. Query.of makes one of texts."
        )
    for term in terms:
        if not isinstance(term, TextTerm | PictureTerm | LikeTerm):
            raise QueryError(
                f"expected a TextTerm, PictureTerm or LikeTerm, got {type(term).__name__}. "
                "Query.of takes texts and files as they are."
            )
    if not terms:
        raise QueryError("expected something to look for, got nothing. Give a text or a picture.")
    if len(terms) > MAX_TERMS:
        raise QueryError(
            f"expected at most {MAX_TERMS} texts and pictures in one query, got {len(terms)}. "
            "Ask several queries."
        )
    if all(term.weight < 0 for term in terms):
        raise QueryError(
            "expected something to look for, got only what to stay away from. Say, too, what to "
            "look for; what must not be said of pictures is for a filter to leave out."
        )
    return tuple(terms)


def _check_weight(weight: object) -> None:
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not 0 < abs(weight) <= sys.float_info.max:  # type: ignore[arg-type]
        raise QueryError(
            f"expected a finite weight other than 0, got {shown(weight)}. 1 is the usual one; "
            "below 0 is stayed away from."
        )


def _check_share(value: object, name: str, what: str, *, above: float, upto: float) -> None:
    if value is None:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not above < value <= upto:  # type: ignore[operator]  # NaN is refused, too
        raise QueryError(
            f"expected {name} to be {what}, got {shown(value)}. Leave it out for none."
        )


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # what is none raises
    except TypeError:
        return None
