"""Train a head that tells pairs of texts apart: ``clip-text train pairs``.

    python scripts/train_pairs.py --help

By its path it is what ``torchrun`` and ``accelerate launch`` can start.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clip_text_cli.main import main

if __name__ == "__main__":
    main("train", "pairs")
