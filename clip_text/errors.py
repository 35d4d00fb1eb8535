"""What this package raises beside TypeError and ValueError.

ClipTextError
├── CheckpointError       a checkpoint cannot be found, read, or does not fit
├── DataError             a data file does not hold what it should (also a ValueError)
│   └── NoFileError       no file that can be read is where one was named (a FileNotFoundError)
├── DimensionsError       rows have not as many dimensions as are asked for (also a ValueError)
├── StorageError          the disk is full, or keeps a file from being written (also an OSError)
├── MissingPackageError   an optional package is not installed (also a ModuleNotFoundError)
└── ImageError            something is no picture (also a ValueError; in clip_text.images)
    └── MissingDecoderError   it may be one; an extra is not installed (also an ImportError)
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager


class ClipTextError(Exception):
    """Root of this package's own errors."""


class CheckpointError(ClipTextError):
    """A checkpoint cannot be found or read, or its parts do not fit each other."""


class DataError(ClipTextError, ValueError):
    """A data set does not hold what it should; the message names the file and line."""


class NoFileError(DataError, FileNotFoundError):
    """No file that can be read is at a path that a person named."""


class DimensionsError(ClipTextError, ValueError):
    """Rows have not as many dimensions as are asked for."""


class StorageError(ClipTextError, OSError):
    """A file cannot be written whole: a full disk, a quota, a limit; the message names it."""


class MissingPackageError(ClipTextError, ModuleNotFoundError):
    """An optional package is not installed; the message has the command that installs it."""


@contextmanager
def needs(install: str, purpose: str, package: str | None = None) -> Iterator[None]:
    """Import optional packages: a missing one is an error that says how to install it.

    Args:
        install: What to give to pip, such as ``clip-text[train]``.
        purpose: What the packages are for, in words that follow "for".
        package: What pip calls the package, where that is not what Python imports.

    Raises:
        MissingPackageError: If an import within fails; a missing module of ours stays what it is.

    Example:
        >>> with needs("clip-text[train]", "LoRA"):
        ...     from peft import LoraConfig
    """
    try:
        yield
    except MissingPackageError:
        raise
    except ImportError as error:
        module = (error.name or "").partition(".")[0]
        if module == __package__:
            raise
        missing = isinstance(error, ModuleNotFoundError)
        found = "none" if missing else f"one that does not work: {' '.join(str(error).split())}"
        raise MissingPackageError(
            f"expected the package {package or module} for {purpose}, got {found}. "
            f"Run: pip install {'' if missing else '--upgrade '}{shlex.quote(install)}.",
            name=error.name,
        ) from error
