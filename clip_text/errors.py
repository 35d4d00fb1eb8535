"""What this package raises beside TypeError and ValueError.

ClipTextError
├── CheckpointError   a checkpoint cannot be found, read, or does not fit
├── DataError         a data file does not hold what it should (also a ValueError)
│   └── NoFileError   no file that can be read is where one was named (also a FileNotFoundError)
└── ImageError        something is no picture (also a ValueError; in clip_text.images)
"""


class ClipTextError(Exception):
    """Root of this package's own errors."""


class CheckpointError(ClipTextError):
    """A checkpoint cannot be found or read, or its parts do not fit each other."""


class DataError(ClipTextError, ValueError):
    """A data set does not hold what it should; the message names the file and line."""


class NoFileError(DataError, FileNotFoundError):
    """No file that can be read is at a path that a person named."""
