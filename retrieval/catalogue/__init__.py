"""What is indexed, in SQLite: the source of truth, and the lock of its one writer."""

from retrieval.catalogue.catalogue import Catalogue
from retrieval.catalogue.lock import IndexLock

__all__ = ["Catalogue", "IndexLock"]
