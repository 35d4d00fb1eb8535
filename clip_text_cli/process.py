"""What a process that runs a command of ours, or a part of one, is set up with."""

import warnings

from clip_text_cli.output import set_up_output

__all__ = ["set_up_process"]


def set_up_process() -> None:
    """Set up memory, warnings and output; again does no harm."""
    from clip_text.allocator import keep_freed_memory

    keep_freed_memory()
    # Damaged EXIF data and the like, which a picture is read in spite of.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    set_up_output()
