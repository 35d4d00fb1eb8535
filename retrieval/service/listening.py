"""The socket of the service: bound before anybody is told its address."""

import errno
import socket
from typing import Final

from retrieval.errors import AddressError

__all__ = ["address_of", "listen"]

_ADVICE: Final = "Name another with --host: 127.0.0.1 for this machine alone, 0.0.0.0 for others."


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen at every address of a host.

    Args:
        host: A name or an address, IPv4 or IPv6.
        port: A TCP port; 0 takes a free one, the same at each address.

    Returns:
        Sockets that listen, at least one.

    Raises:
        AddressError: If the host is none of this machine's, or the port cannot be had.
    """
    listening: list[socket.socket] = []
    try:
        for family, address in _resolve(host, port):
            try:
                taken = listening[0].getsockname()[1] if listening else port
                listening.append(socket.create_server((address, taken), family=family))
            except OSError as error:
                # "localhost" has an IPv6 address even where the system has no IPv6, and what
                # is free at one address need not be at the next.
                beside = {errno.EADDRNOTAVAIL} | ({errno.EADDRINUSE} if port == 0 else set())
                if listening and error.errno in beside:
                    continue
                raise _explain(error, host, port) from error
    except BaseException:
        for bound in listening:
            bound.close()
        raise
    return listening


def address_of(listening: socket.socket, host: str) -> str:
    """Spell the URL at which a socket is reached, with the port it got.

    Args:
        listening: One that :func:`listen` gave.
        host: The name to reach it by.

    Returns:
        Such as ``http://127.0.0.1:8000`` or ``http://[::1]:8000``.
    """
    port = listening.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _resolve(host: str, port: int) -> list[tuple[int, str]]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: no name at all
        raise AddressError(
            f"expected the name or address of a host, got {host!r}, which leads nowhere. {_ADVICE}"
        ) from error
    addresses = {(family, str(where[0])): None for family, _, _, _, where in answers}
    # IPv4 first: what does not say which it means means that.
    return sorted(addresses, key=lambda pair: pair[0] != socket.AF_INET)


def _explain(error: OSError, host: str, port: int) -> AddressError:
    if error.errno == errno.EADDRINUSE:
        return AddressError(
            f"expected a free port, got {port}, which is in use. "
            "Name another with --port, or 0 for a free one."
        )
    if error.errno == errno.EACCES:
        return AddressError(
            f"expected a port that this user may listen on, got {port}. "
            "Name one above 1023 with --port, or 0 for a free one."
        )
    if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
        return AddressError(f"expected an address of this machine, got {host}. {_ADVICE}")
    return AddressError(f"expected to listen at {host}, port {port}, got: {error}. {_ADVICE}")
