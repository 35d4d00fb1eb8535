"""Names to objects: a model's name to its Encoder; the rooms that commands bring together."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from clip_text.names import Compat, RuntimeName

if TYPE_CHECKING:  # torch takes seconds to import: --help need not wait for it
    from clip_text import Encoder
    from clip_text.loading import AnyEncoder
    from clip_text.runtimes.auto import Tower
    from clip_text.runtimes.exported import Family
    from retrieval.protocols import EncodeAndClassify, TextReader
    from retrieval.stores import Location


def load_encoder(
    model: str,
    compat: Compat | None = None,
    runtime: RuntimeName | None = None,
    *,
    queries_only: bool = False,
    rows_only: bool = False,
    dimensions: int | None = None,
    trust_remote_code: bool = False,
) -> "AnyEncoder":
    """Load the model.

    Args:
        model: Folder, hub name or preset, as ``--model`` names it.
        compat: Whose tokens a text becomes, if not those the model was saved with.
        runtime: How it computes; what ``CLIP_TEXT_RUNTIME`` says, or ``auto``, if not given. A
            model that was exported has its own, whatever the variable says.
        queries_only: Whether it encodes a text now and then. The starter's exported form, which is
            there in a tenth of the time, then stands for ``auto``: it is made at first use and kept
            in the user's cache, and its rows are the starter's within the bound of ``auto``.
        rows_only: Whether it encodes pictures in number and nothing else is asked of it. The same
            holds then, except where there may be a GPU, which encodes them quicker.
        dimensions: How many of each row's first dimensions to keep; all if not given.
        trust_remote_code: Whether code that lies beside its weights may run.

    Raises:
        typer.BadParameter: If ``CLIP_TEXT_RUNTIME`` names no runtime.
    """
    import clip_text

    wanted = checked_runtime(runtime)
    may_stand = (queries_only or rows_only) and compat is None
    if may_stand and (kept := _standing_for(model, wanted, in_number=not queries_only)):
        return kept if dimensions is None else kept.truncated(dimensions)
    return clip_text.load_encoder(
        model,
        compat=compat,
        runtime=runtime,
        dimensions=dimensions,
        trust_remote_code=trust_remote_code,
    )


def load_own(model: str, compat: Compat | None = None, *, tokens_only: bool = False) -> "Encoder":
    """Load a model whose tokens follow the tokeniser contract: not one of another library.

    Args:
        model: As ``--model`` names it.
        compat: Whose tokens a text becomes, if not those the model was saved with.
        tokens_only: Whether nothing but its tokens is asked of it. The starter's exported form
            then stands for it, as in :func:`load_encoder`.

    Raises:
        ClipTextError: If it is one of another library.
    """
    from clip_text import ClipTextError, Encoder
    from clip_text.loading import library_of

    if library := library_of(model):
        raise ClipTextError(
            f"expected a model with this package's tokeniser, got {library}, which has another "
            "library's. Name a Chinese-CLIP, or leave --model out."
        )
    may_stand = tokens_only and compat is None
    if may_stand and (kept := _standing_for(model, checked_runtime(None), in_number=False)):
        return kept
    return Encoder.from_pretrained(model, compat=compat)


def kept_form(model: str, runtime: str, *, in_number: bool) -> "Family | None":
    """Say for what the exported form is written that stands for a model; None where none does.

    Args:
        model: As ``--model`` names it.
        runtime: As :func:`checked_runtime` gives it.
        in_number: Whether pictures in number are encoded, which a GPU would do quicker.
    """
    from clip_text.runtimes.kept import kept_family
    from clip_text.runtimes.processor import may_have_gpu

    if model != "starter" or runtime != "auto" or (in_number and may_have_gpu()):
        return None
    return kept_family()


def as_indexed(encoder: "AnyEncoder", index_dir: "Location") -> "AnyEncoder":
    """Cut an encoder's rows as those of an index are, if it is the model that built it.

    So ``--dimensions`` is said once, when an index is built. Any other index is left to whoever
    opens it: the encoder is given back as it is.

    Args:
        encoder: As it was loaded.
        index_dir: Where the index is; there may be none yet.
    """
    from retrieval.errors import RetrievalError
    from retrieval.stores import open_for_reading

    try:
        catalogue = open_for_reading(index_dir)
    except RetrievalError:  # opening it to use it says what is wrong
        return encoder
    embed_dim, fingerprint = catalogue.embed_dim, catalogue.fingerprint
    catalogue.close()
    if embed_dim < encoder.embed_dim:
        cut = encoder.truncated(embed_dim)
        if cut.fingerprint == fingerprint:
            return cut
    return encoder


def text_reader() -> "TextReader":
    """What reads the text in pictures.

    Raises:
        MissingPackageError: If it is not installed.
    """
    from retrieval.ingest.rapidocr import RapidReader

    return RapidReader()


def checked_runtime(runtime: RuntimeName | None) -> str:
    """Name the runtime that is meant: the option's, or that of ``CLIP_TEXT_RUNTIME``, or ``auto``.

    Raises:
        typer.BadParameter: If ``CLIP_TEXT_RUNTIME`` names none.
    """
    from clip_text.runtimes.names import asked_for

    try:
        return asked_for(runtime)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _standing_for(model: str, runtime: str, *, in_number: bool) -> "Encoder | None":
    """Load the exported form that stands for a model; None where none does, or can be had."""
    family = kept_form(model, runtime, in_number=in_number)
    return _kept_starter(family) if family else None


def _kept_starter(family: "Family") -> "Encoder | None":
    """Load the starter's exported form, or make it first; None where it cannot be."""
    from clip_text import Encoder
    from clip_text.errors import ClipTextError
    from clip_text.runtimes.exported import is_exported
    from clip_text.runtimes.kept import kept_starter, run_by

    folder, runtime = kept_starter(family), run_by(family)
    if is_exported(folder):
        with suppress(ClipTextError):  # truncated, say: it is made anew
            return Encoder.from_pretrained(folder, runtime=runtime)
    if _make_kept(folder, family):
        with suppress(ClipTextError):  # gone again: another process empties the cache
            return Encoder.from_pretrained(folder, runtime=runtime)
    return None


def _make_kept(folder: Path, family: "Family") -> bool:
    """Make the starter's exported form; say whether it is there now.

    A process of its own makes it: the gigabyte and more that torch takes, and never gives back, is
    gone with it, and what goes on here needs a third of that.
    """
    with suppress(ImportError):  # where only exported models run
        if "torch" in sys.modules:  # too late to do without
            from clip_text.exporting.kept import keep_starter

            return keep_starter(folder, family)
        if find_spec("torch"):
            root = str(Path(__file__).parents[1])
            paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
            # -P: never from the folder in which the command was called
            command = [sys.executable, "-P", "-m", "clip_text.exporting.kept", str(folder), family]
            environment = os.environ | {"PYTHONPATH": paths}
            made = subprocess.run(command, env=environment, check=False, capture_output=True)
            return made.returncode == 0
    return False


def runtime_name(encoder: "AnyEncoder", tower: "Tower") -> str | None:
    """Name what computes a tower; ``auto`` chooses that now, if it has not yet."""
    # an encoder that stands in for a model in tests and plug-ins may have no runtime
    of = getattr(encoder, "runtime_of", None)
    return None if of is None else str(of(tower).name)


def query_runtime(encoder: "AnyEncoder", head: str | None) -> str | None:
    """Name what computes queries for a service: where a head reads the tower, torch does both."""
    name = _query_head(encoder, head)
    if name is not None and encoder.heads[name].tower is None:
        return "torch"
    return runtime_name(encoder, "text")


def query_classifier(encoder: "AnyEncoder", head: str | None) -> "EncodeAndClassify | None":
    """What encodes and classifies queries in one pass; None where the model has no head for it.

    Raises:
        ClipTextError: If a head is named that the model has not.
    """
    name = _query_head(encoder, head)
    if name is None:
        return None
    own = cast("Encoder", encoder)  # no other has a head

    def classify(texts: Sequence[str]) -> "tuple[Any, list[tuple[str, float] | None]]":
        rows, found = own.encode_and_classify(texts, name, top_k=1)
        # a head of several labels may find none
        return rows, [(one.label, one.probability) if one.chosen else None for one in found]

    return classify


def model_name(model: str) -> str:
    """Name a model as others are told of it: never where on the disk it is."""
    from clip_text.libraries import parse

    if library := parse(model):
        return library.without_folders()
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else model


def token_counter(encoder: "AnyEncoder") -> "Callable[[Sequence[str]], list[int]] | None":
    """What counts the tokens of texts that the model reads; None where it says of none."""
    tokenizer = getattr(encoder, "tokenizer", None)  # a stand-in of tests may have none
    if tokenizer is None:
        return None
    return lambda texts: list(map(len, tokenizer.token_ids(texts)))


def text_classifier(
    encoder: "AnyEncoder",
) -> "Callable[[Sequence[str], str | None], list[list[tuple[str, float]]]] | None":
    """What says which labels texts have; None where the model has no head for it."""
    tasks = [head.task for head in getattr(encoder, "heads", {}).values()]
    if "classification" not in tasks:
        return None
    own = cast("Encoder", encoder)  # no other has a head

    def classify(texts: Sequence[str], head: str | None) -> list[list[tuple[str, float]]]:
        found = own.classify(texts, head)
        return [[(label, probability) for label, probability in one.ranked] for one in found]

    return classify


def _query_head(encoder: "AnyEncoder", head: str | None) -> str | None:
    """Name the head that classifies queries: the one asked for, or the only one there is."""
    from clip_text.errors import ClipTextError

    heads = [name for name, each in encoder.heads.items() if each.task == "classification"]
    if head is None:
        return heads[0] if len(heads) == 1 else None
    if head not in heads:
        raise ClipTextError(
            f"expected one of the model's classification heads "
            f"({', '.join(heads) or 'it has none'}), got {head!r}. Leave --head out, or "
            "train one: clip-text train classifier."
        )
    return head
