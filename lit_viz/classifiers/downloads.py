"""Published weights: from the caches of torch hub and the Hugging Face hub, or downloaded into them."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import torch

from lit_viz.errors import LitVizError

_PATIENCE = 20.0  # seconds without an answer
_OTHERWISE = (
    "give a file by --classifier.weights FILE, or take the default classifier efficientnet_lite0, "
    "which needs no download"
)


def torch_hub_file(url: str, name: str) -> Path:
    """Return the file of ``url`` in torch hub's cache, downloaded into it where it is missing.

    Raises:
        LitVizError: it is missing and can't be downloaded; tells the file, the folder, and what needs no download.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(url).path).name
    if path.is_file():
        return path
    expected = re.search(r"-([0-9a-f]{8,})\.", path.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _patience():
            torch.hub.download_url_to_file(url, str(path), expected and expected.group(1), progress=False)
    except (OSError, RuntimeError) as error:  # no network, no such file, no room; or a damaged download
        raise LitVizError(
            f"the weights of {name} can't be downloaded ({_reason(error)}): put {path.name} from {url} into "
            f"{folder}, {_OTHERWISE}"
        ) from error
    return path


def hugging_face_file(repository: str, filename: str | None, name: str) -> Path:
    """Return a weights file of a Hugging Face repository from the hub's cache, downloaded into it where it is missing.

    Args:
        repository: as ``timm/resnet18.a1_in1k``.
        filename: of the weights; None takes ``model.safetensors``, else ``pytorch_model.bin``.
        name: of the classifier, for the error.

    Raises:
        LitVizError: as :func:`torch_hub_file`.
    """
    from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    filenames = [filename] if filename else ["model.safetensors", "pytorch_model.bin"]
    cached = [try_to_load_from_cache(repository, f) for f in filenames]
    for path in cached:
        if isinstance(path, str):
            return Path(path)
    try:
        # The hub's client tries again for half a minute and more: find out first whether there is a network.
        _reach(hf_hub_url(repository, filenames[0]))
        for candidate in filenames:
            try:
                return Path(hf_hub_download(repository, candidate))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError as error:
                missing = error
        raise missing
    except (OSError, RuntimeError, ValueError, EntryNotFoundError) as error:
        folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
        raise LitVizError(
            f"the weights of {name} can't be downloaded ({_reason(error)}): {filenames[0]} of the Hugging Face "
            f"repository {repository} is looked for in {folder}; download it where there is a network and give it as "
            f"weights=FILE, {_OTHERWISE}"
        ) from error


def _reach(url: str) -> None:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE):
            pass
    except urllib.error.HTTPError:
        pass  # the server is there; what it has against this request, its own client finds out


@contextmanager
def _patience() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return text.strip().splitlines()[0].rstrip(".")
