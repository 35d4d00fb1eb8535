"""What was measured of an export."""

from dataclasses import dataclass
from typing import Any

from clip_text.exporting.parity import ExportParity
from clip_text.names import Target
from clip_text.runtimes.onnxruntime import OPSET

REPORT_FILE = "report.json"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was measured of an export.

    Args:
        source: Name of the model.
        target: onnx, openvino or immich.
        parity: Its rows against the model's.
        recalls: By what was measured, text-to-image recall@10 in [0, 1]; empty where no data was
            given.
        seconds: Time that the whole export took, in seconds.
        calibration: What int8 was calibrated with; None in another precision.
    """

    source: str
    target: Target
    parity: ExportParity
    recalls: dict[str, float]
    seconds: float
    calibration: str | None = None

    @property
    def opset(self) -> int | None:
        """Version of ONNX's operators that the graphs need; None for OpenVINO's own files."""
        return None if self.target == "openvino" else OPSET

    def recall_lines(self) -> list[str]:
        """Say what was measured of recall, a line each."""
        said = []
        before = self.recalls.get("source", 0.0)
        for name, recall in self.recalls.items():
            change = "" if name == "source" else f" ({100 * (recall - before):+.2f} points)"
            said.append(f"recall@10       {100 * recall:.2f}%  {name}{change}")
        return said

    def as_json(self) -> dict[str, Any]:
        """Say it as ``report.json`` and ``--json`` do."""
        return {
            "source": self.source,
            "target": self.target,
            "precision": self.parity.precision,
            "calibration": self.calibration,
            "opset": self.opset,
            "recall@10": self.recalls,
            "seconds": round(self.seconds, 1),
            **self.parity.as_json(),
        }
