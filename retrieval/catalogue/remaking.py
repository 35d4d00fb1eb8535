"""The text index made anew, from what the catalogue says: nothing is encoded."""

from pathlib import Path

from retrieval.catalogue.catalogue import Catalogue
from retrieval.catalogue.followers import WORDS, remake
from retrieval.catalogue.lock import IndexLock
from retrieval.catalogue.segmentation import Settings, check_user_words
from retrieval.catalogue.words import store_settings

__all__ = ["remake_words"]


def remake_words(index_dir: Path, user_words: str | None = None) -> int:
    """Cut all texts of an index anew, by what is installed now.

    Searches by words go on meanwhile; whatever ends it halfway, all is as it was.

    Args:
        index_dir: Folder of the index.
        user_words: Words that jieba is to know from now on, a line each; those that the index has
            if not given.

    Returns:
        Of how many pictures.

    Raises:
        RetrievalError: If a line is no word of jieba's form.
        StorageError: If the disk is full or failing.
        IndexNotFoundError: If there is no index.
        IndexLockedError: If another process is writing to it.
    """
    words = None if user_words is None else check_user_words(user_words)
    Catalogue.open(index_dir).close()  # no lock is made where there is no index
    with IndexLock(index_dir), Catalogue.open_for_writing(index_dir) as catalogue:
        before = catalogue.words.settings or Settings.usual()
        usual = Settings.usual()
        kept = before.user_words if words is None else words
        with catalogue.transaction():
            store_settings(catalogue.connection.db, Settings(usual.simplify, kept))
            remake(catalogue.connection.db, [WORDS])
        return len(catalogue)
