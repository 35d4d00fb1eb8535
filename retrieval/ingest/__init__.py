"""Pictures into a catalogue and an index: those of folders, of data sets, and from elsewhere."""

from retrieval.ingest.items import Item
from retrieval.ingest.migrating import MigrationReport, abandon_migration, migrate_index
from retrieval.ingest.recognition import RecognitionReport, recognise_texts
from retrieval.ingest.removal import remove_pictures
from retrieval.ingest.report import IngestReport, OnProgress, Progress
from retrieval.ingest.run import index_folder
from retrieval.ingest.sources import Unreadable, index_items
from retrieval.ingest.writer import UNCHANGED, IndexWriter

__all__ = [
    "UNCHANGED",
    "IndexWriter",
    "IngestReport",
    "Item",
    "MigrationReport",
    "OnProgress",
    "Progress",
    "RecognitionReport",
    "Unreadable",
    "abandon_migration",
    "index_folder",
    "index_items",
    "migrate_index",
    "recognise_texts",
    "remove_pictures",
]
