"""Who may do what: keys with scopes, and sessions of the page.

Where there are no keys, everybody who reaches the service may do all that it can. Where there are,
every address needs one but those of :data:`_OPEN`, whether its route says so or not: that is
looked at before a byte of the body is read. What scope a route needs, it says by :func:`needs`.
"""

import hmac
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, cast

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from retrieval.errors import KeyFileError
from retrieval.service.key_file import Key, KeyFile, Scope, digest_of, is_within, read_keys
from retrieval.service.problems import ProblemError

__all__ = ["COOKIE", "Access", "Keys", "Needs", "access_of", "is_open", "needs"]

COOKIE: Final = "clip_text_session"

_LOG = logging.getLogger(__name__)
_OPEN: Final = frozenset({"", "/", "/healthz", "/readyz", "/v1/session"})
_OPEN_BELOW: Final = ("/page/", "/static-offline-docs/")
_LONGEST_KEY: Final = 512
"""Characters; what is longer is no key, and is not hashed."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller may do.

    Args:
        name: Of its key; None where there are no keys.
        scope: What it may do at most.
        by_session: True if a cookie says so, not a key.
    """

    name: str | None
    scope: Scope
    by_session: bool = False


class Keys:
    """The keys of a file, read anew when it changes. Safe in several threads.

    Args:
        path: The file.

    Raises:
        KeyFileError: If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = self._sight()
        self._file = read_keys(path)

    def access(self, headers: Headers) -> Access:
        """Say what a caller may do.

        Args:
            headers: Of its request.

        Raises:
            ProblemError: 401, if it has no key, or none that is good; 503, if the file of keys
                cannot be read any more.
        """
        given = _given_key(headers)
        if given is not None:
            key = self.find(given)
            if key is None:
                raise _refused("one that is unknown or has ended", 'error="invalid_token"')
            return Access(key.name, key.scope)
        key = self._of_session(_cookie_of(headers))
        if key is None:
            raise _refused("none")
        return Access(key.name, "search", by_session=True)

    def find(self, secret: str) -> Key | None:
        """Find a key by itself; one that has ended is none."""
        digest = digest_of(secret) if len(secret) <= _LONGEST_KEY else ""
        found = None
        for key in self._now().keys:  # all of them, so that the time tells nothing of any
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return None if found is None or found.is_over() else found

    def session(self, name: str, lasting_s: float) -> str:
        """Make a session: what the page shows in place of a key that it was given.

        Args:
            name: Of the key.
            lasting_s: Seconds that it is good for; it ends with its key at the latest.
        """
        until = str(int(time.time() + lasting_s))
        file = self._now()
        key = next((key for key in file.keys if key.name == name), None)
        return "" if key is None else f"{name}~{until}~{_seal(file, key, until)}"

    def _of_session(self, session: str) -> Key | None:
        name, _, rest = session.partition("~")
        until, _, seal = rest.partition("~")
        file = self._now()
        key = next((key for key in file.keys if key.name == name), None)
        if key is None or key.is_over() or not (until.isascii() and until.isdigit()):
            return None
        if not hmac.compare_digest(
            _seal(file, key, until).encode(), seal.encode("utf-8", "replace")
        ):
            return None
        return key if len(until) < 16 and int(until) > time.time() else None

    def _now(self) -> KeyFile:
        """Give what the file says now."""
        if self._sight() != self._seen:
            with self._lock:
                seen = self._sight()
                try:
                    self._file = read_keys(self._path)
                except KeyFileError as error:
                    # Nobody gets in by keys that may have been taken away.
                    _LOG.error("%s", error)
                    raise ProblemError(
                        HTTPStatus.SERVICE_UNAVAILABLE,
                        "keys_unavailable",
                        "expected a file of keys that can be read, got none. "
                        "The service's log has more.",
                    ) from error
                self._seen = seen
        return self._file

    def _sight(self) -> tuple[int, ...] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


@dataclass(frozen=True, slots=True)
class Needs:
    """The dependency of a route that needs a scope.

    Args:
        scope: Which.
        of_keys_alone: Whether it needs none where there are no keys.
    """

    scope: Scope
    of_keys_alone: bool = False

    async def __call__(self, request: Request) -> None:
        """Let a caller in who may.

        Raises:
            ProblemError: 403, if its key is not good for that.
        """
        access = access_of(request.scope)
        if access is None:
            raise _refused("none")
        if self.of_keys_alone and access.name is None:
            return
        if not is_within(self.scope, access.scope):
            got: str = access.scope if access.name is not None else "none"
            if access.by_session:
                got = "a session, which may only search"
            raise ProblemError(
                HTTPStatus.FORBIDDEN,
                "forbidden",
                f"expected a key of the scope {self.scope}, got {got}. Use another key.",
            )


def needs(scope: Scope, *, of_keys_alone: bool = False) -> Any:  # noqa: ANN401  FastAPI says so
    """Say what scope a route, or all of a router, needs; for ``dependencies``."""
    return Depends(Needs(scope, of_keys_alone))


def access_of(scope: Mapping[str, Any]) -> Access | None:
    """Give what the caller of a request may do, as the gate has found; None for nothing."""
    return cast(Access | None, scope.get("state", {}).get("access"))


def is_open(path: str) -> bool:
    """Say whether an address needs no key: the page itself, which asks for one, and health."""
    return path in _OPEN or path.startswith(_OPEN_BELOW)


def _given_key(headers: Headers) -> str | None:
    """Give the key that a request shows; None for none, as for a password of a proxy's."""
    said = headers.getlist("authorization")
    keys = [each[7:].strip() for each in said if each[:7].lower() == "bearer "]
    keys += [each.strip() for each in headers.getlist("x-api-key")]
    return None if not keys else keys[0] if len(set(keys)) == 1 else ""


def _cookie_of(headers: Headers) -> str:
    """Give our cookie, whatever else of this host is in the header: others' values may be none."""
    return cookie_parser(headers.get("cookie", "")).get(COOKIE, "")


def _seal(file: KeyFile, key: Key, until: str) -> str:
    # The digest is part of it: a new key of an old name does not bring back old sessions.
    said = f"search:{key.name}:{key.sha256}:{until}"
    return hmac.new(bytes.fromhex(file.session_secret), said.encode(), "sha256").hexdigest()


def _refused(got: str, *more: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.UNAUTHORIZED,
        "unauthorized",
        f"expected a key of this service, got {got}. Send one as Authorization: Bearer KEY.",
        {"www-authenticate": ", ".join(('Bearer realm="clip-text"', *more))},
    )
