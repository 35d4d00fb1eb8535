"""Models as files that run elsewhere: ONNX, OpenVINO, and the layout of Immich."""

from clip_text.exporting.export import export
from clip_text.exporting.report import ExportReport, Target

__all__ = ["ExportReport", "Target", "export"]
