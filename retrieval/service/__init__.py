"""Hits over HTTP, and the page; needs ``clip-text[serve]``."""

from retrieval.errors import MissingPackageError


def missing_package(error: ModuleNotFoundError) -> MissingPackageError:
    """Say of an import that failed what to install."""
    return MissingPackageError(
        f"expected the package {error.name} for the search service, got none. "
        "Run: pip install 'clip-text[serve]'.",
        name=error.name,
    )


try:
    import fastapi  # noqa: F401
    import fastapi_offline  # noqa: F401
    import limits  # noqa: F401
    import prometheus_client  # noqa: F401
except ModuleNotFoundError as error:
    raise missing_package(error) from error
