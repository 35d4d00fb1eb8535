"""One index that a service serves, and what works on it."""

import os
import threading
from pathlib import Path
from typing import Final

from retrieval.protocols import Encoder
from retrieval.search import Searcher
from retrieval.service.asked import Pages, Search, answer_searches
from retrieval.service.batching import Batcher
from retrieval.service.measures import Measures
from retrieval.service.refresher import Refresher
from retrieval.service.settings import Settings
from retrieval.service.thumbnails import ThumbnailCache

__all__ = ["Collection"]

KEPT_RANKINGS: Final = 256
THUMBNAIL_CACHE_BYTES: Final = 32 * 1024 * 1024


class Collection:
    """An index under the name that requests say.

    Args:
        name: As ``?collection=`` has it.
        searcher: What answers.
        settings: Of the service.
        measures: Of the service.
        encoder: The model of the index; without it, nothing is embedded or added.
        index_dir: Folder of the index; without it, nothing is added.
        runtime: What computes queries, in words.
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
        index_dir: Path | None = None,
        runtime: str | None = None,
        owned: bool = False,
    ) -> None:
        self._owned = owned
        self.name, self.searcher, self.encoder = name, searcher, encoder
        self.index_dir, self.runtime = index_dir, runtime
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

    def start(self) -> None:
        """Begin to look for what is indexed meanwhile; does nothing where that has begun."""
        self.refresher.start()

    def close(self) -> None:
        """End its threads once they have done what was accepted."""
        self.searches.close()
        self.refresher.stop()
        if self._owned:
            self.searcher.close()
