"""``clip-text`` where neither torch nor transformers nor open_clip can be imported.

python tests/light_process.py ARGS
"""

import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

HIDDEN = ("open_clip", "timm", "torch", "torchvision", "transformers")


class Hidden(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, Hidden())
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from clip_text_cli.main import main

    main()
