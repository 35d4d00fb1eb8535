"""How long work tells how far it is: one signature, from reading pictures to training."""

from collections.abc import Callable
from typing import Protocol

__all__ = ["Progress", "counted", "part_of", "silent"]


class Progress(Protocol):
    """What long work calls as it goes on, on the thread that asked for it.

    Args:
        name: What is being done, such as ``pictures``; one piece of work keeps its name.
        done: How many are done by now, out of ``total``; what was kept from before is done at
            once.
        total: How many there are, at least ``done``.

    Example:
        >>> def progress(name, done, total):
        ...     print(f"{name}: {done:,} of {total:,}")
    """

    def __call__(self, name: str, done: int, total: int, /) -> None:
        """Take note of it."""


def silent(name: str, done: int, total: int, /) -> None:
    """Tell nobody: what work does that is given no other progress."""
    del name, done, total


def counted(name: str, total: int, progress: Progress) -> Callable[[int], None]:
    """Count up for a progress.

    Args:
        name: Name of the work, for its bar.
        total: Number of items to be done.
        progress: Is told the name, how many are done by now, and the total.

    Returns:
        What to call with the number just done.
    """
    done = 0

    def advance(number: int) -> None:
        nonlocal done
        done += number
        progress(name, done, total)

    return advance


def part_of(name: str, before: int, total: int, progress: Progress) -> Progress:
    """Let work be a part of larger work.

    Args:
        name: What the whole is called.
        before: How many of the whole were done before this part.
        total: How many there are in the whole.
        progress: Is told of the whole.

    Returns:
        What the part tells how far it is.
    """
    return lambda _name, done, _total: progress(name, before + done, total)
