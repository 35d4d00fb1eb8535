"""What the commands that train share: the folder of a run, and its bars and lines."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from clip_text_cli.output import err, named_bars, out

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text.training import Listener


def run_folder(out_dir: Path, given: Path | None, task: str, name: str) -> Path:
    """Folder of a head's run: what was asked for, or one of its own in ``OUT.run``."""
    own = task if name == task else f"{task}-{name}"
    return given or out_dir.with_name(out_dir.name + ".run") / own


@contextmanager
def listening() -> "Iterator[Listener]":
    """Lines on stderr, and a bar there on a terminal, of what a run says; in one process only."""
    from clip_text.training import Listener

    def say(line: str) -> None:
        err.print(escape(line), soft_wrap=True)

    main = is_main()
    from clip_text.training.launching import restart_warning

    if main and (warning := restart_warning()):
        say(warning)
    with named_bars(shown=main) as progress:
        yield Listener(say, progress) if main else Listener()


def is_main() -> bool:
    """Say whether this is the process that prints, where a launcher started several."""
    from clip_text.training.trainer import join_processes

    return bool(join_processes().is_main_process)


def tell(lines: list[str]) -> None:
    """Print lines as they are."""
    for line in lines:
        out.print(escape(line), soft_wrap=True)


def best_step(report: Mapping[str, Any]) -> str:
    """Say which step was the best of how many, and how long they took."""
    minutes = report["seconds"] / 60
    return f"best at step {report['best_step']:,} of {report['steps']:,}, {minutes:.1f} minutes"


def drawn(folder: Path, pictures: Iterable[tuple[str, str]]) -> list[str]:
    """Name the pictures that a run drew.

    Args:
        folder: Folder of the run.
        pictures: What each shows, and its file's name.
    """
    return [f"{name}: {folder / file}" for name, file in pictures if (folder / file).is_file()]


def label_names(file: Path | None) -> tuple[str, ...]:
    """Read the names of labels, one a line; none without a file.

    Raises:
        DataError: If there are none in the file.
    """
    if file is None:
        return ()
    from clip_text.data.text_files import read_entries
    from clip_text.errors import DataError

    names = tuple(read_entries(file))
    if not names:
        raise DataError(f"expected names of labels in {file}, got none. Write one a line.")
    return names
