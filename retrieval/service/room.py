"""How many bytes all requests together may hold at once."""

from retrieval.errors import RetrievalError

__all__ = ["Held", "Room", "RoomFullError"]


class RoomFullError(RetrievalError):
    """Requests hold as many bytes already as may be held."""

    def __init__(self) -> None:
        super().__init__(
            "expected less to be held for other requests, got more than there is room for. Try "
            "again in a moment."
        )


class Room:
    """Counts the bytes that requests hold; for one event loop.

    Args:
        most: How many all of them may hold. One by itself may hold any number: what a request may
            have is bounded elsewhere.
        small: Up to how many bytes a request is a small one. An eighth of the room is for these
            alone, whatever large ones hold.
    """

    def __init__(self, most: int, small: int = 0) -> None:
        self.most, self.small = most, small
        self.most_beside_large = most - most // 8 if small else most
        """How many all may hold for a large one to have more."""
        self.used = 0
        """Bytes that are held now."""


class Held:
    """What one request holds of a room.

    Args:
        room: That of all requests.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._own = 0

    def check(self, coming: int) -> None:
        """Refuse bytes that there is no room for.

        Raises:
            RoomFullError: If others hold some, and there is not.
        """
        room, others = self._room, self._room.used - self._own
        is_small = self._own + coming <= room.small
        if others and room.used + coming > (room.most if is_small else room.most_beside_large):
            raise RoomFullError

    def take(self, more: int) -> None:
        """Hold more bytes.

        Raises:
            RoomFullError: If others hold some, and there is no room.
        """
        self.check(more)
        self._own += more
        self._room.used += more

    def give_back(self) -> None:
        """Hold nothing any more."""
        self._room.used -= self._own
        self._own = 0
