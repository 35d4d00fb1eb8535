"""The model card of an exported folder."""

from pathlib import Path

from clip_text.encoder import Encoder
from clip_text.exporting.immich import NAMES, immich_width
from clip_text.exporting.report import ExportReport

CARD_FILE = "README.md"

_HOW = """\
It needs no torch:

```bash
clip-text index photos --model {folder}
```

```python
from clip_text import Encoder

Encoder.from_pretrained("{folder}").encode_text(["红色的心"])
```
"""

_IMMICH = """\
See docs/export.md of clip-text: the folder takes the place of one of Immich's own models.
"""


def card(source: Encoder, place: Path, report: ExportReport, folder: str) -> str:
    """Write what was exported, how far it is from its source, and the source's own card.

    Args:
        source: Model that was exported.
        place: Its folder or file; a README.md there is its card.
        report: What was measured of the export.
        folder: Name of the exported folder.
    """
    front, body = _parts(place)
    name, size = report.source, source.preprocessing.size
    facts = {
        "made from": f"{name}, fingerprint {source.fingerprint}",
        "to": f"{report.target}, {report.parity.precision}",
        "text": f"at most {source.context_length} tokens, contract {source.tokenizer.contract}",
        "picture": f"squashed to {size} x {size}, bicubic",
        "rows": f"{source.embed_dim} numbers of length 1; scores are cosines",
    }
    if report.target == "immich":
        width = immich_width(source.embed_dim)
        facts["in Immich"] = f"{width} numbers, zeros behind ours; the name {NAMES[width]}"
    if report.calibration is not None:
        facts["calibrated with"] = report.calibration
    if report.opset is not None:
        facts["opset"] = str(report.opset)
    rows = "\n".join(f"| {what} | {said} |" for what, said in facts.items())
    figures = "\n".join([*report.parity.lines(), *report.recall_lines()])
    how = _IMMICH if report.target == "immich" else _HOW
    below = f"\n## The card of {name}\n\n{body}" if body else ""
    return (
        f"{front}# {folder}\n\nMade by `clip-text export`. What holds for {name} holds for this: "
        f"its licence, its limits.\n\n| | |\n|---|---|\n{rows}\n\n## Against {name}\n\n```\n"
        f"{figures}\n```\n\n## Running it\n\n{how.format(folder=folder)}{below}"
    )


def _parts(source: Path) -> tuple[str, str]:
    """Give the metadata at the head of a source's card, and the rest a level of headings down."""
    path = source / CARD_FILE
    if not path.is_file():
        return "", ""
    text = path.read_text(encoding="utf-8", errors="replace")
    front = ""
    if text.startswith("---\n") and "\n---\n" in text[4:]:
        end = text.index("\n---\n", 4) + len("\n---\n")
        front, text = text[:end] + "\n", text[end:]
    lines = [f"##{line}" if line.startswith("#") else line for line in text.strip().splitlines()]
    return front, "\n".join(lines) + "\n"
