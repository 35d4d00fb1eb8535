"""A folder of pictures into a catalogue and an index."""

from retrieval.ingest.report import IngestReport, OnProgress, Progress
from retrieval.ingest.run import index_folder

__all__ = ["IngestReport", "OnProgress", "Progress", "index_folder"]
