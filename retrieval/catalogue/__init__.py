"""What is indexed, in SQLite: the source of truth, and the lock of its one writer."""

from retrieval.catalogue.catalogue import CATALOGUE_NAME, Catalogue
from retrieval.catalogue.filters import Facet, Field
from retrieval.catalogue.halves import StoredFeature
from retrieval.catalogue.lock import IndexLock

__all__ = ["CATALOGUE_NAME", "Catalogue", "Facet", "Field", "IndexLock", "StoredFeature"]
