"""What goes wrong when a library loads a model, told with what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from transformers import dynamic_module_utils
from transformers.utils import logging as transformers_logging

from clip_text.errors import CheckpointError, ClipTextError

__all__ = ["quietly", "told"]

_NO_NETWORK = "Check the network; or download it where there is one, and name the folder."

# Of each the most particular first: a gated repository also is one that was not found.
_REMEDIES: tuple[tuple[type[BaseException], str], ...] = (
    (
        GatedRepoError,
        "It is gated: ask for access on its page of the hub, then log in with: hf auth login.",
    ),
    (RepositoryNotFoundError, "Check the name; of a private one, log in with: hf auth login."),
    (OfflineModeIsEnabled, f"HF_HUB_OFFLINE is set: unset it. {_NO_NETWORK}"),
    (LocalEntryNotFoundError, _NO_NETWORK),
    (EntryNotFoundError, "Check the name: the repository has no such file."),
    (HFValidationError, "Check the name: it is neither a folder here nor owner/model."),
    (HfHubHTTPError, _NO_NETWORK),
    (ConnectionError, _NO_NETWORK),
)


@contextmanager
def quietly() -> Iterator[None]:
    """Have transformers draw no bars over what is there in a moment, and ask nobody anything.

    Where a caller does not say whether a model's own code may run, it would ask on the terminal.
    """
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    was = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def told(name: str) -> Iterator[None]:
    """Tell whatever a library raises as an error that names the model and says what to do.

    Args:
        name: Of the model, as it was asked for.

    Raises:
        CheckpointError: If the block raises something else than this package's own errors.
    """
    try:
        yield
    except (ClipTextError, MemoryError):
        raise
    except Exception as error:
        raise CheckpointError(_message(name, error)) from error


def _message(name: str, error: Exception) -> str:
    chain = list(_chain(error))
    what = f"{type(error).__name__}: {_line(error)}"
    if "trust_remote_code" in str(error):
        return (
            f"expected a model that its library knows, got {name}, which brings code of its own. "
            "Read that code; if you trust it, say --trust-remote-code (trust_remote_code=True)."
        )
    for kind, remedy in _REMEDIES:
        if any(isinstance(each, kind) for each in chain):
            return f"expected the model {name}, got none ({_line(error)}). {remedy}"
    if any(isinstance(each, ImportError) for each in chain):
        missing = next(each for each in chain if isinstance(each, ImportError))
        return (
            f"expected all that {name} needs, got {_line(missing)}. "
            "Install what its library asks for."
        )
    return f"expected the model {name}, got {what}. Check the name, and that its files are whole."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    """Say what an error says, on one line that is not long."""
    words = " ".join(str(error).split()).rstrip(".")
    return words if len(words) <= 300 else f"{words[:300]} …"
