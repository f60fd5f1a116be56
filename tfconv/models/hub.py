"""Checkpoints by name: found in a folder of one's own, or fetched from the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from pathlib import Path

from tfconv.checkpoints import Checkpoint

FOLDER = "TFCONV_WEIGHTS"  # the environment variable


def weights_folder() -> Path:
    """The folder of checkpoints that were fetched by hand.

    It is that of the environment variable TFCONV_WEIGHTS, by default ``~/.cache/tfconv``.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(FOLDER) or Path(cache, "tfconv")).expanduser()


def fetch(checkpoint: Checkpoint) -> Path:
    """The file of a checkpoint: of one's own folder, of the hub's cache or of the hub.

    The hub's own variables hold: HF_HOME and HF_HUB_CACHE say where its cache is, HF_HUB_OFFLINE
    that nothing is to be fetched, HF_ENDPOINT who serves.

    Raises:
        FileNotFoundError: If it is on no hub and not in the folder.
        ImportError: If a package is missing that fetches or reads it.
        ConnectionError: If it cannot be fetched.
        OSError: If what arrived is not what the hub has.
    """
    own = weights_folder() / checkpoint.local_name
    if own.is_file():
        return own
    by_hand = (
        f"Download {checkpoint.file} from {checkpoint.address} and put it there as {own}, "
        "or give its path as `weights`"
    )
    if checkpoint.repository is None:
        raise FileNotFoundError(f"The weights {checkpoint.name!r} are not on the hub. {by_hand}.")
    _needs("safetensors" if checkpoint.file.endswith(".safetensors") else "torch", checkpoint)
    _needs("huggingface_hub", checkpoint)
    from huggingface_hub import hf_hub_download

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        path = hf_hub_download(
            checkpoint.repository,
            checkpoint.file,
            cache_dir=os.environ.get("HF_HUB_CACHE") or None,
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            local_files_only=offline,
        )
    except Exception as error:  # of many kinds: of the hub, of its client for HTTP, of sockets
        why = "HF_HUB_OFFLINE is set, and the cache does not have it"
        if not offline:
            why = _reason(error)
        raise ConnectionError(
            f"The weights {checkpoint.name!r} cannot be fetched: {why}. {by_hand}."
        ) from error
    _verify(Path(path), checkpoint)
    return Path(path)


def _needs(package: str, checkpoint: Checkpoint) -> None:
    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f"The weights {checkpoint.name!r} need the package {package}: `pip install {package}`"
        )


def _reason(error: BaseException) -> str:
    """What an error and what it comes from say, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _verify(path: Path, checkpoint: Checkpoint) -> None:
    """Raises unless a large file in the hub's cache has the SHA-256 that it is called by there."""
    blob = path.resolve()
    if not re.fullmatch("[0-9a-f]{64}", blob.name):
        return
    digest = hashlib.sha256()
    with blob.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != blob.name:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise OSError(
            f"The weights {checkpoint.name!r} did not arrive as the hub has them: the SHA-256 of "
            f"{checkpoint.file} is {digest.hexdigest()} and must be {blob.name}. It was removed; "
            "the next call fetches it anew."
        )
