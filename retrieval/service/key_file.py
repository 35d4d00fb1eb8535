"""The file of the keys that callers of the service need: made, read, changed.

A key is 256 random bits, shown once; the file has its SHA-256. A slow hash is for what people
choose, so that trying out guesses costs: 2^256 keys cannot be tried at any speed, and a slow hash
at each request would only cost us. Who can read the file has no key by that, but could make a
session of the page, which may search: it is its owner's alone.
"""

import hashlib
import os
import re
import secrets
import tempfile
import tomllib
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from filelock import FileLock

from retrieval.errors import KeyFileError
from retrieval.records import displayed_text

__all__ = [
    "SCOPES",
    "Key",
    "KeyFile",
    "Scope",
    "add_key",
    "digest_of",
    "is_within",
    "read_keys",
    "revoke_key",
]

Scope = Literal["search", "write", "admin"]
"""What a key is good for."""

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
"""Each may do what those before it may."""

_PREFIX: Final = "ct_"  # by which a key that was left somewhere is recognised
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_HEAD: Final = """\
# Keys of clip-text serve; clip-text keys changes them. Theirs is the SHA-256 of a key, not the key.
"""


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key.

    Args:
        name: Who or what it was given to; stands in the log.
        scope: What it is good for.
        sha256: Of the key, in hexadecimal digits.
        created: When it was made.
        expires: When it ends; None for never.
    """

    name: str
    scope: Scope
    sha256: str
    created: datetime
    expires: datetime | None = None

    def is_over(self) -> bool:
        """Say whether it has ended."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What a file of keys says.

    Args:
        keys: In the order in which they were made.
        session_secret: What sessions of the page are sealed with, in hexadecimal digits.
    """

    keys: tuple[Key, ...]
    session_secret: str


def is_within(scope: Scope, given: Scope) -> bool:
    """Say whether a scope is part of the one that is given."""
    return SCOPES.index(scope) <= SCOPES.index(given)


def digest_of(secret: str) -> str:
    """Give the SHA-256 of a key, in hexadecimal digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(path: Path) -> KeyFile:
    """Read a file of keys.

    Raises:
        KeyFileError: If there is none, or it is damaged.
    """
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise KeyFileError(
            f"expected a file of keys at {_shown(path)}, got none. "
            "Make a key: clip-text keys create NAME --file FILE."
        ) from error
    except OSError as error:
        raise KeyFileError(
            f"expected a file of keys that can be read at {_shown(path)}, got: {error.strerror}. "
            "Let the service's account read it."
        ) from error
    except ValueError as error:  # no TOML, no UTF-8
        raise _damaged(path, "a file that is no TOML") from error
    entries, secret = said.get("keys", []), said.get("session_secret")
    if not (isinstance(entries, list) and isinstance(secret, str) and _DIGEST.fullmatch(secret)):
        raise _damaged(path, "a file without session_secret and a list of keys")
    return KeyFile(tuple(_read_key(path, each) for each in entries), secret)


def add_key(
    path: Path, name: str, scope: Scope, lasting: timedelta | None = None
) -> tuple[Key, str]:
    """Make a key, and the file if there is none yet.

    Args:
        path: The file.
        name: Of the key; letters, digits, ``.``, ``_`` and ``-``.
        scope: What it is to be good for.
        lasting: For how long; None for ever.

    Returns:
        What is kept of it, and the key itself, which is kept nowhere.

    Raises:
        KeyFileError: If the name is none, or taken, or the file cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        raise KeyFileError(
            "expected a name of up to 64 letters, digits, dots, _ and -, got "
            f"{displayed_text(name[:64])!r}. Choose another."
        )
    path = _real(path)
    with _locked(path):
        file = read_keys(path) if path.exists() else KeyFile((), secrets.token_hex(32))
        if any(key.name == name for key in file.keys):
            raise KeyFileError(
                f"expected a name that no key has, got {name}. "
                f"Choose another, or take that one away: clip-text keys revoke {name}."
            )
        secret = _PREFIX + secrets.token_urlsafe(32)
        now = datetime.now(UTC).replace(microsecond=0)
        ends = None if lasting is None else now + lasting
        key = Key(name, scope, digest_of(secret), now, ends)
        _write(path, replace(file, keys=(*file.keys, key)))
    return key, secret


def revoke_key(path: Path, name: str) -> Key:
    """Take a key out of the file; a service that reads it knows it no longer.

    Raises:
        KeyFileError: If there is none of this name, or the file cannot be read or written.
    """
    path = _real(path)
    read_keys(path)  # a lock of no file would make its folder
    with _locked(path):
        file = read_keys(path)
        gone = next((key for key in file.keys if key.name == name), None)
        if gone is None:
            raise KeyFileError(
                f"expected the name of a key, got {displayed_text(name[:64])}. "
                "clip-text keys list has the names."
            )
        _write(path, replace(file, keys=tuple(key for key in file.keys if key is not gone)))
    return gone


def _read_key(path: Path, said: object) -> Key:
    entry: dict[str, Any] = said if isinstance(said, dict) else {}
    times = (entry.get("created"), entry.get("expires", datetime.max.replace(tzinfo=UTC)))
    texts = [entry.get(field) for field in ("name", "scope", "sha256")]
    if (
        not all(isinstance(each, str) for each in texts)
        or entry["scope"] not in SCOPES
        or not _NAME.fullmatch(entry["name"])
        or not _DIGEST.fullmatch(entry["sha256"])
        or not all(isinstance(each, datetime) and each.tzinfo is not None for each in times)
    ):
        # not what it says instead: it might be a key that somebody put there
        raise _damaged(path, "an entry that is none")
    return Key(
        entry["name"],
        cast(Scope, entry["scope"]),
        entry["sha256"],
        entry["created"],
        entry.get("expires"),
    )


def _damaged(path: Path, got: str) -> KeyFileError:
    return KeyFileError(
        f"expected a file of keys at {_shown(path)}, got {got}. "
        "Restore it, or make the keys anew: clip-text keys create."
    )


def _locked(path: Path) -> FileLock:
    """Keep two who change a file from losing what one of them wrote."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path.with_name(f"{path.name}.lock"), mode=0o600)
    except OSError as error:
        raise _unwritable(path, error) from error


def _write(path: Path, file: KeyFile) -> None:
    lines = [_HEAD, f'session_secret = "{file.session_secret}"\n']
    for key in file.keys:  # no value needs an escape: see _NAME, SCOPES and _DIGEST
        ends = "" if key.expires is None else f"expires = {key.expires.isoformat()}\n"
        lines.append(
            f'\n[[keys]]\nname = "{key.name}"\nscope = "{key.scope}"\nsha256 = "{key.sha256}"\n'
            f"created = {key.created.isoformat()}\n{ends}"
        )
    own: Path | None = None
    try:
        # mkstemp's file is its owner's alone from the start
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
        own = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            _keep_readers(stream.fileno(), path)
            stream.writelines(lines)
            stream.flush()
            os.fsync(stream.fileno())
        own.replace(path)
    except OSError as error:
        if own is not None:
            with suppress(OSError):
                own.unlink()
        raise _unwritable(path, error) from error


def _real(path: Path) -> Path:
    """Follow links: what comes in the place of a link is no change to the file that is read."""
    return Path(os.path.realpath(path))


def _keep_readers(handle: int, path: Path) -> None:
    """Have a file read by those who may read the one in whose place it comes.

    Such as the account of the service, where somebody else makes and takes away its keys.
    """
    if os.name == "nt" or not path.exists():
        return
    before = path.stat()
    with suppress(PermissionError):  # who may not give it away keeps it
        os.fchown(handle, before.st_uid, before.st_gid)
        os.fchmod(handle, before.st_mode & 0o777)


def _unwritable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(
        f"expected to write {_shown(path)}, got: {error.strerror}. "
        "Name a file that can be written with --file."
    )


def _shown(path: Path) -> str:
    return displayed_text(os.fspath(path))
