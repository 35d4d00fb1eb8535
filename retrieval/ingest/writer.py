"""An index written to picture by picture: what a call has acknowledged stays."""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

from retrieval.catalogue import CATALOGUE_NAME, StoredFeature
from retrieval.catalogue.store import Store
from retrieval.errors import IndexNotFoundError, ItemError
from retrieval.features import check_encoded
from retrieval.ingest.examine import EXHAUSTED, check_at_rest, hash_bytes, hash_file, reason_of
from retrieval.ingest.items import (
    Item,
    check_caption,
    check_feature,
    item_picture,
    metadata_text,
    resolve,
)
from retrieval.pictures import shown_size
from retrieval.precision import precision_of
from retrieval.protocols import Encoder, Feature, Pixels
from retrieval.records import Picture, Record, displayed, kept_mtime
from retrieval.stores import Location, StoreAddress, open_for_writing
from retrieval.stores.opening import Sealer

__all__ = ["UNCHANGED", "IndexWriter", "Unchanged"]

_BATCH = 64  # pictures per call of the encoder


class Unchanged(Enum):
    """What is passed for a thing that is to stay as it is, where None means that there is none."""

    UNCHANGED = auto()


UNCHANGED: Final = Unchanged.UNCHANGED


@dataclass(slots=True)
class _Prepared:
    """An item that was looked at.

    Args:
        picture: What is stored of it.
        feature: Its row, [embed_dim], if it was given or its content is known.
        pixels: The decoded picture that has to be encoded otherwise.
    """

    picture: Picture
    feature: Feature | StoredFeature | None
    pixels: Pixels | None = None


class IndexWriter:
    """Writes pictures from elsewhere than a folder into an index, by ids of the caller's own.

    In a folder it holds the one writer's lock from :meth:`open` to :meth:`close`; on a server there
    may be several. Others may search meanwhile, each on one consistent state. Each call is one
    transaction: when it returns, what it did is on the disk, and survives the end of the process
    at any instant and a power cut; if it raises, it did nothing. Safe to use from several threads,
    one call after another.

    Args:
        location: Where the index is.
        catalogue: Its pictures, open for writing.
        sealer: Is told how much has changed.
        encoder: Turns pictures into features; None where all features come finished.
        held: What :meth:`close` releases.
    """

    def __init__(
        self,
        location: Location,
        catalogue: Store,
        sealer: Sealer,
        encoder: Encoder | None,
        held: ExitStack,
    ) -> None:
        self.location: Final = location
        """Where the index is."""
        self._catalogue = catalogue
        self._sealer = sealer
        self._encoder = encoder
        self._held = held
        self._calls = threading.Lock()

    @classmethod
    def open(
        cls,
        index_dir: Location,
        encoder: Encoder | None = None,
        *,
        fingerprint: str | None = None,
        embed_dim: int | None = None,
        make: bool = True,
    ) -> Self:
        """Open an index for writing; one that is not there is made, where that is allowed.

        Args:
            index_dir: Where the index is, a folder or on a server; pictures of folders may be in it
                as well.
            encoder: The model of the index. Without it, only items with finished features can be
                added.
            fingerprint: Of the model that made the features, where there is no encoder; that of
                the index if not given.
            embed_dim: Width of the features, where there is no encoder; that of the index if not
                given.
            make: Whether one that is not there is made.

        Raises:
            IndexLockedError: If another process is writing to the index.
            IndexNotFoundError: If there is no index, and none is to be made, or neither encoder
                nor fingerprint and embed_dim say of which model it shall be.
            IndexMismatchError: If the index is of another model.
        """
        if encoder is not None:
            fingerprint, embed_dim = encoder.fingerprint, encoder.embed_dim
        named = fingerprint is not None and embed_dim is not None
        if not (named or isinstance(index_dir, StoreAddress) or _is_there(index_dir)):
            raise IndexNotFoundError(
                f"expected an index in {index_dir}, got none. Name an encoder, or fingerprint "
                "and embed_dim of the model whose features it shall hold."
            )
        held = ExitStack()
        try:
            catalogue, sealer = held.enter_context(
                open_for_writing(
                    index_dir,
                    fingerprint=fingerprint if make else None,
                    embed_dim=embed_dim if make else None,
                    only_if_written=True,
                )
            )
            if not make and fingerprint is not None and embed_dim is not None:
                catalogue.check_model(fingerprint=fingerprint, embed_dim=embed_dim)
            return cls(index_dir, catalogue, sealer, encoder, held)
        except BaseException:
            held.close()
            raise

    def __len__(self) -> int:
        """Count all pictures of the index, those of folders included."""
        return len(self._catalogue)

    def __iter__(self) -> Iterator[Record]:
        """Go through all pictures of the index in the order of their rows."""
        return iter(self._catalogue)

    def __contains__(self, image_id: str) -> bool:
        return self._catalogue.find_item(image_id) is not None

    def find(self, image_id: str) -> Record | None:
        """Give what is stored of an item; None if there is none of this id."""
        return self._catalogue.find_item(image_id)

    def find_all(self, image_id: str) -> list[Record]:
        """Give the pictures that an id may mean: the item; else those of folders, ten at most."""
        return self._catalogue.find_id(image_id)

    def paths_of(self, content_hash: bytes) -> set[bytes]:
        """Give the files in which pictures with this content are."""
        return self._catalogue.paths_of(content_hash)

    def add(
        self,
        image_id: str,
        *,
        path: str | os.PathLike[str] | None = None,
        data: bytes | None = None,
        feature: Feature | None = None,
        caption: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a picture, or put it in the place of the one that was added under its id.

        Args:
            image_id: The caller's own id.
            path: Where the picture lies.
            data: What is in its file; not kept.
            feature: Its unit row, [embed_dim], if it is finished.
            caption: What the picture shows, in words.
            metadata: Anything else, as JSON has it.

        Returns:
            The picture's row, which it keeps as long as it is there.

        Raises:
            ItemError: If any of it cannot be used.
            EncoderError: If the encoder returns no unit row.
            StorageError: If the disk is full or failing.
        """
        item = Item(image_id, path, data, feature, caption, metadata or {})
        return self.add_many([item])[0]

    def add_many(self, items: Iterable[Item]) -> list[int]:
        """Add pictures as :meth:`add` does, all of them or none.

        Content that the index has already is not encoded again.

        Args:
            items: Pictures with different ids. What is stored of them is held in memory until
                the end of the call, about 2 KB each.

        Returns:
            Their rows.

        Raises:
            ItemError: If one of them cannot be used, or two have one id.
            EncoderError: If the encoder returns no unit rows.
            StorageError: If the disk is full or failing.
        """
        with self._calls:
            precisions: set[str | None] = set()
            prepared = list(self._prepared(items, precisions))
            ids = {picture.image_id for picture, _ in prepared}
            if len(ids) < len(prepared):
                raise ItemError(
                    f"expected different ids, got {len(prepared)} items with {len(ids)}. Add an "
                    "item once; adding it again later replaces it."
                )
            with self._catalogue.transaction():
                if precisions:
                    self._catalogue.add_precision(None if None in precisions else precisions.pop())
                self._catalogue.expect_items([picture.image_id for picture, _ in prepared])
                rows = [self._store(picture, feature) for picture, feature in prepared]
            self._sealer.note(len(rows))
            return rows

    def update(
        self,
        image_id: str,
        *,
        caption: str | Unchanged | None = UNCHANGED,
        metadata: Mapping[str, Any] | Unchanged = UNCHANGED,
    ) -> None:
        """Change what is said of an item; its feature and row stay.

        Args:
            image_id: The id that it was added under.
            caption: The new one; None takes it away.
            metadata: What stands in the place of all that was there.

        Raises:
            ItemNotFoundError: If no item has this id.
            ItemError: If it is the id of a folder's picture, or the new ones cannot be used.
        """
        with self._calls, self._catalogue.transaction():
            (record,) = resolve(self._catalogue, [image_id])
            picture = record.picture
            if picture.root is not None:
                raise ItemError(
                    f"expected the id of an item, got {image_id!r}, a picture of the folder "
                    f"{displayed(picture.root)}. Change its line in metadata.jsonl, and index the "
                    "folder again."
                )
            if not isinstance(caption, Unchanged):
                picture = picture._replace(caption=check_caption(caption))
            if not isinstance(metadata, Unchanged):
                picture = picture._replace(metadata=metadata_text(metadata))
            self._catalogue.describe(record.row, picture)

    def delete(self, ids: Iterable[str]) -> None:
        """Forget pictures.

        Args:
            ids: Those that they were added under; or paths of pictures below their folders, which
                come back if the folder is indexed again.

        Raises:
            ItemNotFoundError: If no picture has one of the ids; none is forgotten then.
            ItemError: If one of the ids is that of several pictures.
        """
        with self._calls:
            with self._catalogue.transaction():
                gone = [record.row for record in resolve(self._catalogue, ids)]
                self._catalogue.remove(gone)
            self._sealer.note(len(gone))

    def close(self) -> None:
        """Seal the vectors anew where that is due, and let the next one write; twice is once."""
        with self._calls:
            self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _store(self, picture: Picture, feature: Feature | StoredFeature) -> int:
        before = self._catalogue.find_item(picture.image_id)
        if before is None:
            return self._catalogue.add(picture, feature)
        self._catalogue.replace(before.row, picture, feature)
        return before.row

    def _prepared(
        self, items: Iterable[Item], precisions: set[str | None]
    ) -> Iterator[tuple[Picture, Feature | StoredFeature]]:
        """Look at items and encode what is new, a batch at a time.

        Args:
            items: As they were given.
            precisions: Gets what features that the index has not yet were computed in; None for
                those that came finished, of which nobody says it.
        """
        rest = iter(items)
        while batch := list(islice(rest, _BATCH)):
            looked_at = [self._look_at(item) for item in batch]
            new = {
                one.picture.content_hash: one.pixels for one in looked_at if one.pixels is not None
            }
            rows = dict(zip(new, self._encode(list(new.values())), strict=True))
            if new and self._encoder:
                precisions.add(precision_of(self._encoder, "image"))
            if any(item.feature is not None for item in batch):
                precisions.add(None)
            for one in looked_at:
                feature = one.feature
                yield one.picture, rows[one.picture.content_hash] if feature is None else feature

    def _look_at(self, item: Item) -> _Prepared:
        picture = item_picture(item)
        if item.feature is not None:
            row = check_feature(item.feature, item.id, self._catalogue.embed_dim)
            if isinstance(item.data, bytes):
                content_hash = hash_bytes(item.data)
                picture = picture._replace(size=len(item.data), content_hash=content_hash)
            return _Prepared(picture, row)
        try:
            return self._read(picture, item)
        except (OSError, ValueError, ImportError) as error:
            if isinstance(error, ItemError) or getattr(error, "errno", None) in EXHAUSTED:
                raise
            raise ItemError(
                f"expected a picture for {item.id!r}, got: {reason_of(error)} Nothing of this "
                "call was stored."
            ) from error

    def _read(self, picture: Picture, item: Item) -> _Prepared:
        """Hash an item's content and, if it is new, decode it."""
        load = item.load()
        if load is None:
            raise ItemError(
                f"expected a path, data or a feature for {item.id!r}, got none. Give one of them."
            )
        source = load()
        if isinstance(source, bytes):
            picture = picture._replace(size=len(source), content_hash=hash_bytes(source))
        else:
            status = source.stat()  # before it is read, as for files of folders
            picture = picture._replace(
                size=status.st_size, mtime_ns=kept_mtime(status), content_hash=hash_file(source)
            )
        assert picture.content_hash is not None
        if known := self._catalogue.find_content(picture.content_hash):
            record, feature = known
            like = record.picture
            return _Prepared(picture._replace(width=like.width, height=like.height), feature)
        if self._encoder is None:
            raise ItemError(
                f"expected a feature for {item.id!r}, got a picture that nobody can encode. Open "
                "the writer with the index's encoder."
            )
        pixels = self._encoder.load_pixels(source)
        width, height = shown_size(source) or (None, None)
        if isinstance(source, Path):
            check_at_rest(source, picture.size, picture.mtime_ns)
        return _Prepared(picture._replace(width=width, height=height), None, pixels)

    def _encode(self, pixels: list[Pixels]) -> list[Feature]:
        if not pixels:
            return []
        assert self._encoder is not None
        rows = self._encoder.encode_pixels(pixels)
        remedy = "The encoder is at fault; nothing of this call was stored."
        check_encoded(rows, len(pixels), self._catalogue.embed_dim, remedy)
        return list(rows)


def _is_there(index_dir: Path) -> bool:
    return (index_dir / CATALOGUE_NAME).is_file()
