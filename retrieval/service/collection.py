"""One index that a service serves, and what works on it."""

import os
import threading
from typing import Final

from retrieval.protocols import Encoder
from retrieval.search import Searcher
from retrieval.service.asked import Pages, Search, answer_searches
from retrieval.service.batching import Batcher
from retrieval.service.embedder import Embedder
from retrieval.service.embedding import Classify, CountTokens
from retrieval.service.measures import Measures
from retrieval.service.refresher import Refresher
from retrieval.service.settings import Settings
from retrieval.service.suggestions import Suggestions
from retrieval.service.thumbnails import ThumbnailCache
from retrieval.service.writing import Writing
from retrieval.stores import Location

__all__ = ["Collection"]

KEPT_RANKINGS: Final = 256
THUMBNAIL_CACHE_BYTES: Final = 32 * 1024 * 1024
_PICTURES: Final = 8  # searches with pictures at once; each holds all that it brought


class Collection:
    """An index under the name that requests say.

    Args:
        name: As ``?collection=`` has it.
        searcher: What answers.
        settings: Of the service.
        measures: Of the service.
        encoder: The model of the index; without it, nothing is embedded or added.
        index_dir: Where the index is; without it, nothing is added.
        runtime: What computes queries, in words.
        model: Name of the model.
        count_tokens: Says how many tokens of texts the model reads.
        classify: Says what labels texts have, by the model's heads.
        owned: Whether closing it closes the searcher.
    """

    def __init__(
        self,
        name: str,
        searcher: Searcher,
        settings: Settings,
        measures: Measures,
        *,
        encoder: Encoder | None = None,
        index_dir: Location | None = None,
        runtime: str | None = None,
        model: str | None = None,
        count_tokens: CountTokens | None = None,
        classify: Classify | None = None,
        owned: bool = False,
    ) -> None:
        self._owned = owned
        self.name, self.searcher, self.encoder = name, searcher, encoder
        self.index_dir, self.runtime, self.model = index_dir, runtime, model
        self.refresher = Refresher(searcher)
        self.pages = Pages(KEPT_RANKINGS)
        self.thumbnails = ThumbnailCache(THUMBNAIL_CACHE_BYTES)
        self.drawing = threading.BoundedSemaphore(os.cpu_count() or 1)
        """Held while a thumbnail is drawn: as many at once as there are cores."""
        self.searches: Batcher[Search, bytes] = Batcher(
            lambda asked: answer_searches(searcher, self.pages, asked),
            most=settings.batch,
            waiting=settings.waiting,
            patience_s=settings.patience_s,
            observe=measures.of_batches("search"),
        )
        measures.watch("search", name, self.searches.load, searcher.cache_info)
        self.pictures: Batcher[Search, bytes] = Batcher(
            lambda asked: answer_searches(searcher, self.pages, asked),
            most=_PICTURES,
            waiting=max(_PICTURES, settings.waiting // _PICTURES),
            patience_s=settings.timeout_s / 2,
            observe=measures.of_batches("picture"),
        )
        """Searches that bring pictures: those of words do not wait until these are decoded."""
        measures.watch("picture", name, self.pictures.load)
        self.writing: Writing | None = None
        if encoder is not None and index_dir is not None:
            self.writing = Writing(
                index_dir, encoder, lambda: searcher.refresh(at_once=True), settings, measures
            )
            measures.watch("write", name, self.writing.writes.load)
        self.embedder = Embedder(
            *(name, settings, measures),
            encoder=encoder,
            count_tokens=count_tokens,
            classify=classify,
        )
        self.suggestions = Suggestions(index_dir, settings.suggestions, lambda: len(searcher))

    def start(self) -> None:
        """Begin to look for what is indexed meanwhile; does nothing where that has begun."""
        self.refresher.start()

    def close(self) -> None:
        """End its threads once they have done what was accepted."""
        self.searches.close()
        self.pictures.close()
        if self.writing is not None:
            self.writing.close()
        self.embedder.close()
        self.suggestions.close()
        self.refresher.stop()
        if self._owned:
            self.searcher.close()
