"""What whoever runs the service decides: bounds, and what is allowed."""

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DEFAULTS", "Settings"]


class Settings(BaseModel):
    """How a service behaves; what it serves is said beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field(default="clip-text", description="The name on the page and in /docs.")
    batch: int = Field(
        default=32, ge=1, description="How many searches, or texts, are computed together at most."
    )
    waiting: int = Field(
        default=128,
        ge=1,
        description="How many requests wait for their turn; those beyond are answered 429.",
    )
    patience_s: float = Field(
        default=0.1,
        gt=0,
        description="Seconds a request is to wait for its turn at most, by how long others have "
        "taken lately; one that would wait longer is answered 429.",
    )
    timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds from which a request is answered 503."
    )
    body_bytes: int = Field(
        # room for the longest query with every character written as two \uXXXX escapes
        default=64 * 1024,
        ge=1024,
        description="Bytes of a request at most that holds no picture.",
    )
    upload_bytes: int = Field(
        default=32 * 1024 * 1024, ge=1024, description="Bytes of a request at most with pictures."
    )
    held_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=1024,
        description="Bytes at most that requests hold together, sent or fetched; what would be "
        "more is answered 503.",
    )
    pixels: int = Field(
        default=50_000_000,
        ge=1,
        description="Pixels of a picture at most that somebody sends: a small file may hold many.",
    )
    roots: tuple[Path, ...] = Field(
        default=(),
        description="Folders whose files may be added by their paths; by default there are none.",
    )
    uploads: Path | None = Field(
        default=None,
        description="Folder in which pictures that are sent are kept; that of an index in a folder "
        "if not given. Of an index on a server, none are kept then: they are found, but not shown. "
        "Several services over one such index share the folder.",
    )
    lock_wait_s: float = Field(
        default=5.0,
        gt=0,
        description="Seconds that writes wait at most while another process writes to the index.",
    )
    lock_rest_s: float = Field(
        default=1.0, ge=0, description="Seconds after the last write until others may write."
    )
    suggestions: int = Field(
        default=100_000,
        ge=0,
        description="How many different captions, tags and names are suggested from at most, the "
        "commonest; some 100 MB if so many are long. 0 suggests nothing.",
    )
    head_bytes: int = Field(
        default=32 * 1024, ge=1024, description="Bytes of a request's headers and address at most."
    )
    head_s: float = Field(
        default=10.0, gt=0, description="Seconds within which a request's headers have to come."
    )
    body_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds within which a request's body has to come, and one more for each 16 "
        "KiB that have, but never more than these without any.",
    )
    send_s: float = Field(
        default=30.0, gt=0, description="Seconds that a caller may leave an answer unread."
    )
    keys: Path | None = Field(
        default=None,
        description="File of the keys that callers need, as clip-text keys writes it.",
    )
    without_keys: Literal["search", "write", "admin"] | None = Field(
        default=None,
        description="The scope that everybody has where there are no keys; by default admin where "
        "only this machine reaches the service and no proxy says that it hands on, else search.",
    )
    session_s: float = Field(
        default=12 * 3600.0, gt=0, description="Seconds that the page may go on with a key."
    )
    rate: str | None = Field(
        default=None,
        pattern=r"^[1-9]\d{0,8} ?(/|per) ?[1-9]?\d{0,3} ?(second|minute|hour|day)s?$",
        description="How many requests a key, or an address without one, may send: 600/minute.",
    )
    allowed_hosts: tuple[str, ...] | None = Field(
        default=None,
        description="Names that the service is called by: pictures.example.org, *.example.org, or "
        "* for any. By default those of this machine, where only it can reach the service.",
    )
    cors_origins: tuple[str, ...] = Field(
        default=(),
        description="Origins, such as https://example.org, whose pages may use the service; * for "
        "all.",
    )
    fetch_images: bool = Field(
        default=False, description="May pictures be given by their address on the internet?"
    )
    fetch_bytes: int = Field(
        default=16 * 1024 * 1024, ge=1024, description="Bytes of a fetched picture at most."
    )
    fetch_s: float = Field(
        default=10.0, gt=0, description="Seconds that fetching a picture may take."
    )
    hung_s: float = Field(
        default=60.0,
        gt=0,
        description="Seconds after which one of several workers that does not answer is ended and "
        "started again; at least twice timeout_s.",
    )
    log: Literal["text", "json"] = Field(
        default="text", description="How a line of the log is written."
    )
    drain_s: float = Field(
        default=0.0,
        ge=0,
        description="Seconds for which a service told to end goes on, while /readyz is 503 and "
        "connections are closed after their answers.",
    )
    shutdown_s: float = Field(
        default=5.0,
        gt=0,
        description="Seconds that requests at work have then; those that take longer are 503.",
    )


DEFAULTS: Final = Settings()
"""What holds where nobody says otherwise."""
