"""What users choose of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["BATCH_SIZE", "SHARD_SIZE", "Dtype", "Settings", "Wanted"]

SHARD_SIZE = 4096
"""Pictures of a shard, by default: some minutes of one core, a few megabytes of features."""
BATCH_SIZE = 64

Dtype = Literal["float32", "float16"]
"""How features are stored."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a source is to be read.

    Args:
        kinds: Fields or columns of captions; the usual one if None.
        images: Folder that names of pictures are relative to.
        image_field: Field or column of the picture, if it has an uncommon name.
        id_field: Column of the ids in Parquet; ``image_id``, or file and row, if None.
    """

    kinds: Sequence[str] | None = None
    images: str | None = None
    image_field: str | None = None
    id_field: str | None = None

    @property
    def of_columns(self) -> str | None:
        """Name an option that was given and has no use for tars; None if there is none."""
        names = ("images", "image_field", "id_field")
        return next((name for name in names if getattr(self, name)), None)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the bytes of shards depend on, beside model and source; None: as before, or usual.

    Args:
        shard_size: Pictures of a shard.
        batch_size: Pictures per forward pass.
        dtype: How features are stored.
        threads: That compute in each worker.
    """

    shard_size: int | None = None
    batch_size: int | None = None
    dtype: Dtype | None = None
    threads: int | None = None
