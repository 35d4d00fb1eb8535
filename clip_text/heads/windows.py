"""Windows over a text that is longer than a model's context."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """A run of a text's tokens.

    Args:
        start: Position of its first token.
        end: The token behind its last.
        owned: First token and token behind the last that this window answers for: those which no
            other window shows with more text around them. Each token is owned once.
    """

    start: int
    end: int
    owned: tuple[int, int]


def windows(length: int, room: int, overlap: int) -> list[Window]:
    """Cover a text by windows, each as long as there is room, the last one too.

    Args:
        length: Tokens of the text; without any there is one empty window.
        room: Tokens in a window.
        overlap: Tokens that neighbours share, at least.

    Raises:
        ValueError: If neighbours would share everything.
    """
    if not 0 <= overlap < room:
        raise ValueError(
            f"expected an overlap from 0 to {room - 1} (a window has room for {room} tokens), got "
            f"{overlap}. Lower it, or give a longer context."
        )
    starts = list(range(0, max(length - room, 0), room - overlap))
    starts.append(max(length - room, 0))
    ends = [min(start + room, length) for start in starts]
    # of what two share, each answers for the half that lies further inside it
    borders = [(start + end + 1) // 2 for start, end in zip(starts[1:], ends[:-1], strict=True)]
    owned = zip([0, *borders], [*borders, length], strict=True)
    return [Window(*one) for one in zip(starts, ends, owned, strict=True)]
