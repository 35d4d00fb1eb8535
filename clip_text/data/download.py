"""Files of the web, downloaded once."""

import logging
import re
import shutil
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

from platformdirs import user_cache_path

from clip_text.errors import DataError
from clip_text.storage import digest, keep

TIMEOUT = 30.0
"""Seconds without an answer after which a server counts as gone."""

_log = logging.getLogger(__name__)


def downloaded(url: str, cache: Path | None = None) -> Path:
    """Download a file, unless it was before; a broken-off download leaves nothing behind.

    Args:
        url: ``http://`` or ``https://``.
        cache: Where downloads are kept; the user's cache folder of clip-text if not given.

    Returns:
        The file. Its name begins with a digest of the URL, and ends as the URL does.

    Raises:
        DataError: If the server does not answer, refuses, or breaks off.
        StorageError: If the file cannot be written.
    """
    cache = cache or user_cache_path("clip-text") / "downloads"
    name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(url).path.rpartition("/")[2]))[-100:]
    path = cache / f"{digest(url)[:16]}-{name}"

    def download(partial: Path) -> None:
        _log.info("downloading %s to %s", url, path)
        try:
            # only http and https come here: shards.is_url says so
            with (
                urllib.request.urlopen(url, timeout=TIMEOUT) as answer,  # noqa: S310
                partial.open("wb") as file,
            ):
                expected = answer.headers.get("Content-Length")
                shutil.copyfileobj(answer, file, 2**20)
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            raise _failed(url, f"{type(error).__name__}: {error}") from error
        received = partial.stat().st_size
        if expected is not None and received != int(expected):
            raise _failed(url, f"{received:,} bytes of {int(expected):,}")

    return keep(path, url, download)


def _failed(url: str, what: str) -> DataError:
    return DataError(
        f"expected a file to download at {url}, got {what}. Check the address, or try again."
    )
