"""Any dual encoder by its name: this package's own, or one of another library."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from clip_text.errors import CheckpointError, needs
from clip_text.libraries import LibraryName, parse, recognise
from clip_text.names import Compat
from clip_text.runtimes.exported import is_exported
from clip_text.runtimes.names import asked_for

if TYPE_CHECKING:  # seconds to import, and not there where only an exported model runs
    import torch

    from clip_text.encoder import Encoder
    from clip_text.libraries.encoder import LibraryEncoder
    from clip_text.libraries.sides import LibraryModel

AnyEncoder: TypeAlias = "Encoder | LibraryEncoder"

__all__ = ["AnyEncoder", "library_of", "load_encoder"]


def library_of(name: str | Path) -> LibraryName | None:
    """Say which library reads a model; None where :class:`clip_text.Encoder` does.

    Args:
        name: As for :func:`load_encoder`; the hub is asked of what looks like ``owner/model``.

    Raises:
        CheckpointError: If it names a library and no model.
    """
    if str(name) == "starter":
        return None
    return parse(name) or (None if is_exported(Path(name).expanduser()) else recognise(name))


def load_encoder(
    name: str | Path = "starter",
    device: "str | torch.device | None" = None,
    *,
    context_length: int | None = None,
    compat: Compat | None = None,
    runtime: str | None = None,
    dimensions: int | None = None,
    trust_remote_code: bool = False,
) -> "AnyEncoder":
    """Load any model that encodes texts and pictures.

    Args:
        name: What :meth:`clip_text.Encoder.from_pretrained` takes, or a model of another library:
            ``open_clip:ViT-B-16-SigLIP2/webli``, ``transformers:google/siglip2-base-patch16-224``,
            ``sentence_transformers:clip-ViT-B-32``, or a side of each of two,
            ``text=sentence_transformers:clip-ViT-B-32-multilingual-v1,image=…``. A folder, or a
            repository of the hub, is told by its files.
        device: Where to compute; the GPU if there is one.
        context_length: As there; models of other libraries keep their own.
        compat: As there; likewise.
        runtime: As there; models of other libraries are computed by ``torch`` or ``torch-bf16``,
            and ``auto`` is ``torch``.
        dimensions: How many of each row's first dimensions are kept; all if not given.
        trust_remote_code: Whether code that lies beside weights may run, which is never so
            otherwise.

    Raises:
        CheckpointError: If there is none, it is damaged or out of reach, it needs code that is not
            trusted, or it cannot have that context or contract.
        MissingPackageError: If its library, or the runtime's, is not installed.
        DimensionsError: If rows have not so many dimensions.
        ValueError: If there is no such runtime, or it does not compute this model.

    Example:
        >>> load_encoder("starter").encode_text(["红色的心", "一只狗"]).shape
        (2, 256)
    """
    library = library_of(name)
    if library is None:
        from clip_text.encoder import Encoder

        return Encoder.from_pretrained(
            name,
            device,
            context_length=context_length,
            compat=compat,
            runtime=runtime,
            dimensions=dimensions,
        )
    if context_length is not None or compat is not None:
        raise CheckpointError(
            f"expected no context_length and no tokeniser contract for {library}, which has its "
            "own, got one. Leave it out."
        )
    chosen = _runtime(library, runtime)
    with needs("clip-text", "models of other libraries"):
        import torch

        from clip_text.libraries.encoder import LibraryEncoder

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = _load(library, place, runtime, trust_remote_code)
    return LibraryEncoder(model, place, chosen, dimensions)


def _runtime(library: LibraryName, runtime: str | None) -> str:
    """Choose among what computes modules of others; the environment's wish gives way.

    Raises:
        ValueError: If another runtime is asked for by name.
    """
    wanted = asked_for(runtime)
    if wanted in {"torch", "torch-bf16"}:
        return wanted
    if wanted == "auto" or runtime is None:
        return "torch"
    raise ValueError(
        f"expected runtime auto, torch or torch-bf16 for {library}, a model of another library, "
        f"got {wanted!r}. Leave it out."
    )


def _load(
    library: LibraryName, device: "torch.device", runtime: str | None, trusted: bool
) -> "LibraryModel":
    if library.library == "halves":
        return _halves(library, device, runtime, trusted)
    with needs("clip-text", f"models of {library.library}"):
        adapter: Any = import_module(f"clip_text.libraries.{library.library}")
    model: LibraryModel = adapter.load(library.name, device, trust_remote_code=trusted)
    return model


def _halves(
    name: LibraryName, device: "torch.device", runtime: str | None, trusted: bool
) -> "LibraryModel":
    from clip_text.libraries.halves import joined

    texts, pictures = (
        load_encoder(half, device, runtime=runtime, trust_remote_code=trusted)
        for half in (name.name, name.image)
    )
    return joined(str(name), texts, pictures)
