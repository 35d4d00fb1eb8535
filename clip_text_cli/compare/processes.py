"""A process for each model, so that memory is told of it alone and an error of it ends no other."""

import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection

from clip_text.errors import ClipTextError
from clip_text.progress import Progress
from clip_text_cli.compare.measuring import Job, Measured, measure_model

__all__ = ["ModelError", "measure_apart"]

_PATIENCE = 10  # seconds, of a process that has told all it has to tell


class ModelError(ClipTextError):
    """A model that cannot be measured; the message says why on one line."""


def measure_apart(job: Job, progress: Progress) -> Measured:
    """Measure a model in a process of its own.

    Args:
        job: What to do.
        progress: Is told how many ``texts`` and ``pictures`` are done.

    Raises:
        ModelError: If the model cannot be loaded or fails, or its process is killed.
    """
    for may_choose in (False, True):
        measured = _ask_process(job, progress, may_choose=may_choose)
        if measured is not None:
            return measured
    raise ModelError(f"expected figures of {job.model}, got none. Run the command again.")


def _ask_process(job: Job, progress: Progress, *, may_choose: bool) -> Measured | None:
    context = multiprocessing.get_context("spawn")  # a fork would begin with what is held here
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, theirs, may_choose))
    process.start()
    theirs.close()  # so that its end is the end of the line
    try:
        while True:
            kind, *told = ours.recv()
            if kind == "progress":
                progress(*told)
                continue
            if kind == "error":
                raise ModelError(told[0])
            process.join(_PATIENCE)
            measured: Measured | None = told[0]
            return measured
    except EOFError:
        process.join(_PATIENCE)
        raise ModelError(
            f"expected {job.model} to be measured to the end, got a process that {_end_of(process)}"
            ": the memory may be too small. Try a smaller --batch-size."
        ) from None
    finally:
        process.kill()  # nothing is left to do, or it is not wanted any more
        process.join()
        ours.close()


def _end_of(process: "multiprocessing.process.BaseProcess") -> str:
    code = process.exitcode
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _work(job: Job, line: Connection, may_choose: bool) -> None:
    """Measure, and tell who started this process; it ends where nobody listens any more."""
    from clip_text_cli.process import set_up_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    os.dup2(sys.stderr.fileno(), 1)  # what libraries print is none of the command's output
    set_up_process()
    try:
        measured = measure_model(
            job, lambda *told: line.send(("progress", *told)), may_choose=may_choose
        )
    except BrokenPipeError:
        return
    except Exception as error:  # noqa: BLE001  (the others go on, whatever a library raises)
        line.send(("error", _reason(error)))
        return
    line.send(("measured", measured))


def _reason(error: Exception) -> str:
    """Say on one line what went wrong; of an error that is not ours, its kind as well."""
    said = " ".join(str(error).split())
    ours = isinstance(error, ClipTextError | OSError | ValueError) and said
    return said if ours else f"{type(error).__name__}: {said or 'it says no more'}"
