"""A folder, its index and what is in it, for tests of indexing."""

from pathlib import Path

import numpy as np
from fakes import FakeEncoder, as_stored

from retrieval.catalogue import Catalogue
from retrieval.ingest import index_folder


class Bench:
    """A folder, an index and a fresh encoder for every run."""

    def __init__(self, folder: Path, index_dir: Path) -> None:
        self.folder = folder
        self.index_dir = index_dir
        self.encoder = FakeEncoder()

    def run(self, folder=None, **options):
        """Index the folder of the bench, or another one."""
        self.encoder = FakeEncoder(before_batch=options.pop("before_batch", None))
        self.report = index_folder(folder or self.folder, self.index_dir, self.encoder, **options)
        assert self.report.encoded == self.encoder.seen
        return self.report

    def counts(self):
        """What the report counts, without zeros."""
        names = [
            "added",
            "updated",
            "unchanged",
            "duplicates",
            "moved",
            "removed",
            "failed",
            "ignored",
            "encoded",
        ]
        return {name: n for name in names if (n := getattr(self.report, name))}

    def contents(self):
        """image_id → (row, feature) of everything indexed, checked against the files."""
        with Catalogue.open(self.index_dir) as catalogue:
            features = {
                row: feature
                for rows, page in catalogue.features()
                for row, feature in zip(rows.tolist(), page, strict=True)
            }
            records = list(catalogue)
        assert len(features) == len(records)
        for record in records:
            expected = as_stored(self.encoder.encode_file(record.path))
            assert np.array_equal(features[record.row], expected)
        return {record.picture.image_id: record.row for record in records}

    def captions(self):
        """image_id → caption and metadata, of pictures that have either."""
        with Catalogue.open(self.index_dir) as catalogue:
            return {
                record.picture.image_id: (record.picture.caption, record.metadata)
                for record in catalogue
                if record.picture.caption is not None or record.metadata
            }
