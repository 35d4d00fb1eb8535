"""How requests go out and answers come in, for both clients."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar, cast

import httpx
from httpx_retries import Retry

from clip_text_client.calls import Call
from clip_text_client.errors import ClientError, UnreachableError, error_of

__all__ = ["LOCAL", "Way", "checked", "given", "headers", "unreachable"]

Given = TypeVar("Given")

LOCAL: Final = "http://127.0.0.1:8000"
_METHODS: Final = ("GET", "POST", "PATCH", "DELETE")
_BACKOFF_S: Final = 0.25
_LONGEST_S: Final = 30.0


class Way:
    """How requests go out: whom to, with which key, and how often again.

    Args:
        collection: Asked where a call names none.
        retries: How often a request is sent again at most.
        read: Reads the whole body of an answer, so that one that breaks off is asked for again.
    """

    def __init__(
        self,
        collection: str | None,
        retries: int,
        read: Callable[[httpx.Response], bytes | Awaitable[bytes]],
    ) -> None:
        self.collection = collection
        # 429 was not begun; of others nobody knows: only what may come twice is repeated
        self.repeatable = Retry(
            total=retries,
            allowed_methods=_METHODS,
            status_forcelist=(429, 502, 503, 504),
            backoff_factor=_BACKOFF_S,
            max_backoff_wait=_LONGEST_S,
            validate_response=cast("Callable[[httpx.Response], None]", read),
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


def given(call: Call[Given], response: httpx.Response) -> Given:
    """Read an answer, or raise what it tells of."""
    if response.status_code >= 300:
        raise error_of(response)
    try:
        return call.reader(response)
    except (ValueError, KeyError, TypeError) as error:
        raise ClientError(
            f"expected an answer of a clip-text service, got another ({error!r}). "
            "Check the address."
        ) from error


def unreachable(error: httpx.TransportError) -> UnreachableError:
    """Say that no answer came."""
    reason = str(error) or type(error).__name__
    return UnreachableError(
        f"expected an answer of the service, got none: {reason}. Check its address, and whether it "
        "runs."
    )


def headers(api_key: str | None) -> dict[str, str]:
    """Say who asks."""
    return {} if api_key is None else {"authorization": f"Bearer {api_key}"}


def checked(texts: Sequence[str]) -> list[str]:
    """Refuse one text where a list of them belongs."""
    if isinstance(texts, str):
        raise TypeError("expected a list of texts, got one text. Wrap it in a list.")
    return list(texts)
