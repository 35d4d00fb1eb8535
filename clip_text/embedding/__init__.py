"""Pictures in bulk → shards of features in Parquet, by workers on one machine or on many.

:func:`embed` cuts a source into fixed slices and has a :class:`Runner` embed those that are not
done yet: :class:`~clip_text.embedding.local.Local`, or
:class:`~clip_text.embedding.ray.RayActors`. What one slice becomes, and how it is put in its place,
is in :mod:`clip_text.embedding.work` and knows neither.
"""

from clip_text.embedding.finished import read_embedded
from clip_text.embedding.options import Dtype, Settings, Wanted
from clip_text.embedding.run import Engine, Report, Runner, Standing, embed

__all__ = [
    "Dtype",
    "Engine",
    "Report",
    "Runner",
    "Settings",
    "Standing",
    "Wanted",
    "embed",
    "read_embedded",
]
