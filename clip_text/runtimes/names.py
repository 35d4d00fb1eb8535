"""How a runtime is asked for by its name; importing this imports no library of theirs."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast, get_args

from clip_text.errors import MissingPackageError
from clip_text.names import RUNTIMES, Precision

__all__ = [
    "VARIABLE",
    "asked_for",
    "blaming_variable",
    "computes_on",
    "precision_of",
]

_log = logging.getLogger(__name__)

VARIABLE = "CLIP_TEXT_RUNTIME"
"""The environment variable that names a runtime where no argument does."""


def asked_for(name: str | None, device: object = None) -> str:
    """Say which runtime is meant: the one named, that of the environment, or ``auto``.

    The environment's is a preference: it gives way to ``auto`` where it does not compute on the
    device that was named, as it does to the runtime of a model that was exported.

    Args:
        name: The runtime named by an argument, if any.
        device: The device named by an argument, if any: a string or a ``torch.device``.

    Raises:
        ValueError: If there is none of that name.
    """
    preferred = None if name else os.environ.get(VARIABLE)
    wanted = name or preferred or "auto"
    if wanted not in RUNTIMES:
        where, remedy = (f" in {VARIABLE}", ", or unset it") if preferred else ("", "")
        raise ValueError(
            f"expected a runtime among {', '.join(RUNTIMES)}, got {wanted!r}{where}. "
            f"Choose one of them{remedy}."
        )
    if preferred and device is not None and not computes_on(wanted, device):
        _log.info("%s=%s does not compute on %s: auto does", VARIABLE, wanted, device)
        return "auto"
    return wanted


def computes_on(name: str, device: object) -> bool:
    """Say whether a runtime computes on a device: all do on the CPU, PyTorch's on any.

    Args:
        name: One of :data:`clip_text.names.RUNTIMES`.
        device: A string or a ``torch.device``.
    """
    return str(device).partition(":")[0] == "cpu" or name in {"auto", "torch", "torch-bf16"}


def precision_of(name: str) -> Precision:
    """Say what a runtime computes in, by its name; that of ``auto`` is the name of its choice."""
    ending = name.rpartition("-")[2]
    return cast(Precision, ending) if ending in get_args(Precision) else "fp32"


@contextmanager
def blaming_variable(argument: str | None) -> Iterator[None]:
    """Have the error over a runtime that is not installed name the variable that asks for it.

    Args:
        argument: The runtime named by an argument, which then is what asks for it.

    Raises:
        MissingPackageError: As the block does, with the variable in its message.
    """
    preferred = None if argument else os.environ.get(VARIABLE)
    try:
        yield
    except MissingPackageError as error:
        if not preferred:
            raise
        raise MissingPackageError(
            f"{error} {VARIABLE}={preferred} asks for it: without that, the quickest of what is "
            "installed computes.",
            name=error.name,
        ) from error
