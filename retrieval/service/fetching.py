"""Pictures by their address on the internet: off by default, and public addresses alone.

Who may name an address for the service to ask may otherwise ask what only the service reaches: the
machine itself, its network, the cloud's metadata (SSRF). So a host's addresses are looked up here,
each has to be public, and the connection is made to what was looked at: nothing is looked up a
second time, which might give another address by then. Each redirect goes the same way.
"""

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import httpcore

from retrieval.records import displayed_text
from retrieval.service.problems import ProblemError
from retrieval.service.settings import Settings

__all__ = ["fetch_image", "is_public"]

_LONGEST_URL: Final = 2_048
_MOST_REDIRECTS: Final = 3
_MOST_TRIED: Final = 4
"""Addresses of one host; the first may be of IPv6, and this machine without."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PORTS: Final = {"http": 80, "https": 443}
_HEADERS: Final = (
    ("user-agent", "clip-text"),
    ("accept", "image/*"),
    ("accept-encoding", "identity"),  # what unfolds to something large would not be measured
)

_UNICAST: Final = ipaddress.ip_network("2000::/3")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC: Final = tuple(
    map(
        ipaddress.ip_network,
        # relays of 6to4 and Teredo, both given up; addresses of documents (RFC 9637)
        ("192.88.99.0/24", "2001::/32", "3fff::/20"),
    )
)

# Threads of their own: names whose servers do not answer keep nothing else from being done.
_LOOKUPS: Final = ThreadPoolExecutor(4, thread_name_prefix="clip-text-names")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


async def fetch_image(url: str, settings: Settings) -> bytes:
    """Fetch a picture.

    Args:
        url: With http or https.
        settings: Of the service: whether it may, how many bytes, how long.

    Returns:
        What is said to be a picture, at least one byte; not yet read as one.

    Raises:
        ProblemError: 403, if the service does not fetch; 422, if the address is none that it
            asks, or gives no picture; 413, if that is too large.
    """
    if not settings.fetch_images:
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            "fetching_is_off",
            "expected the picture itself, got its address, which this service does not ask. "
            "Send its bytes in base64.",
        )
    try:
        async with asyncio.timeout(settings.fetch_s):
            return await _fetch(url, settings)
    except TimeoutError:
        raise _not_fetched(f"none within {settings.fetch_s:g} seconds") from None


async def _fetch(url: str, settings: Settings) -> bytes:
    for _ in range(_MOST_REDIRECTS + 1):
        _check(url)
        # One for each address, and closed with it: no connection outlives what was looked at.
        pool = httpcore.AsyncConnectionPool(_trust(), network_backend=_PublicNetwork())
        try:
            async with pool, pool.stream("GET", url, headers=_HEADERS) as answer:
                if answer.status not in _REDIRECTS:
                    return await _picture(answer, settings.fetch_bytes)
                url = _next_address(url, answer)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise _not_fetched("a host that does not give it") from error
    raise _not_fetched(f"more than {_MOST_REDIRECTS} redirects")


async def _picture(answer: httpcore.Response, most: int) -> bytes:
    if answer.status != HTTPStatus.OK:
        raise _not_fetched(f"the status {answer.status}")
    kind = _header(answer, b"content-type").split(";")[0].strip().lower()
    if not kind.startswith("image/"):
        raise _not_fetched("another kind of file")
    if _header(answer, b"content-encoding").strip().lower() not in ("", "identity"):
        raise _not_fetched("a packed one")
    length = _header(answer, b"content-length")
    picture = bytearray()
    if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > most):
        raise _too_large(most)
    async for piece in answer.aiter_stream():
        picture += piece
        if len(picture) > most:
            raise _too_large(most)
    if not picture:
        raise _not_fetched("an empty one")
    return bytes(picture)


def _next_address(url: str, answer: httpcore.Response) -> str:
    location = _header(answer, b"location")
    if not location:
        raise _not_fetched("a redirect to nowhere")
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise _refused("one that cannot be read") from error


def _check(url: str) -> None:
    """Refuse an address for what it says; who it leads to is looked at when it is connected."""
    if len(url) > _LONGEST_URL:
        raise _refused(f"one of {len(url)} characters")
    if not url.isascii() or any(char <= " " or char in '"<>\\^`{|}\x7f' for char in url):
        raise _refused("one with characters that have to be written as %XX")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused("one that cannot be read") from error
    if parts.scheme not in _PORTS:
        raise _refused("another scheme")
    if "@" in parts.netloc:
        raise _refused("one with a password")
    if not parts.hostname or "%" in parts.netloc:
        raise _refused("one without a host")
    if port is not None and port not in _PORTS.values():
        raise _refused(f"the port {port}")


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the public internet, whatever it is written within."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return all(_is_public(each) for each in (parsed, *_within(parsed)))


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        # Only these have been given to anybody; fe80::, fc00::, ::ffff:0:0 and the rest are not.
        if address not in _UNICAST and address not in _NAT64:
            return False
        if address in _NAT64:  # judged by what is within
            return True
    elif address.is_reserved:
        return False
    if any(address in network for network in _NOT_PUBLIC if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast


def _within(address: _Address) -> Iterable[_Address]:
    """Give the IPv4 addresses that an IPv6 address leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    found = [address.ipv4_mapped, address.sixtofour]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return [each for each in found if each is not None]


async def _resolve(host: str, port: int) -> list[str]:
    """Look up the addresses of a host."""
    look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    answers = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, look_up)
    return list(dict.fromkeys(str(where[0]) for *_, where in answers))


async def _dial(address: str, port: int, **options: Any) -> httpcore.AsyncNetworkStream:  # noqa: ANN401
    """Connect to an address that was looked at."""
    return await httpcore.AnyIOBackend().connect_tcp(address, port, **options)


class _PublicNetwork(httpcore.AsyncNetworkBackend):
    """Connects to public addresses alone; TLS and Host go by the name all the same."""

    async def connect_tcp(  # type: ignore[override]
        self,
        host: str,
        port: int,
        **options: Any,  # noqa: ANN401
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await _resolve(host, port)
        except (OSError, UnicodeError):
            addresses = []
        # All of them: a name that leads inside as well is not to be tried until it does.
        if not addresses or not all(map(is_public, addresses)):
            # The same of both, or one could ask which names there are inside.
            raise _refused(f"{displayed_text(host[:80])}, which is no public host")
        *others, last = addresses[:_MOST_TRIED]
        for address in others:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await _dial(address, port, **options)
        return await _dial(last, port, **options)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:  # noqa: ANN401
        raise _refused("a path")  # nothing asks for one

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@cache
def _trust() -> ssl.SSLContext:
    return httpcore.default_ssl_context()


def _header(answer: httpcore.Response, wanted: bytes) -> str:
    values = [value for name, value in answer.headers if name.lower() == wanted]
    return values[0].decode("latin-1") if values else ""


def _refused(got: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "url_refused",
        f"expected the address of a picture on the internet, by http or https, got {got}. "
        "Send the picture's bytes in base64.",
    )


def _not_fetched(got: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "image_not_fetched",
        f"expected a picture at the address, got {got}. Send the picture's bytes in base64.",
    )


def _too_large(most: int) -> ProblemError:
    return ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "image_too_large",
        f"expected a picture of at most {most} bytes at the address, got a larger one. "
        "Send a smaller one.",
    )
