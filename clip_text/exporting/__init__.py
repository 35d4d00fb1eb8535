"""Models as files that run elsewhere: ONNX, OpenVINO, and the layout of Immich."""

from clip_text.exporting.report import ExportReport
from clip_text.exporting.run import export
from clip_text.names import Target

__all__ = ["ExportReport", "Target", "export"]
