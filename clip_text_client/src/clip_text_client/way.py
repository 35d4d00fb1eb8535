"""How requests go out and answers come in, for both clients."""

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from urllib.request import getproxies, proxy_bypass

import httpx
from httpx_retries import Retry

from clip_text_client.calls import Call
from clip_text_client.errors import ClientError, UnreachableError, error_of, unwritable

__all__ = [
    "LOCAL",
    "Way",
    "asking",
    "checked",
    "given",
    "headers",
    "proxy_of",
    "read",
    "read_async",
]

Given = TypeVar("Given")

LOCAL: Final = "http://127.0.0.1:8000"
_METHODS: Final = ("GET", "POST", "PATCH", "DELETE")
_BACKOFF_S: Final = 0.25
_LONGEST_S: Final = 30.0
_KEY: Final = re.compile(r"[!-~]+")
_HERE: Final = re.compile(r"localhost|127(\.\d+){3}|::1")


class Way:
    """How requests go out: whom to, with which key, and how often again.

    Args:
        collection: Asked where a call names none.
        retries: How often a request is sent again at most.
        read: Reads the whole body of an answer, so that a broken one is asked for again.
    """

    def __init__(
        self,
        collection: str | None,
        retries: int,
        read: Callable[[httpx.Response], Awaitable[None] | None],
    ) -> None:
        self.collection = collection
        # 429 was not begun; of others nobody knows: only what may come twice is repeated
        self.repeatable = Retry(
            total=retries,
            allowed_methods=_METHODS,
            status_forcelist=(429, 502, 503, 504),
            retry_on_exceptions=(*Retry.RETRYABLE_EXCEPTIONS, httpx.DecodingError),
            backoff_factor=_BACKOFF_S,
            max_backoff_wait=_LONGEST_S,
            validate_response=read,
        )
        self.once = self.repeatable.copy_with(
            status_forcelist=(429,),
            retry_on_exceptions=(httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout),
        )

    def options(self, call: Call[Any]) -> dict[str, Any]:
        """Say a call as httpx is asked."""
        params = {name: value for name, value in call.params.items() if value is not None}
        if "collection" in call.params and self.collection is not None:
            params.setdefault("collection", self.collection)
        said: dict[str, Any] = {"params": params}
        if call.files:
            said |= {"data": call.form, "files": list(call.files)}
        elif call.body is not None:
            said["json"] = call.body
        retry = self.repeatable if call.safety == "repeatable" else self.once
        return {**said, "extensions": {"retry": retry}}


def read(response: httpx.Response) -> None:
    """Read the whole body of an answer, or let go of its connection."""
    try:
        response.read()
    except BaseException:
        response.close()
        raise


async def read_async(response: httpx.Response) -> None:
    """Do what :func:`read` does, and be awaited."""
    try:
        await response.aread()
    except BaseException:
        await response.aclose()
        raise


def given(call: Call[Given], response: httpx.Response) -> Given:
    """Read an answer, or raise what it tells of."""
    if response.status_code >= 300:
        raise error_of(response)
    try:
        return call.reader(response)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClientError(
            f"expected an answer of a clip-text service, got another ({error!r}). "
            "Check the address."
        ) from error


@contextmanager
def asking() -> Iterator[None]:
    """Say in our words that no answer came, none that can be read, or that nothing can be sent."""
    try:
        yield
    except httpx.RequestError as error:
        reason = str(error) or type(error).__name__
        raise UnreachableError(
            f"expected an answer of the service, got none: {reason}. Check its address, and "
            "whether it runs."
        ) from error
    except UnicodeEncodeError as error:
        raise unwritable(error) from error


def headers(api_key: str | None) -> dict[str, str]:
    """Say who asks.

    Raises:
        ValueError: If a header cannot carry the key.
    """
    if api_key is None:
        return {}
    if not _KEY.fullmatch(api_key):
        raise ValueError(
            "expected an api_key of letters, digits and signs of ASCII, got another. Give it as "
            "the service made it, without spaces or line ends, or None where it wants none."
        )
    return {"authorization": f"Bearer {api_key}"}


def proxy_of(base_url: str) -> str | None:
    """Tell which proxy the environment wants before a service; None for none.

    What it says is read as Python's own urllib does; this machine itself is reached without one.
    """
    url = httpx.URL(base_url)
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or _HERE.fullmatch(url.host):
        return None
    if any(map(proxy_bypass, (url.host, url.netloc.decode()))):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def checked(texts: Sequence[str]) -> list[str]:
    """Refuse one text where a list of them belongs."""
    if isinstance(texts, str):
        raise TypeError("expected a list of texts, got one text. Wrap it in a list.")
    return list(texts)
