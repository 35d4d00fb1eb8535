"""Training: thin subclasses of ``transformers.Trainer``, which needs the extra ``train``."""

from clip_text.errors import needs

with needs("clip-text[train]", "training"):
    import accelerate  # noqa: F401  (where transformers misses it, it names no extra of ours)
