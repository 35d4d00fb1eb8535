"""Training: thin subclasses of ``transformers.Trainer``."""
