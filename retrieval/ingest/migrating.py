"""An index moved to another model: encoded anew beside it, exchanged at the end in one step.

What the model makes of the pictures is gathered in ``INDEX.migrating``, as long as it takes, while
the index is searched and written. Then, as its one writer, it is brought up to date, and all
features of the index are exchanged in one transaction of SQLite's: at any instant, whatever is
killed, INDEX is whole, of the one model or of the other.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.catalogue import CATALOGUE_NAME, Catalogue
from retrieval.catalogue.exchange import (
    GatheredFeatures,
    copy_catalogue,
    cut_features,
    exchange_features,
    lacking,
)
from retrieval.errors import (
    IndexLockedError,
    IndexMismatchError,
    IndexNotFoundError,
    RetrievalError,
)
from retrieval.index import Recipe, choose_recipe, compact, recipe_of, state_of
from retrieval.ingest.batches import Threads
from retrieval.ingest.migration_place import MigrationPlace
from retrieval.ingest.reencoding import Reencoding
from retrieval.ingest.report import OnProgress, Pace
from retrieval.protocols import Encoder
from retrieval.records import Record
from retrieval.stores import open_for_writing

__all__ = ["MigrationReport", "abandon_migration", "migrate_index"]

_LOG = logging.getLogger(__name__)
_PAGE = 1024
# What came at the very end is encoded while nobody else can write: no more than so many.
_MOST_AT_THE_END = 256
_LOOKED_S = 0.02  # between looks whether others hold the lock still; services give it for 0.05
_CAUGHT_UP_S = 2.0


@dataclass(slots=True)
class MigrationReport:
    """What became of a migration.

    Args:
        is_moved: Whether the index is the model's now, by this call.
        is_same: Whether it was the model's before.
        total: Pictures in the index.
        encoded: Pictures that the model has read in this call.
        known: Pictures whose content had a feature of the model already: that of an earlier call,
            of another picture with this content, of another index.
        dropped: Pictures that were left out, which nobody can encode.
        missing: Their paths, or ids where they have none, each with the reason on one line; where
            the index was not moved, that is why.
        kept: Where the index of before lies; None where it was not kept.
        old_bytes: Bytes of its catalogue.
        seconds: How many seconds the call took.
    """

    is_moved: bool = False
    is_same: bool = False
    total: int = 0
    encoded: int = 0
    known: int = 0
    dropped: int = 0
    missing: list[tuple[Path | str, str]] = field(default_factory=list)
    kept: Path | None = None
    old_bytes: int = 0
    seconds: float = 0.0

    @property
    def images_per_second(self) -> float:
        """Pictures encoded per second of the whole call."""
        return self.encoded / self.seconds if self.seconds > 0.0 else 0.0


def migrate_index(
    index_dir: Path,
    encoder: Encoder,
    *,
    model: str = "",
    cut: bool = False,
    batch_size: int = 64,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
    on_wait: Callable[[], None] | None = None,
    drop_missing: bool = False,
    keep_old: bool = True,
    features_from: Sequence[Path] = (),
) -> MigrationReport:
    """Have another model's features of the same pictures in an index.

    Pictures keep their rows, ids and all that is said of them; sources, failures, texts that were
    read and words stay; a calibration of the model before is forgotten. The index is searched and
    written meanwhile. What ends the call, it goes on there when it is called again.

    Args:
        index_dir: Folder of the index.
        encoder: The model that it is to be of.
        model: What people call the model.
        cut: The features that are there have only to be cut to the encoder's width: it is the same
            model, whose first dimensions are rows of their own. Nothing is encoded.
        batch_size: Pictures per call of the encoder.
        workers: Threads that read and decode; by default one per core, at most 8.
        on_progress: Called after each batch with where it stands.
        on_wait: Called once if, at the end, others write to the index, who are waited for.
        drop_missing: Leave out of the index what cannot be encoded: where the file is gone or has
            another content, or there never was one. Else the index is not moved.
        keep_old: Keep the index as it was in ``INDEX.before-migration``.
        features_from: Folders of other indexes of the model: contents that one has are not encoded.
            Those that were kept of this index are looked into by themselves.

    Returns:
        What was done; where it was not moved, what is missing.

    Raises:
        IndexNotFoundError: If there is no index.
        IndexMismatchError: If a migration to another model was begun, or one of ``features_from``
            is of another.
        IndexLockedError: If another process moves the index.
        EncoderError: If the encoder returns anything but finite unit rows.
        StorageError: If the disk is full or failing; the index is as it was.
    """
    threads, started = Threads(batch_size, workers), time.monotonic()
    report = MigrationReport()
    with Catalogue.open(index_dir) as there:
        report.total = len(there)
        report.is_same = _is_of(there, encoder)
    place = MigrationPlace(index_dir)
    if report.is_same and not place.is_there:
        return report
    with place.alone():
        migration = _Migration(place, encoder, report, on_wait or (lambda: None), keep_old=keep_old)
        if report.is_same:  # one that was killed when all but tidying up was done, or another
            if place.is_of_another(encoder):
                return report
            migration.end_sealing()
        else:
            with GatheredFeatures.begin(
                place.gathered,
                fingerprint=encoder.fingerprint,
                embed_dim=encoder.embed_dim,
                model=model or encoder.fingerprint,
            ) as gathered:
                work = Reencoding(encoder, gathered, threads, Pace(0, None))
                if cut:
                    migration.cut()
                else:
                    migration.take_over(work, features_from)
                    with Catalogue.open(index_dir) as catalogue:
                        work.pace = Pace(len(lacking(catalogue, gathered)), on_progress)
                    migration.run(work, drop_missing=drop_missing)
        if report.is_moved or report.is_same:
            report.kept = place.tidy()
    place.remove()
    report.seconds = time.monotonic() - started
    return report


def abandon_migration(index_dir: Path) -> int:
    """Forget a migration that was begun; the index stays as it is.

    Returns:
        How many bytes are free again.

    Raises:
        IndexNotFoundError: If none was begun.
        IndexLockedError: If one is at work.
    """
    place = MigrationPlace(index_dir)
    if not place.is_there:
        raise IndexNotFoundError(
            f"expected a migration of {index_dir} that was begun, got none. There is nothing to "
            "forget."
        )
    with place.alone():
        size = sum(path.stat().st_size for path in place.folder.rglob("*") if path.is_file())
        kept = place.tidy()
        if kept is not None:
            size -= sum(path.stat().st_size for path in kept.iterdir())
    place.remove()
    return size


class _Migration:
    """One call of :func:`migrate_index`.

    Args:
        place: Where things lie.
        encoder: The model that the index is to be of.
        report: Is told what was done.
        on_wait: Called once if others are waited for.
        keep_old: Whether the index is kept as it was.
    """

    def __init__(
        self,
        place: MigrationPlace,
        encoder: Encoder,
        report: MigrationReport,
        on_wait: Callable[[], None],
        *,
        keep_old: bool,
    ) -> None:
        self._place, self._encoder, self._report = place, encoder, report
        self._index_dir = place.index_dir
        self._on_wait, self._keep_old = on_wait, keep_old

    def take_over(self, work: Reencoding, named: Sequence[Path]) -> None:
        """Take what other indexes of the model have, in place of encoding it."""
        for path in named:
            with Catalogue.open(path) as other:
                if not _is_of(other, self._encoder):
                    raise IndexMismatchError(
                        f"expected features of the model {self._encoder.fingerprint} (width "
                        f"{self._encoder.embed_dim}) in {path}, got those of {other.fingerprint} "
                        f"(width {other.embed_dim}). Name another index, or none."
                    )
                self._take_over_from(other, work)
        for path in self._place.kept():
            with contextlib.suppress(RetrievalError), Catalogue.open(path) as other:
                if _is_of(other, self._encoder):
                    self._take_over_from(other, work)

    def _take_over_from(self, other: Catalogue, work: Reencoding) -> None:
        if other.schema_version == 1:  # features in another form; few are left of those
            return
        found = {}
        for record in self._due(work):
            content = record.picture.content_hash
            if content is not None and (known := other.find_content(content)):
                found[content] = known[1]
        if found:
            work.gathered.keep(found, other.precisions or [None])

    def run(self, work: Reencoding, *, drop_missing: bool) -> None:
        """Encode what there is, and when nothing is left exchange the features."""
        while True:
            generation = self._catch_up(work)
            if work.failed and not drop_missing and self._is_refused(work):
                break
            with self._writing(work, generation) as catalogue:
                if self._finish(catalogue, work, drop_missing=drop_missing):
                    break
        report, tally = self._report, work.tally
        report.encoded, report.known = tally.encoded, tally.known
        if report.is_moved:  # with what was there before anything was read
            report.known = max(0, report.total - tally.encoded)

    def cut(self) -> None:
        """Cut the features to the encoder's width."""
        with self._writing() as catalogue:
            if self._is_done(catalogue):
                return
            recipe = self._keep(catalogue)
            fingerprint, embed_dim = _model_of(self._encoder)
            cut_features(catalogue, fingerprint=fingerprint, embed_dim=embed_dim)
            self._report.known = len(catalogue)
            self._end(catalogue, recipe)

    def end_sealing(self) -> None:
        """Seal the vectors where only those of the model before are sealed."""
        with Catalogue.open(self._index_dir) as catalogue:
            if state_of(self._index_dir, catalogue)["state"] == "of another catalogue":
                self._seal(None)

    def _catch_up(self, work: Reencoding) -> int:
        """Encode what there is now; gives the generation of it, at least."""
        with Catalogue.open(self._index_dir) as catalogue:
            generation = catalogue.generation
        work.go_through(self._due(work))
        return generation

    def _due(self, work: Reencoding, catalogue: Catalogue | None = None) -> Iterator[Record]:
        """Give the pictures that have to be encoded, but for those that it was tried with."""
        with contextlib.ExitStack() as held:
            if catalogue is None:
                catalogue = held.enter_context(Catalogue.open(self._index_dir))
            rows = lacking(catalogue, work.gathered)
            for start in range(0, len(rows), _PAGE):
                for row, record in catalogue.records(rows[start : start + _PAGE]).items():
                    tried = work.failed.get(row)
                    if tried is None or tried[0] != record.picture:
                        yield record

    def _is_refused(self, work: Reencoding) -> bool:
        """Tell what is missing, if anything still is."""
        with Catalogue.open(self._index_dir) as catalogue:
            left = [row for row in lacking(catalogue, work.gathered) if row in work.failed]
            self._tell_missing(catalogue, left, work)
        return bool(self._report.missing)

    def _finish(self, catalogue: Catalogue, work: Reencoding, *, drop_missing: bool) -> bool:
        """Exchange the features, as the one writer; False where too much is left to encode."""
        if self._is_done(catalogue):
            return True
        due = list(self._due(work, catalogue))
        if len(due) > _MOST_AT_THE_END:
            return False
        work.go_through(due)
        left = lacking(catalogue, work.gathered)
        self._tell_missing(catalogue, left, work)
        if left and not drop_missing:
            return True
        recipe = self._keep(catalogue)
        exchange_features(catalogue, work.gathered, left)
        self._report.dropped = len(left)
        self._end(catalogue, recipe)
        return True

    def _is_done(self, catalogue: Catalogue) -> bool:
        """See whether somebody else has built it anew by the model meanwhile."""
        self._report.is_same = _is_of(catalogue, self._encoder)
        return self._report.is_same

    def _keep(self, catalogue: Catalogue) -> Recipe | None:
        """Keep the index as it is, if it is to be; gives what its vectors are sealed by."""
        before = self._place.before
        if before.is_dir():  # of a call that was killed
            shutil.rmtree(before)
        if self._keep_old:
            self._report.old_bytes = copy_catalogue(catalogue, before)
        else:
            self._report.old_bytes = (self._index_dir / CATALOGUE_NAME).stat().st_size
        recipe = recipe_of(self._index_dir, catalogue)
        if recipe is not None and catalogue.embed_dim != self._encoder.embed_dim:
            return choose_recipe(len(catalogue), self._encoder.embed_dim)  # codes have a width
        return recipe

    def _end(self, catalogue: Catalogue, recipe: Recipe | None) -> None:
        """Seal the vectors as they were sealed, and tell what the index has now."""
        self._report.is_moved, self._report.total = True, len(catalogue)
        if recipe is not None:
            self._seal(recipe)

    def _seal(self, recipe: Recipe | None) -> None:
        try:
            compact(self._index_dir, recipe)
        except RetrievalError as error:  # searches do without
            _LOG.warning("cannot seal the vectors in %s: %s", self._index_dir, error)

    @contextlib.contextmanager
    def _writing(self, work: Reencoding | None = None, generation: int = 0) -> Iterator[Catalogue]:
        """Be the one writer of the index; where another one is, encode what that writes."""
        caught_up, has_told = time.monotonic(), False
        with contextlib.ExitStack() as held:
            while True:
                opened = open_for_writing(self._index_dir, only_if_written=True)
                try:
                    catalogue, _ = held.enter_context(opened)
                    break
                except IndexLockedError:
                    if not has_told:
                        self._on_wait()
                    has_told = True
                time.sleep(_LOOKED_S)
                if work is not None and time.monotonic() - caught_up > _CAUGHT_UP_S:
                    with Catalogue.open(self._index_dir) as there:
                        has_grown = there.generation != generation
                    generation = self._catch_up(work) if has_grown else generation
                    caught_up = time.monotonic()
            assert isinstance(catalogue, Catalogue)
            yield catalogue

    def _tell_missing(self, catalogue: Catalogue, left: list[int], work: Reencoding) -> None:
        self._report.missing = []
        for start in range(0, len(left), _PAGE):
            for row, record in catalogue.records(left[start : start + _PAGE]).items():
                name = record.path or record.picture.image_id
                self._report.missing.append((name, work.failed[row][1]))


def _model_of(encoder: Encoder) -> tuple[str, int]:
    return encoder.fingerprint, encoder.embed_dim


def _is_of(catalogue: Catalogue, encoder: Encoder) -> bool:
    return (catalogue.fingerprint, catalogue.embed_dim) == _model_of(encoder)
