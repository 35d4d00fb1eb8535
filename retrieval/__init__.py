"""Features in, hits out: catalogue, ingest, index, searcher, service."""
