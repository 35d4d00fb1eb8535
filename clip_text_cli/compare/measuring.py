"""One model of a comparison, in the process that it has for itself."""

import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from clip_text.errors import DataError
from clip_text.progress import Progress
from clip_text_cli import wiring
from clip_text_cli.compare.sources import Source

if TYPE_CHECKING:  # seconds to import: --help need not wait for it
    from clip_text.data.collection import RetrievalSet
    from clip_text.evaluation.measure import Encoded
    from clip_text.loading import AnyEncoder
    from clip_text.names import RuntimeName

__all__ = ["Facts", "Job", "Measured", "measure_model", "peak_bytes"]

TEXTS, IMAGES, FACTS = "texts.npy", "images.npy", "facts.json"


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with one model; sent to its process.

    Args:
        model: As the command names it.
        source: What to encode.
        digest: Of what the source held when it was read first.
        runtime: How to compute; as the environment says if None.
        dimensions: How many of each row's first dimensions to keep; all if None.
        batch_size: Texts, and pictures, that the model is given at once.
        keep: Folder of what is kept.
        trust_remote_code: Whether code that lies beside the model's weights may run.
    """

    model: str
    source: Source
    digest: str
    runtime: "RuntimeName | None"
    dimensions: int | None
    batch_size: int
    keep: Path
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What a model is, and what it cost; as JSON has it.

    Args:
        fingerprint: As an index remembers it.
        embed_dim: Width of its rows.
        context_length: Longest text in tokens; None where that is not known.
        runtimes: What computed texts and pictures, by tower; None where it has no name.
        texts: How many there were.
        pictures: How many there were, those that cannot be read among them.
        text_seconds: See :class:`clip_text.evaluation.pace.Paced`.
        picture_seconds: Likewise.
        peak_bytes: Most memory that its process held; None where the system does not say.
        gpu_bytes: Most memory of the GPU that PyTorch reserved; None without one.
        parameters: Of both towers; None where that is not known.
        disk_bytes: Of its files; None where that is not known.
        digests: What names each picture's content.
        unreadable: Position of each picture that it cannot read, and why.
    """

    fingerprint: str
    embed_dim: int
    context_length: int | None
    runtimes: dict[str, str | None]
    texts: int
    pictures: int
    text_seconds: float
    picture_seconds: float
    peak_bytes: int | None
    gpu_bytes: int | None
    parameters: int | None
    disk_bytes: int | None
    digests: list[str]
    unreadable: list[tuple[int, str]]

    @property
    def texts_per_second(self) -> float:
        """By the wall's clock, from words to rows."""
        return self.texts / self.text_seconds

    @property
    def pictures_per_second(self) -> float:
        """By the wall's clock, from files to rows."""
        return (self.pictures - len(self.unreadable)) / self.picture_seconds


@dataclass(frozen=True, slots=True)
class Measured:
    """One model, measured.

    Args:
        model: As the command names it.
        facts: What it is and what it cost.
        folder: Where its rows are.
        was_kept: Whether they are of an earlier run.
    """

    model: str
    facts: Facts
    folder: Path
    was_kept: bool

    def encoded(self) -> "Encoded":
        """Read its rows; those of pictures that it cannot read are NaN."""
        import numpy as np

        from clip_text.evaluation.measure import Encoded

        texts, images = (
            np.load(self.folder / name, allow_pickle=False) for name in (TEXTS, IMAGES)
        )
        return Encoded(texts, images, self.facts.digests)


def measure_model(job: Job, progress: Progress, *, may_choose: bool = False) -> Measured | None:
    """Encode and time what a job says, or find what was kept of the same.

    Args:
        job: What to do.
        progress: Is told how many ``texts`` and ``pictures`` are done.
        may_choose: Go on where ``auto`` has chosen its runtimes only now; to choose takes memory
            that the model itself does not.

    Returns:
        The model, measured; None where ``auto`` has chosen only now, and a process that finds the
        choice made is to be asked.

    Raises:
        ClipTextError: If the model cannot be loaded, or does not do.
        DataError: If the data has changed since it was read first.
    """
    from clip_text.data.identity import collection_digest
    from clip_text.model_info import model_size
    from clip_text.runtimes.processor import describe_processor
    from clip_text.storage import digest, keep

    collection = job.source.read()
    if collection_digest(collection) != job.digest:
        raise DataError(
            f"expected {collection.name} as it was when the comparison began, got it changed. "
            "Run the command again."
        )
    encoder = wiring.load_encoder(
        job.model,
        runtime=job.runtime,
        dimensions=job.dimensions,
        trust_remote_code=job.trust_remote_code,
    )
    if _has_chosen_now(encoder) and not may_choose:
        return None
    runtimes = {
        "text": wiring.runtime_name(encoder, "text"),
        "image": wiring.runtime_name(encoder, "image"),
    }
    machine = [describe_processor(), _gpu()]
    # an export has its source's fingerprint, and another pace and size
    size = model_size(job.model, encoder)
    key = [encoder.fingerprint, job.model, size, runtimes, job.digest, job.batch_size, machine]
    made = False

    def make(folder: Path) -> None:
        nonlocal made
        _encode(encoder, collection, job, runtimes, size, folder, progress)
        made = True

    folder = job.keep / digest(key)[:16]
    job.keep.mkdir(parents=True, exist_ok=True)
    facts = keep(folder, key, make, read_facts, folder=True)
    return Measured(job.model, facts, folder, not made)


def read_facts(folder: Path) -> Facts:
    """Read what was kept beside a model's rows.

    Raises:
        OSError: If there is nothing that can be read.
        ValueError: If it is something else.
    """
    import json

    told = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    unreadable = [(at, reason) for at, reason in told.pop("unreadable")]
    return Facts(**told, unreadable=unreadable)


def peak_bytes() -> int | None:
    """Most memory that this process has held so far; None where the system does not say.

    ``ru_maxrss`` of a child begins with what the process held that started it; VmHWM begins anew.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    with suppress(ImportError):  # Windows has none
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return None


def _encode(
    encoder: "AnyEncoder",
    collection: "RetrievalSet",
    job: Job,
    runtimes: dict[str, str | None],
    size: tuple[int | None, int | None],
    folder: Path,
    progress: Progress,
) -> None:
    """Encode and time what a job says into a folder."""
    import numpy as np

    from clip_text.evaluation.pace import encode_paced
    from clip_text.runtimes.processor import available_cores
    from clip_text.storage import write_json

    paced = encode_paced(
        encoder,
        collection,
        batch_size=job.batch_size,
        workers=available_cores(),
        allow_unreadable=not job.source.is_labelled,
        progress=progress,
    )
    parameters, disk_bytes = size
    facts = Facts(
        fingerprint=encoder.fingerprint,
        embed_dim=encoder.embed_dim,
        context_length=encoder.context_length,
        runtimes=runtimes,
        texts=len(collection.texts),
        pictures=len(collection.image_ids),
        text_seconds=paced.text_seconds,
        picture_seconds=paced.picture_seconds,
        peak_bytes=peak_bytes(),
        gpu_bytes=_gpu_bytes(),
        parameters=parameters,
        disk_bytes=disk_bytes,
        digests=paced.encoded.digests,
        unreadable=sorted(paced.unreadable.items()),
    )
    np.save(folder / TEXTS, paced.encoded.texts, allow_pickle=False)
    np.save(folder / IMAGES, paced.encoded.images, allow_pickle=False)
    write_json(folder / FACTS, asdict(facts))


def _has_chosen_now(encoder: "AnyEncoder") -> bool:
    """Have ``auto`` choose the runtimes that it has not chosen yet; say whether there were any."""
    from clip_text.runtimes.auto import AutoRuntime, Tower

    runtime = getattr(encoder, "runtime", None)
    if not isinstance(runtime, AutoRuntime):
        return False
    unknown = [tower for tower in get_args(Tower) if runtime.recall(tower) is None]
    for tower in unknown:
        runtime.of(tower)
    return bool(unknown)


def _gpu() -> str | None:
    """Name the GPU that PyTorch computes on; None without one, or without PyTorch."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None


def _gpu_bytes() -> int | None:
    """Most memory of the GPU that PyTorch has reserved; None without a GPU."""
    return int(sys.modules["torch"].cuda.max_memory_reserved()) if _gpu() else None
