"""A process in which only the base dependencies of pyproject.toml can be imported.

    python tests/base_installation.py < cases.json

Runs ``clip-text`` once for each list of arguments, then imports every module there is; prints
[exit code, stdout, stderr] of each run and the error of each import as JSON.
"""

import contextlib
import importlib
import importlib.metadata
import io
import json
import re
import sys
import tomllib
import traceback
from importlib.machinery import PathFinder
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ROOMS = ("clip_text", "clip_text_cli", "clip_text_pictures", "retrieval")


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def base_distributions():
    """Names of what ``pip install clip-text`` installs, followed through what is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    seen, asked = set(), [(Requirement(each), "") for each in project["dependencies"]]
    while asked:
        requirement, extra = asked.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            key = (normal(requirement.name), wanted)
            if key in seen:
                continue
            seen.add(key)
            try:
                more = importlib.metadata.requires(requirement.name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            asked += [(Requirement(each), wanted) for each in more]
    return {name for name, _ in seen}


def hide_extras():
    """Make packages that no base distribution brings as good as not installed."""
    base = base_distributions()
    brings = importlib.metadata.packages_distributions()
    hidden = {name for name, by in brings.items() if base.isdisjoint(map(normal, by))}
    hidden -= {*ROOMS, *sys.stdlib_module_names}
    find, named = PathFinder.find_spec, importlib.metadata.Distribution.from_name

    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else find(name, path, target)

    def from_name(name):
        if normal(name) not in base:
            raise importlib.metadata.PackageNotFoundError(name)
        return named(name)

    PathFinder.find_spec = find_spec
    importlib.metadata.Distribution.from_name = from_name
    for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
        del sys.modules[name]  # packaging, say
    return hidden


def run(arguments):
    from clip_text_cli import main as cli

    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["clip-text", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:  # noqa: BLE001  (what a user would see)
            traceback.print_exc()
            code = -1
    return [code, out.getvalue(), err.getvalue()]


def modules():
    for file in sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        yield ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def main():
    sys.path.insert(0, str(ROOT))
    cases = json.load(sys.stdin)
    hidden = hide_extras()
    runs = [run(arguments) for arguments in cases]
    imports = {}
    for name in modules():
        try:
            importlib.import_module(name)
            imports[name] = None
        except Exception as error:  # noqa: BLE001
            imports[name] = [type(error).__name__, str(error)]
    json.dump({"hidden": sorted(hidden), "runs": runs, "imports": imports}, sys.stdout)


if __name__ == "__main__":
    main()
