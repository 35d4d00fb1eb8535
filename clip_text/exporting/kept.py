"""Make the starter's exported form, which :mod:`clip_text.runtimes.kept` finds."""

import logging
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout

from clip_text.errors import ClipTextError
from clip_text.exporting.run import export
from clip_text.runtimes.exported import Family, verify

_log = logging.getLogger(__name__)


def keep_starter(folder: Path, family: Family) -> bool:
    """Export the starter into the user's cache, and drop older forms.

    Args:
        folder: Folder to keep it in, as :func:`clip_text.runtimes.kept.kept_starter` names it.
        family: What the graphs are written for.

    Returns:
        Whether it is there now. A disk that is full or cannot be written to is no error.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / "lock", timeout=0):
            if _is_whole(folder):  # another process has made it meanwhile
                return True
            shutil.rmtree(folder, ignore_errors=True)  # there is one that cannot be used
            export("starter", folder, family)
            for older in folder.parent.glob(f"starter-{family}-*"):
                if older != folder:
                    shutil.rmtree(older, ignore_errors=True)
    except (ClipTextError, OSError, Timeout) as error:
        _log.debug("the starter's exported form was not kept: %s", error)
        return False
    return True


def _is_whole(folder: Path) -> bool:
    with suppress(ClipTextError, OSError):
        verify(folder)
        return True
    return False


if __name__ == "__main__":  # by a process that shall not hold torch itself
    _folder, _family = sys.argv[1:]
    sys.exit(not keep_starter(Path(_folder), cast(Family, _family)))
