"""What users choose by name: contracts, formats, runtimes. Importing this imports no library.

The command line offers these before anything that takes seconds is imported.
"""

from typing import Literal, get_args

__all__ = ["RUNTIMES", "Compat", "DataFormat", "Format", "Precision", "RuntimeName", "Target"]

Compat = Literal["clip_text", "cn_clip", "hf", "open_clip"]
"""Whose tokens a text becomes; see :mod:`clip_text.tokenizer.contracts`."""

Format = Literal["cn_clip", "hf", "open_clip"]
"""Of checkpoints that are read and written."""

DataFormat = Literal[
    "jsonl", "gallery", "table", "coco", "folder", "cn_clip", "parquet", "webdataset", "hub"
]
"""Of data sets that are read; see :mod:`clip_text.data.formats`."""

Target = Literal["onnx", "openvino", "immich"]
"""What an exported model is written for."""

RuntimeName = Literal[
    "auto",
    "torch",
    "torch-bf16",
    "openvino",
    "openvino-bf16",
    "openvino-int8",
    "onnxruntime",
    "onnxruntime-int8",
]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)

Precision = Literal["fp32", "bf16", "int8"]
"""What the matrix products of a tower are computed in."""
