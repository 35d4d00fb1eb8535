"""``python -m clip_text``: says where to go."""

import sys

HINT = """\
clip_text is a library; its command is clip-text (the same as python -m clip_text_cli):

    clip-text --help
    clip-text demo

In Python: from clip_text import Encoder; Encoder.from_pretrained("starter").encode_text(["狗"])
"""

if __name__ == "__main__":
    sys.stdout.write(HINT)
