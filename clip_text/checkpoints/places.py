"""Where a checkpoint is: bundled, on this machine, or on the Hugging Face hub."""

from pathlib import Path

from clip_text.errors import CheckpointError

STARTER = "starter"
"""Name of the checkpoint that comes with the package."""

_SMALL = ("*.json", "*.txt", "*.model")
# In this order, and no more than one: hub folders often hold the same weights several times.
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")

HUGGING_FACE = ("model.safetensors", "pytorch_model.bin")
"""Names of transformers' weights, in order of preference; each may be in shards with an index."""

INDEX = ".index.json"


def resolve(name: str | Path) -> Path:
    """Find a checkpoint: ``"starter"``, a local folder or file, or a Hugging Face hub name.

    Only a name that is nothing local and looks like ``owner/model`` asks the hub. The published
    Chinese-CLIPs hold transformers' files and a ``clip_cn_*.pt`` of the same weights there: the
    former are meant.

    Raises:
        CheckpointError: If there is no such thing, or the hub does not give it.
    """
    if str(name) == STARTER:
        return Path(__file__).parents[1] / "starter"
    path = Path(name).expanduser()
    if path.is_dir() or path.is_file():
        return path
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise CheckpointError(
            "expected a checkpoint folder or file, a hub name (owner/model) or 'starter', "
            f"got {str(name)!r}. Check the path."
        )
    return _from_hub(str(name))


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (nothing else needs the hub)
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
    )

    try:
        for pattern in _WEIGHTS:
            folder = Path(snapshot_download(name, allow_patterns=[*_SMALL, pattern]))
            if any(folder.glob(pattern)):
                break
    except GatedRepoError as error:
        raise CheckpointError(
            f"expected a model that may be read, got {name!r}, which is gated. Ask for access on "
            "its page of the hub, then log in with: hf auth login."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(
            f"expected a local folder or a model on the hub, got {name!r} "
            f"({type(error).__name__}). Check the name and the network."
        ) from error
    # the cache may hold more than was asked for now
    both = any(folder.glob("*.pt"))
    names = [weights + suffix for weights in HUGGING_FACE for suffix in ("", INDEX)]
    return next((folder / name for name in names if both and (folder / name).is_file()), folder)
