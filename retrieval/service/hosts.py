"""By what name the service is called.

A page of another site may have its name lead to this machine once it is loaded (DNS rebinding), and
ask the service as if it were its own. What gives it away is the name, which the browser sends.
"""

import ipaddress
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers

from retrieval.service.problems import ProblemError, shorten
from retrieval.service.settings import Settings

__all__ = ["HERE", "check_host", "for_host", "is_handed_on", "is_loopback"]

HERE: Final = ("localhost", "127.0.0.1", "[::1]")
"""The names by which a machine calls itself."""
_HANDED_ON: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


def for_host(settings: Settings, host: str) -> Settings:
    """Decide what the settings leave open for a service that listens at a host.

    Args:
        settings: They are as they were, where they say it.
        host: Name or address.

    Returns:
        The same, with the names that the service may be called by, and, where others reach the
        service, that everybody may search where there are no keys. Where only this machine
        reaches it that is left open: what a proxy hands on may have come from elsewhere.
    """
    is_here = is_loopback(host)
    allowed, scope = settings.allowed_hosts, settings.without_keys
    own = f"[{host}]" if ":" in host else host.lower()
    names = HERE if own in HERE else (*HERE, own)  # 127.0.0.2, too, is of this machine alone
    return settings.model_copy(
        update={
            "allowed_hosts": names if allowed is None and is_here else allowed,
            "without_keys": scope or (None if is_here else "search"),
        }
    )


def is_handed_on(headers: Headers) -> bool:
    """Say whether a proxy tells that a request came by it."""
    return any(name in headers for name in _HANDED_ON)


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches what listens at a host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may be anything
        return False


def check_host(headers: Headers, allowed: tuple[str, ...] | None) -> None:
    """Refuse a request that calls the service by a name that is not its own.

    Args:
        headers: Of the request.
        allowed: The names, without ports; None and ``*`` for any.

    Raises:
        ProblemError: 400, for another name, none or two.
    """
    named = headers.getlist("host")
    if allowed is None and len(named) < 2:
        return
    host = _without_port(named[0]) if len(named) == 1 else None
    if host is None or not any(_fits(host, each.lower()) for each in allowed or ()):
        got = shorten(named[0]) if len(named) == 1 else "none" if not named else "two of them"
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            "unknown_host",
            f"expected a Host that is a name of this service, got {got}. "
            "If it is one, add it to allowed_hosts.",
        )


def _without_port(named: str) -> str | None:
    """Give the name of a Host, in small letters; None if it is no such thing."""
    host, colon, port = named.lower().rpartition(":")
    if not colon or named.endswith("]"):
        host, port = named.lower(), ""
    if port and not (port.isascii() and port.isdigit()):
        return None
    return host.removesuffix(".")


def _fits(host: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return host.endswith(allowed[1:]) and len(host) > len(allowed) - 1
    return allowed in ("*", host)
