"""Run commands in this process, as the command line would; run with the Python of an installation.

    python installed_commands.py FOLDER < commands.json

Standard input is a JSON list of command lines, each a list of words; standard output says what
each came to, and where the packages were imported from.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path


def run(words):
    from clip_text_cli.main import main

    sys.argv = ["clip-text", *words]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    sys.path.remove(str(Path(__file__).resolve().parent))  # the folder of the tests
    done = [run(words) for words in json.load(sys.stdin)]
    import clip_text
    import clip_text_cli
    import retrieval

    places = [package.__file__ for package in (clip_text, clip_text_cli, retrieval)]
    json.dump({"done": done, "places": places}, sys.stdout)
