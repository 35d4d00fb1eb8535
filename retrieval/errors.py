"""Everything retrieval raises on purpose.

One tree, so a caller may catch the root or the leaf::

    RetrievalError
    ├── AddressError            the service cannot listen at this host and port
    ├── IndexNotFoundError      no index in this folder yet
    ├── IndexMismatchError      the index was built by another model
    ├── IndexLockedError        another process is indexing into this folder
    ├── CorruptIndexError       a stored file is damaged or from another version
    ├── StorageError            the disk is full, or keeps the index from being written
    │   └── StoreUnavailableError   the server that keeps the index cannot be reached now
    ├── StoreAddressError       an index's address names no server or collection that there is
    ├── StoreAccessError        the server that keeps the index refuses who asks, or is too old
    ├── FolderError             the folder to index is missing, empty or unusable
    ├── ItemError               a picture to add, or what is said of it, cannot be used
    ├── ItemNotFoundError       no picture has this id
    ├── KeyFileError            the file of the service's keys, or a change to it, cannot be used
    ├── EncoderError            the encoder broke its promise (shape, unit rows, finite)
    ├── MissingPackageError     an optional package is not installed
    └── QueryError              the query or its settings cannot be used
        ├── QueryPictureError   a picture to search with cannot be read
        └── RankingGoneError    the index that a ranking is of was built anew
"""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "AddressError",
    "CorruptIndexError",
    "EncoderError",
    "FolderError",
    "IndexLockedError",
    "IndexMismatchError",
    "IndexNotFoundError",
    "ItemError",
    "ItemNotFoundError",
    "KeyFileError",
    "MissingPackageError",
    "QueryError",
    "QueryPictureError",
    "RankingGoneError",
    "RetrievalError",
    "StorageError",
    "StoreAccessError",
    "StoreAddressError",
    "StoreUnavailableError",
    "needs",
]


@contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Import optional packages: a missing one is an error that says how to install it.

    Args:
        extra: Of clip-text, which brings them.
        purpose: What they are for, in words that follow "for".

    Raises:
        MissingPackageError: If one is not installed; a missing module of ours stays what it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module == __package__ or isinstance(error, MissingPackageError):
            raise
        raise MissingPackageError(
            f"expected the package {module} for {purpose}, got none. "
            f"Run: pip install 'clip-text[{extra}]'.",
            name=error.name,
        ) from error


class RetrievalError(Exception):
    """Root of the tree; every message reads on one line."""


class AddressError(RetrievalError):
    """The host is none of this machine's, or its port is taken or may not be had."""


class IndexNotFoundError(RetrievalError):
    """There is no index in this folder."""


class IndexMismatchError(RetrievalError):
    """The index holds features of another model, so its scores would mean nothing."""


class IndexLockedError(RetrievalError):
    """Another process is writing to this index."""


class CorruptIndexError(RetrievalError):
    """A stored file is damaged, or was written by another version of the format."""


class StorageError(RetrievalError):
    """The index cannot be read or written now: a full disk, no permission, another program."""


class StoreUnavailableError(StorageError):
    """The server that keeps the index does not answer now; what was acknowledged is kept there."""


class StoreAddressError(RetrievalError, ValueError):
    """The address of an index names no server, or no collection, that there can be."""


class StoreAccessError(RetrievalError):
    """The server that keeps the index refuses the credentials, or cannot do what is needed."""


class FolderError(RetrievalError):
    """The folder to index is missing, is no folder, or lost all its pictures at once."""


class ItemError(RetrievalError, ValueError):
    """A picture to add, its id, its feature or what is said of it cannot be used."""


class ItemNotFoundError(RetrievalError, LookupError):
    """No picture in the index has this id."""


class KeyFileError(RetrievalError):
    """The file of the service's keys cannot be read, or has no such key, or has it already."""


class EncoderError(RetrievalError):
    """The encoder returned something other than finite unit rows of its embed_dim."""


class MissingPackageError(RetrievalError, ModuleNotFoundError):
    """An optional package is not installed; the message has the command that installs it."""


class QueryError(RetrievalError, ValueError):
    """The query is empty, of the wrong type, or its settings are out of range."""


class QueryPictureError(QueryError):
    """A picture to search with is none, is damaged, or cannot be decoded here."""


class RankingGoneError(QueryError):
    """A ranking's rows are other pictures by now, so its pages would mix the two."""
