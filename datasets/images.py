"""Pictures from files as light, whatever the file: Radiance, OpenEXR, NumPy, and PNG, TIFF or JPEG of 8 or 16 bits."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # OpenCV looks at it when it first codes or decodes an image

import cv2
import numpy as np
import torch

from pipeline.errors import InputError
from pipeline.transfer import srgb

Array = np.ndarray

SUFFIXES = (".hdr", ".exr", ".npy", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
"""Suffixes of files that `read_light` reads, in lower case."""

FULL_SCALE_16 = 65535.0
"""The code of 16 bits that stands for light 1.0 (the paper's normalisation of Cityscapes: 2**16 - 1)."""

LARGEST_HALF = 65504.0
"""Largest finite half float: what stands in for +infinity, which panoramas in half floats hold where the sun is."""


def read_light(path: Path) -> Array:
    """A picture as linear light, (H, W, 3) float32 RGB, in the unit of the file.

    .hdr, .exr, .npy and other floats: as they are. 16-bit integers: linear, code / 65535. 8-bit integers: an sRGB picture (IEC
    61966-2-1), decoded, 1.0 = white. A grey picture gets three equal channels, alpha is dropped, +infinity becomes 65504; negative
    light (colours outside the gamut) is kept.
    Raises InputError when the file is missing, cannot be decoded, is no picture, or holds NaN.
    """
    path = Path(path)
    stored = read_stored(path)
    if stored.dtype == np.uint8:
        light = srgb(torch.from_numpy(stored.astype(np.float32) / 255.0)).numpy()
    elif stored.dtype == np.uint16:
        light = stored.astype(np.float32) / np.float32(FULL_SCALE_16)
    else:
        light = stored.astype(np.float32)
    if np.isnan(light).any() or np.isneginf(light).any():
        raise InputError(f"{path}: it holds values that are not numbers (NaN or -inf); write it again without them.")
    return np.minimum(light, np.float32(LARGEST_HALF))


def read_stored(path: Path) -> Array:
    """The values of a picture as the file holds them: (H, W, 3) RGB, C-contiguous; uint8, uint16 or a float. InputError as `read_light`."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: not a picture by its name; legal suffixes are {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise InputError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}.")
    values = _numpy_file(path) if suffix == ".npy" else _decoded(path)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or 0 in values.shape:
        raise InputError(f"{path}: its shape is {values.shape}; a picture is (height, width, 3).")
    if values.dtype not in (np.uint8, np.uint16) and not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"{path}: its values are {values.dtype}; legal are uint8, uint16 and floats.")
    values = values[..., :3] if values.shape[2] > 1 else values.repeat(3, axis=2)
    return np.ascontiguousarray(values)


def _numpy_file(path: Path) -> Array:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a readable NumPy array ({error}).") from error
    if not isinstance(values, np.ndarray):
        raise InputError(f"{path}: it holds several arrays; a picture is one array (height, width, 3).")
    return values


def _decoded(path: Path) -> Array:
    """Decode with OpenCV; RGB order."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error as error:
        raise InputError(f"{path}: cannot be decoded as a picture ({error.err or error}).") from error
    if values is None:
        raise InputError(f"{path}: cannot be decoded as a picture; it may be damaged, cut short or of another kind.")
    if values.ndim == 3 and values.shape[2] >= 3:
        values = values[..., [2, 1, 0]]
    return values
