"""Pictures into a catalogue and an index: those of folders, and those from elsewhere."""

from retrieval.ingest.items import Item
from retrieval.ingest.removal import remove_pictures
from retrieval.ingest.report import IngestReport, OnProgress, Progress
from retrieval.ingest.run import index_folder
from retrieval.ingest.writer import UNCHANGED, IndexWriter

__all__ = [
    "UNCHANGED",
    "IndexWriter",
    "IngestReport",
    "Item",
    "OnProgress",
    "Progress",
    "index_folder",
    "remove_pictures",
]
