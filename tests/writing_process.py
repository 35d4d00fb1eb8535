"""Writes items into an index in a process of its own, for a test that kills it.

    python tests/writing_process.py

Reads lines of JSON from stdin, [INDEX, SEED, SECONDS], and forks a process for each, which does
random operations, says ``begin`` ahead of each and ``done`` when it is acknowledged, and is killed
(SIGKILL) after so many seconds; then prints its exit status. Forking saves the imports, and reading
jieba's dictionary, which takes longer than they live.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from item_operations import ENCODER, OPERATIONS, SEAL_EARLY

from retrieval.catalogue.segmentation import Segmenter, Settings
from retrieval.ingest import IndexWriter


def _say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def write(index_dir: Path, seed: int) -> None:
    """Go on with random operations until killed."""
    for module, name, value in SEAL_EARLY:
        setattr(module, name, value)
    chance = random.Random(seed)
    writer = IndexWriter.open(index_dir, ENCODER)
    ids = sorted(record.picture.image_id for record in writer)
    names = list(OPERATIONS)
    while True:
        name = chance.choices(names, [4 if name == "add" else 2 for name in names])[0]
        operation = OPERATIONS[name]
        arguments = operation.choose(chance, ids)
        if arguments is None:
            continue
        _say("begin", json.dumps([name, arguments]))
        writer = operation.do(writer, arguments)
        _say("done")
        ids = sorted(operation.tell(dict.fromkeys(ids), arguments)) if name != "update" else ids


def main() -> None:
    Segmenter.of(Settings.usual())("一只猫")
    for line in sys.stdin:
        index_dir, seed, seconds = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                write(Path(index_dir), seed)
            finally:
                os._exit(1)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        _say("status", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
