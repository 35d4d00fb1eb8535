"""When what was replaced can be closed: once the last request that began before has ended."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Era", "Turnover"]


@dataclass(slots=True, eq=False)
class Era:
    """The time between two replacements.

    Args:
        at_work: Requests that began in it and have not ended.
        close: Closes what was replaced at its end; None as long as it goes on.
    """

    at_work: int = 0
    close: Callable[[], object] | None = None


class Turnover:
    """Counts requests by the era they began in. Used by one event loop alone.

    A request may come to use what was put in place after it began, never what was replaced
    before: so an era's things are closed when all requests of it and of those before have ended.
    """

    def __init__(self) -> None:
        self._now = Era()
        self._eras = deque([self._now])

    def enter(self) -> Era:
        """Begin a request; gives what it is to leave with."""
        self._now.at_work += 1
        return self._now

    def leave(self, era: Era) -> None:
        """End a request."""
        era.at_work -= 1
        self._close_ended()

    def begin_anew(self, close: Callable[[], object]) -> None:
        """Say that something was replaced.

        Args:
            close: Called once nothing can use it any more, which may be now; it must not take
                long.
        """
        self._now.close = close
        self._now = Era()
        self._eras.append(self._now)
        self._close_ended()

    def close_all(self) -> None:
        """Close what was replaced and is still waited for: the service ends."""
        for era in self._eras:
            if era.close is not None:
                era.close()
        self._eras = deque([self._now])

    def _close_ended(self) -> None:
        while self._eras[0].close is not None and not self._eras[0].at_work:
            close = self._eras.popleft().close
            assert close is not None
            close()
