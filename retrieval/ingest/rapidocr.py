"""Reads text in pictures by RapidOCR: PP-OCR's Chinese models, which lie in its wheel."""

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from clip_text_pictures import damage_told, ending_of, open_picture, over_white, to_8_bit, upright
from retrieval.errors import MissingPackageError

__all__ = ["RapidReader"]

_LEAST_CONFIDENCE = 0.6  # below, it is mostly texture that looks like strokes
_LONGEST_SIDE = 2000  # pixels; RapidOCR itself looks at no more


class RapidReader:
    """Reads Chinese and Latin text, lying or turned by 180 degrees.

    Raises:
        MissingPackageError: If RapidOCR is not installed.
    """

    def __init__(self) -> None:
        try:
            module: Any = importlib.import_module("rapidocr_onnxruntime")
        except ImportError as error:
            # it may be there, and what OpenCV needs of the system not
            got = "none" if isinstance(error, ModuleNotFoundError) else str(error)
            raise MissingPackageError(
                f"expected the package rapidocr_onnxruntime for the text in pictures, got {got}. "
                "Run: pip install 'clip-text[ocr]'."
            ) from error
        self._engine = module.RapidOCR()

    def __call__(self, path: Path) -> str:
        """Read one picture; see :class:`~retrieval.protocols.TextReader`."""
        if not path.is_file() and path.exists():  # opening a pipe would wait for ever
            raise ValueError("expected a picture file, got a folder, pipe, socket or device.")
        with path.open("rb") as file:
            image = open_picture(file, ending_of(os.fspath(path)))
            with damage_told():
                if image.format == "JPEG":
                    image.draft(None, (_LONGEST_SIDE, _LONGEST_SIDE))
                image.load()
                shown = over_white(to_8_bit(upright(image)))
        shown.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        blue_green_red = np.ascontiguousarray(np.asarray(shown.convert("RGB"))[:, :, ::-1])
        lines, _ = self._engine(blue_green_red)
        return "\n".join(
            text for _, text, confidence in lines or () if float(confidence) >= _LEAST_CONFIDENCE
        )
