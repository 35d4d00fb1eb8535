"""Picture files: which there are, and how they are opened without running a program.

What both packages stand on, ``clip_text`` for the model and ``retrieval`` for showing, as neither
imports the other. It needs Pillow and numpy alone. ``docs/pictures.md`` has the table for people.
"""

from clip_text_pictures.decoders import (
    MAX_PIXELS,
    NoDecoderError,
    PictureError,
    PictureSizeError,
    check_size,
    damage_told,
    open_picture,
    over_white,
    to_8_bit,
    turn_of,
    upright,
)
from clip_text_pictures.kinds import (
    EXTENSIONS,
    ending_of,
    judge_name,
    kind_of,
    looks_like_picture,
    read_start,
    recognise,
)

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "NoDecoderError",
    "PictureError",
    "PictureSizeError",
    "check_size",
    "damage_told",
    "ending_of",
    "judge_name",
    "kind_of",
    "looks_like_picture",
    "open_picture",
    "over_white",
    "read_start",
    "recognise",
    "to_8_bit",
    "turn_of",
    "upright",
]
