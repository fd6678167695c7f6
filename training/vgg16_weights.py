"""Where the weights of torchvision's VGG16 are: in torch's cache, or fetched into it once, never waiting on a silent network."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

import torch

from pipeline.errors import InputError

URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
"""The file that torchvision's VGG16_Weights.IMAGENET1K_V1 names; its name holds the start of its SHA-256."""
SHA256_START = "397923af"
SILENCE_SECONDS = 20.0
"""How long the network may say nothing before the download is given up."""
BLOCK_BYTES = 1 << 20


def vgg16_weights_file() -> Path:
    """The path of the weights, downloaded (528 MB) when torch's cache does not hold them.

    Raises InputError, with how to get them, when the download fails, falls silent for 20 s or brings another file.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[1]
    if path.is_file():
        return path
    sys.stderr.write(f"Fetching VGG16's weights (528 MB) from {URL} to {path}\n")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    except OSError as error:
        raise InputError(
            f"{path.parent}: no weights can be stored there ({error}); set TORCH_HOME to a folder."
        ) from error
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as target:
            digest = _fetch(target)
        if not digest.startswith(SHA256_START):
            raise OSError(f"its SHA-256 starts with {digest[:8]}, not {SHA256_START}")
        part.replace(path)
    except (OSError, HTTPException) as error:
        raise InputError(
            f"VGG16's weights could not be fetched ({error}); bring {URL} to {path} yourself, "
            "or name the backbone efficientnet_lite0, whose weights come in a pip package."
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _fetch(target: BinaryIO) -> str:
    """Download into an open file; returns the SHA-256 in hex. OSError when the network fails, times out or stops early."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(URL, timeout=SILENCE_SECONDS) as source:
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
            target.write(block)
    return digest.hexdigest()
