"""What this package raises beside TypeError and ValueError.

ClipTextError
├── CheckpointError   a checkpoint cannot be found, read, or does not fit
├── DataError         a data file does not hold what it should (also a ValueError)
├── StorageError      the disk is full, or keeps a file from being written (also an OSError)
└── ImageError        something is no picture (also a ValueError; in clip_text.images)
    └── MissingDecoderError   it may be one; an extra is not installed (also an ImportError)
"""


class ClipTextError(Exception):
    """Root of this package's own errors."""


class CheckpointError(ClipTextError):
    """A checkpoint cannot be found or read, or its parts do not fit each other."""


class DataError(ClipTextError, ValueError):
    """A data set does not hold what it should; the message names the file and line."""


class StorageError(ClipTextError, OSError):
    """A file cannot be written whole: a full disk, a quota, a limit; the message names it."""
