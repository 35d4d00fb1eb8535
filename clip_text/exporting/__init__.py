"""Models as files that run elsewhere: ONNX, OpenVINO, and the layout of Immich."""

from clip_text.exporting.report import ExportReport, Target
from clip_text.exporting.run import export

__all__ = ["ExportReport", "Target", "export"]
