"""What a searcher searches, at its present state: a folder that others write to, or a server."""

import logging
import time
from pathlib import Path
from typing import Protocol

from retrieval.catalogue import Catalogue
from retrieval.catalogue.store import Among
from retrieval.errors import IndexMismatchError, IndexNotFoundError
from retrieval.index import SegmentedIndex, follow, open_index
from retrieval.protocols import Encoder, Features, Rows, Scores
from retrieval.search.relevance import Calibration, Judge, calibration_of
from retrieval.search.state import State
from retrieval.stores import Location, StoreAddress, connect
from retrieval.stores.opening import RemoteStore

__all__ = ["Follower", "follow_index"]

_LOG = logging.getLogger(__name__)

# Servers count a hundred million rows in seconds.
_CHEAP_SECONDS = 0.1
_REST_FACTOR = 50.0


class Follower(Protocol):
    """Opens an index, and looks again when it is asked to; by one thread at a time."""

    def open(self) -> State:
        """Read the state that there is when a searcher is opened."""
        ...

    def latest(self, now: State, *, at_once: bool = False) -> State | None:
        """Read the state that there is now; None where it is the one that is given.

        Args:
            now: The state that is searched.
            at_once: Leave nothing for later that takes long.
        """
        ...

    def close(self) -> None:
        """Release what it opened, but for the state that was given last."""
        ...


def follow_index(location: Location, encoder: Encoder, calibration: Calibration | None) -> Follower:
    """Choose what follows an index by where it is.

    Args:
        location: Of the index.
        encoder: The model that it must be of.
        calibration: Stands in the place of the index's own.
    """
    if isinstance(location, StoreAddress):
        return _Server(location, encoder, calibration)
    return _Folder(location, encoder, calibration)


class _Folder:
    """An index in a folder: what is read here is read over a connection of its own."""

    def __init__(self, index_dir: Path, encoder: Encoder, calibration: Calibration | None) -> None:
        self._index_dir = index_dir
        self._encoder = encoder
        self._calibration = calibration
        self._retired: list[Catalogue] = []
        self._searched: Catalogue | None = None
        self._feed: Catalogue | None = None
        self._has_told = False

    def open(self) -> State:
        catalogue = self._open_catalogue()
        try:
            if self._calibration is not None:
                self._calibration.check_model(catalogue.fingerprint)
            index, generation = open_index(self._index_dir, catalogue)
            state = State(catalogue, index, generation, *self._judging(catalogue))
        except BaseException:
            catalogue.close()
            raise
        self._searched = catalogue
        return state

    def latest(self, now: State, *, at_once: bool = False) -> State | None:  # noqa: ARG002
        searched = self._searched
        assert searched is not None
        try:
            feed = self._feed = self._follow()
        except IndexNotFoundError:
            return None  # deleted, perhaps to be built anew: serve what we have
        except IndexMismatchError:
            if self._is_left_behind(now):
                return None
            raise
        is_past = feed.generation < now.generation  # put back from a copy
        if searched.is_replaced or feed.uid != searched.uid or is_past:
            return self._begin_anew(feed)
        assert isinstance(now.index, SegmentedIndex)
        index, generation = follow(self._index_dir, now.index, now.generation, feed)
        calibration = self._calibration or calibration_of(feed)
        if index is now.index and calibration == now.calibration:
            return None
        return State(searched, index, generation, calibration, Judge.of(feed, calibration))

    def close(self) -> None:
        for catalogue in (*self._retired, self._searched, self._feed):
            if catalogue is not None:
                catalogue.close()

    def _judging(self, catalogue: Catalogue) -> tuple[Calibration | None, Judge | None]:
        """Find the calibration, and draw the background of the pictures that are there now."""
        calibration = self._calibration or calibration_of(catalogue)
        return calibration, Judge.of(catalogue, calibration)

    def _follow(self) -> Catalogue:
        """Give the connection that refreshes read over, to the file that is there now."""
        feed, self._feed = self._feed, None
        if feed is not None and not feed.is_replaced:
            return feed
        if feed is not None:
            feed.close()
        return self._open_catalogue()

    def _is_left_behind(self, now: State) -> bool:
        """Say whether the index was moved to another model, and has the same pictures still.

        What is searched is right for as long as that is so: the features are held here, and rows
        and all that is said of them are as they were.
        """
        assert self._searched is not None
        with Catalogue.open(self._index_dir) as catalogue:
            has_moved = catalogue.has_moved_on_from(self._searched.uid, now.generation)
            if has_moved and not self._has_told:
                _LOG.warning(
                    "the index in %s was moved to the model with fingerprint %s. Searches go on "
                    "by the features of before until it is written to: open it anew by that model.",
                    *(self._index_dir, catalogue.fingerprint),
                )
                self._has_told = True
        return has_moved

    def _begin_anew(self, feed: Catalogue) -> State | None:
        """Read the state of another catalogue than the one we have; None if that, too, is gone."""
        catalogue = self._open_catalogue()
        try:
            if catalogue.uid != feed.uid:
                catalogue.close()
                return None
            index, generation = open_index(self._index_dir, feed)
            state = State(catalogue, index, generation, *self._judging(feed))
        except BaseException:
            catalogue.close()
            raise
        assert self._searched is not None
        self._retired.append(self._searched)  # searches at work may still read it
        self._searched = catalogue
        return state

    def _open_catalogue(self) -> Catalogue:
        catalogue = Catalogue.open(self._index_dir)
        try:
            catalogue.check_model(
                fingerprint=self._encoder.fingerprint, embed_dim=self._encoder.embed_dim
            )
        except BaseException:
            catalogue.close()
            raise
        return catalogue


class _Server:
    """An index on a server, which finds what was written the moment before by itself.

    Only another collection in its place, another calibration and the number of pictures are to be
    looked for.
    """

    def __init__(
        self, address: StoreAddress, encoder: Encoder, calibration: Calibration | None
    ) -> None:
        self._address = address
        self._encoder = encoder
        self._calibration = calibration
        self._opened: list[RemoteStore] = []
        self._name = ""

    def open(self) -> State:
        store = connect(self._address)
        try:
            state = self._state(store)
        except BaseException:
            store.close()
            raise
        self._opened.append(store)
        return state

    def latest(self, now: State, *, at_once: bool = False) -> State | None:
        store = self._opened[-1]
        name = store.state()
        if name == self._name:
            assert isinstance(now.index, _Served)
            now.index.look(at_once=at_once)
            return None
        return self.open()  # searches at work may still read the one before

    def close(self) -> None:
        for store in self._opened:
            store.close()

    def _state(self, store: RemoteStore) -> State:
        name = store.state()
        encoder = self._encoder
        store.check_model(fingerprint=encoder.fingerprint, embed_dim=encoder.embed_dim)
        if self._calibration is not None:
            self._calibration.check_model(store.fingerprint)
        calibration = self._calibration or calibration_of(store)
        judge = Judge.of(store, calibration)
        self._name = name
        return State(store, _Served(store), store.generation, calibration, judge, is_live=True)


class _Served:
    """The vectors of a store, whose number is known without asking.

    Args:
        store: Has them.
    """

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self._count = 0
        self._rest_until = 0.0
        self.look()

    def look(self, *, at_once: bool = False) -> None:
        """Count the pictures; where that takes long, a small part of the time at most."""
        started = time.monotonic()
        if started < self._rest_until and not at_once:
            return
        self._count = len(self._store)
        took = time.monotonic() - started
        self._rest_until = started + took + (took * _REST_FACTOR if took > _CHEAP_SECONDS else 0.0)

    @property
    def embed_dim(self) -> int:
        return self._store.embed_dim

    def __len__(self) -> int:
        return self._count

    def search(self, features: Features, k: int, among: Among | None = None) -> tuple[Scores, Rows]:
        return self._store.search(features, k, among)
