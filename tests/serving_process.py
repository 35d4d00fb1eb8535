"""``serve_opened`` over an index of fakes, as a process.

    PYTHONPATH=. python tests/serving_process.py FOLDER [key=value …]

The file ``config`` in FOLDER stands for a configuration: it names the index, and the fingerprint
of the model. Settings and ``workers`` are given as key=value; ``slow`` makes each query of more
than one character take so many seconds, ``opening`` so many the opening of the index. The file
``opened`` there gets a line each time that it begins.
"""

import sys
import time
from functools import partial
from pathlib import Path

from fakes import FakeEncoder

from retrieval.search import Searcher
from retrieval.service.app import Served
from retrieval.service.serving import serve_opened
from retrieval.service.settings import Settings


class SlowEncoder(FakeEncoder):
    """Takes its time over queries of more than one character."""

    slow_s = 0.0

    def encode_text(self, texts):
        if any(len(text) > 1 for text in texts):
            time.sleep(self.slow_s)
        return super().encode_text(texts)


def open_indexes(folder, slow_s=0.0, opening_s=0.0):
    with (folder / "opened").open("a") as opened:
        opened.write("it begins\n")
    time.sleep(opening_s)
    index, fingerprint = (folder / "config").read_text().split()
    encoder = SlowEncoder(fingerprint=fingerprint)
    encoder.slow_s = slow_s
    searcher = Searcher.open(folder / index, encoder)
    return [Served(searcher, "default", encoder, folder / index, "fake", owned=True)]


def tell(address, opened):
    sys.stdout.write(f"{address} {opened[0].total}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    folder, *pairs = sys.argv[1:]
    given = dict(pair.split("=") for pair in pairs)
    workers, slow_s = int(given.pop("workers", 1)), float(given.pop("slow", 0))
    opening_s = float(given.pop("opening", 0))
    serve_opened(
        partial(open_indexes, Path(folder), slow_s, opening_s),
        settings=Settings(**given),
        port=0,
        workers=workers,
        on_listening=tell,
    )
