"""Hits over HTTP, and the page; needs ``clip-text[serve]``."""

from retrieval.errors import needs

with needs("serve", "the search service"):
    import fastapi  # noqa: F401
    import fastapi_offline  # noqa: F401
    import limits  # noqa: F401
    import prometheus_client  # noqa: F401
