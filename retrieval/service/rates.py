"""How many requests one caller may send in a time."""

import ipaddress
import math
import time
from typing import Final

from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

__all__ = ["Rates", "is_counted"]

_LOOKED_AT: Final = "/v1/images/"


class Rates:
    """Counts requests of each caller, in this process.

    Args:
        rate: As ``Settings.rate`` has it.
    """

    def __init__(self, rate: str) -> None:
        self._rate = parse(rate)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def count(self, caller: str) -> tuple[bool, dict[str, str]]:
        """Count a request.

        Args:
            caller: As :meth:`caller` names it.

        Returns:
            Whether it is one too many, and the headers that tell the caller how it stands.
        """
        is_too_many = not await self._limiter.hit(self._rate, caller)
        stats = await self._limiter.get_window_stats(self._rate, caller)
        resets_s = max(1, math.ceil(stats.reset_time - time.time()))
        told = {
            "ratelimit-limit": str(self._rate.amount),
            "ratelimit-remaining": str(stats.remaining),
            "ratelimit-reset": str(resets_s),
        }
        return is_too_many, told | ({"retry-after": str(resets_s)} if is_too_many else {})

    @staticmethod
    def caller(key: str | None, client: tuple[str, int] | None) -> str:
        """Name who is counted: a key, or an address; all of an IPv6 network are one caller."""
        if key is not None:
            return f"key {key}"
        address = client[0] if client else "nobody"
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:  # the path of a socket
            return address
        if isinstance(parsed, ipaddress.IPv6Address):
            if parsed.ipv4_mapped is not None:  # as a proxy that listens to both says it
                return str(parsed.ipv4_mapped)
            return str(ipaddress.ip_network((parsed, 64), strict=False))
        return address


def is_counted(path: str) -> bool:
    """Say whether requests for an address count: one page of hits shows a hundred pictures."""
    return path.startswith("/v1/") and not path.startswith(_LOOKED_AT)
