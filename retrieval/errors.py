"""Everything retrieval raises on purpose.

One tree, so a caller may catch the root or the leaf::

    RetrievalError
    ├── IndexNotFoundError      no index in this folder yet
    ├── IndexMismatchError      the index was built by another model
    ├── IndexLockedError        another process is indexing into this folder
    ├── CorruptIndexError       a stored file is damaged or from another version
    ├── FolderError             the folder to index is missing, empty or unusable
    ├── EncoderError            the encoder broke its promise (shape, unit rows, finite)
    ├── MissingPackageError     an optional package is not installed
    └── QueryError              the query or its settings cannot be used
"""

__all__ = [
    "CorruptIndexError",
    "EncoderError",
    "FolderError",
    "IndexLockedError",
    "IndexMismatchError",
    "IndexNotFoundError",
    "MissingPackageError",
    "QueryError",
    "RetrievalError",
]


class RetrievalError(Exception):
    """Root of the tree; every message reads on one line."""


class IndexNotFoundError(RetrievalError):
    """There is no index in this folder."""


class IndexMismatchError(RetrievalError):
    """The index holds features of another model, so its scores would mean nothing."""


class IndexLockedError(RetrievalError):
    """Another process is writing to this index."""


class CorruptIndexError(RetrievalError):
    """A stored file is damaged, or was written by another version of the format."""


class FolderError(RetrievalError):
    """The folder to index is missing, is no folder, or lost all its pictures at once."""


class EncoderError(RetrievalError):
    """The encoder returned something other than finite unit rows of its embed_dim."""


class MissingPackageError(RetrievalError, ModuleNotFoundError):
    """An optional package is not installed; the message has the command that installs it."""


class QueryError(RetrievalError, ValueError):
    """The query is empty, of the wrong type, or its settings are out of range."""
