"""Each thing that can be asked, as a request and what is made of its answer."""

import base64
import json
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from clip_text_client.answers import (
    Answer,
    Collection,
    Item,
    Label,
    Outcome,
    Suggestion,
    read,
    read_all,
)
from clip_text_client.errors import unwritable

__all__ = ["ABSENT", "Absent", "Call", "NewItem", "Pages", "Picture", "SearchOptions", "Term"]

Given = TypeVar("Given")
Thing = TypeVar("Thing")

Picture = str | PathLike[str] | bytes
"""A picture: its file, or what is in it."""

Safety = Literal["repeatable", "once"]

MOST_TEXTS: Final = 2_048
MOST_PICTURES: Final = 32
MOST_ITEMS: Final = 1_000
MOST_BYTES: Final = 24 * 1024 * 1024
"""Of one of several requests, some; a service takes 32 MiB unless it is told otherwise."""
MOST_HITS: Final = 1_000
"""Of all pages of an answer."""
MOST_AT_ONCE: Final = 200
"""Of one page."""


class Absent:
    """Stands where nothing is said, which is not None: that takes away."""


ABSENT: Final = Absent()


class Term(TypedDict, total=False):
    """One of the things to look for: ``text`` or ``like``, and its ``weight``."""

    text: str
    like: str | int
    weight: float


class SearchOptions(TypedDict, total=False):
    """What a search may say beside its text; the service's docs/queries.md has it all.

    ``images`` and ``without_images`` are files or bytes, to find the like of and to stay away from;
    ``like`` names pictures of the index by image_id or row; ``without`` are words; ``where`` is a
    filter in either form.
    """

    images: Sequence[Picture]
    without_images: Sequence[Picture]
    like: Sequence[str | int]
    without: Sequence[str]
    terms: Sequence[Term]
    where: str | Mapping[str, Any] | None
    fold: float | None
    diversity: float | None
    hybrid: bool
    facets: Sequence[str]
    min_probability: float | None
    collection: str | None


class _Identified(TypedDict):
    id: str


class NewItem(_Identified, total=False):
    """A picture to add: its id, and an image, a path on the service's machine or a finished row."""

    image: Picture
    path: str
    feature: Sequence[float]
    caption: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call(Generic[Given]):
    """A request, and what reads its answer.

    Args:
        method: Of HTTP.
        path: Below the service's address.
        reader: Makes what is given of an answer below 300.
        params: Of the address; those that are None are left out.
        body: JSON.
        form: Text parts of a form, instead.
        files: Its files: name of the part, of the file, and what is in it.
        safety: ``once`` where a second time would be told otherwise, so that it is repeated only
            if the first was certainly not done.
    """

    method: str
    path: str
    reader: Callable[[httpx.Response], Given]
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    form: Mapping[str, str] | None = None
    files: Sequence[tuple[str, tuple[str, bytes]]] = ()
    safety: Safety = "repeatable"


def search(
    text: str | None, options: SearchOptions, top_k: int, offset: int, *, paged: bool
) -> Call[Answer]:
    """Ask for the pictures nearest to texts and pictures."""
    said: dict[str, Any] = {**options, "top_k": top_k}
    said |= {"query": text} if text is not None else {}
    said |= {"offset": offset} if offset else {}
    said |= {"paged": True} if paged else {}
    images, without = said.pop("images", ()), said.pop("without_images", ())
    params = {"collection": said.pop("collection", None)}
    if not images and not without:
        return Call("POST", "/v1/search", _answer, params, said)
    files = [
        *(("image", _named(picture)) for picture in images),
        *(("without_image", _named(picture)) for picture in without),
    ]
    form = {"request": json.dumps(said, ensure_ascii=False)}
    return Call("POST", "/v1/search/upload", _answer, params, form=form, files=files)


class Pages:
    """What to ask for, one after the other, to go through an answer.

    Args:
        text: As for :func:`search`.
        options: As for :func:`search`.
        page_size: How many hits are asked for at once.
        most: How many hits at most.
    """

    def __init__(self, text: str | None, options: SearchOptions, page_size: int, most: int) -> None:
        self._page_size, self._most = page_size, most
        self._offset, self._size = 0, min(page_size, most)
        self._end = 0
        self._collection = options.get("collection")
        self.first: Final = search(text, options, self._size, 0, paged=True)

    def after(self, answer: Answer) -> Call[Answer] | None:
        """Ask for what follows a page; None at the end.

        A page has fewer hits, or none, where pictures were removed after the order was made, so an
        empty one is the end only where the order cannot be longer.
        """
        if self._offset == 0 and answer.hits:
            self._end = min(answer.total, MOST_HITS)
        self._offset += self._size
        is_over = self._offset >= (self._most if answer.hits else min(self._most, self._end))
        if is_over or answer.page is None:
            return None
        # what follows an empty page is mostly the end: it is reached in few steps
        size = self._page_size if answer.hits else max(self._page_size, MOST_AT_ONCE)
        self._size = min(size, self._most - self._offset)
        body = {"page": answer.page, "offset": self._offset, "top_k": self._size}
        return Call("POST", "/v1/search", _answer, {"collection": self._collection}, body)


def embed(
    texts: Iterable[str], model: str | None, dimensions: int | None
) -> Iterator[Call[list[list[float]]]]:
    """Ask for rows of texts."""
    return (_embed(part, model, dimensions) for part in _parts(texts, MOST_TEXTS))


def embed_images(
    images: Iterable[Picture], model: str | None, dimensions: int | None
) -> Iterator[Call[list[list[float]]]]:
    """Ask for rows of pictures."""
    inputs = ({"image": _base64(picture)} for picture in images)
    parts = _parts(inputs, MOST_PICTURES, lambda one: len(one["image"]))
    return (_embed(part, model, dimensions) for part in parts)


def classify(
    texts: Sequence[str], head: str | None, top_k: int, collection: str | None
) -> Call[list[list[Label]]]:
    """Ask for labels."""
    body = {"texts": list(texts), "head": head, "top_k": top_k}

    def labels(response: httpx.Response) -> list[list[Label]]:
        return [read_all(Label, one["labels"]) for one in response.json()["results"]]

    return Call("POST", "/v1/classify", labels, {"collection": collection}, body)


def suggest(typed: str, limit: int, collection: str | None) -> Call[list[Suggestion]]:
    """Ask for what completes what was typed."""
    params = {"q": typed, "limit": limit, "collection": collection}
    return Call(
        "GET",
        "/v1/suggest",
        lambda response: read_all(Suggestion, response.json()["suggestions"]),
        params,
    )


def collections() -> Call[list[Collection]]:
    """Ask which indexes there are."""
    return Call(
        "GET",
        "/v1/collections",
        lambda response: read_all(Collection, response.json()["collections"]),
    )


def image(row: int, collection: str | None) -> Call[bytes]:
    """Ask for an original picture."""
    return Call("GET", f"/v1/images/{row:d}", _content, {"collection": collection})


def thumbnail(row: int, size: int, collection: str | None) -> Call[bytes]:
    """Ask for a small WebP."""
    params = {"size": size, "collection": collection}
    return Call("GET", f"/v1/images/{row:d}/thumbnail", _content, params)


def add(item: NewItem, collection: str | None) -> Call[Item]:
    """Add a picture: by a form where its bytes are sent, else as JSON; twice is as once."""
    params = {"collection": collection}
    said = _said(item)
    if "image" not in said:
        return Call("POST", "/v1/items", _item, params, said)
    del said["image"]
    form = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in said.items()
    }
    files = [("image", _named(item["image"]))]
    return Call("POST", "/v1/items", _item, params, form=form, files=files)


def add_many(items: Iterable[NewItem], collection: str | None) -> Iterator[Call[list[Outcome]]]:
    """Add pictures, each as if it were alone."""
    params = {"collection": collection}
    parts = _parts(map(_in_json, items), MOST_ITEMS, _size_of)
    return (Call("POST", "/v1/items/bulk", _outcomes, params, part) for part in parts)


def get(id: str, collection: str | None) -> Call[Item]:  # noqa: A002
    """Ask what is stored of a picture."""
    return Call("GET", _at(id), _item, {"collection": collection})


def update(
    id: str,  # noqa: A002
    caption: str | Absent | None,
    metadata: Mapping[str, Any] | Absent | None,
    collection: str | None,
) -> Call[Item]:
    """Change what is said of a picture, by a merge patch."""
    said = {"caption": caption, "metadata": metadata}
    body = {name: value for name, value in said.items() if not isinstance(value, Absent)}
    return Call("PATCH", _at(id), _item, {"collection": collection}, body)


def delete(id: str, collection: str | None) -> Call[None]:  # noqa: A002
    """Forget a picture; a second time there is none."""
    return Call("DELETE", _at(id), lambda _: None, {"collection": collection}, safety="once")


def delete_many(ids: Sequence[str], collection: str | None) -> Call[list[Outcome]]:
    """Forget pictures, each as if it were alone."""
    body, params = {"ids": list(ids)}, {"collection": collection}
    return Call("POST", "/v1/items/delete", _outcomes, params, body, safety="once")


def _parts(
    things: Iterable[Thing], most: int, weigh: Callable[[Thing], int] = lambda _: 0
) -> Iterator[list[Thing]]:
    """Divide things into lists of so many, and of :data:`MOST_BYTES` unless one alone is more."""
    part: list[Thing] = []
    weight = 0
    for thing in things:
        more = weigh(thing)
        if part and (len(part) == most or weight + more > MOST_BYTES):
            yield part
            part, weight = [], 0
        part.append(thing)
        weight += more
    if part:
        yield part


def _embed(
    inputs: Sequence[str] | Sequence[Mapping[str, str]], model: str | None, dimensions: int | None
) -> Call[list[list[float]]]:
    """Ask for rows; in base64, which is a third of the bytes and no digit less."""
    body = {"input": inputs, "encoding_format": "base64", "model": model, "dimensions": dimensions}
    return Call("POST", "/v1/embeddings", _rows, body=body)


def _said(item: NewItem) -> dict[str, Any]:
    return {name: value for name, value in item.items() if value is not None}


def _in_json(item: NewItem) -> dict[str, Any]:
    said = _said(item)
    return said if "image" not in said else {**said, "image": _base64(item["image"])}


def _size_of(item: Mapping[str, Any]) -> int:
    """Give how many bytes an item is in JSON, without writing its picture once more."""
    said = {name: value for name, value in item.items() if name != "image"}
    return len(json.dumps(said)) + len(item.get("image", ""))


def _at(image_id: str) -> str:
    """Say where an item is, so that no part of its id is taken for a step on the way there."""
    is_way = any(part in ("", ".", "..") for part in image_id.split("/"))
    try:
        name = quote(image_id, safe="" if is_way else "/")
    except UnicodeEncodeError as error:
        raise unwritable(error) from error
    # nothing is quoted in these two, and httpx would go up a folder for them
    return f"/v1/items/{name.replace('.', '%2E') if name in ('.', '..') else name}"


def _answer(response: httpx.Response) -> Answer:
    return read(Answer, response.json())


def _item(response: httpx.Response) -> Item:
    return read(Item, response.json())


def _outcomes(response: httpx.Response) -> list[Outcome]:
    return read_all(Outcome, response.json()["items"])


def _content(response: httpx.Response) -> bytes:
    return response.content


def _rows(response: httpx.Response) -> list[list[float]]:
    rows = []
    for one in response.json()["data"]:
        row = array("f", base64.b64decode(one["embedding"]))
        if sys.byteorder == "big":
            row.byteswap()
        rows.append(row.tolist())
    return rows


def _bytes(picture: Picture) -> bytes:
    return picture if isinstance(picture, bytes) else Path(picture).read_bytes()


def _base64(picture: Picture) -> str:
    return base64.b64encode(_bytes(picture)).decode()


def _named(picture: Picture) -> tuple[str, bytes]:
    """Give a picture as part of a form; never where on this machine it lies."""
    if isinstance(picture, bytes):
        return "picture", picture
    name = Path(picture).name.encode("utf-8", "replace")  # a file's may be no text at all
    return name.decode(), _bytes(picture)
