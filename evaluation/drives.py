"""A video against known light: the truth of a virtual drive (gt.npz), or another HDR video."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.images import SUFFIXES, read_light
from evaluation.metrics import Pose
from evaluation.nits import count_frames, read_nits
from pipeline.errors import InputError
from pipeline.probe import probe

Array = np.ndarray
DEFAULT_FPS = 24.0
"""Frame rate of what has none: shared/bench/drivesim.py's, and score.py's for all."""


@dataclass(frozen=True)
class Truth:
    """What a video should show. light: frames (H,W,3), 1.0 = SDR white, BT.709, from the start each time it is called.

    frames: how many. fps: frames a second, None when not said. pose: the camera's, None when not known. text: (T,H,W) bool, pixels of a
    burnt-in overlay; None when there is none.
    """

    light: Callable[[], Iterator[Array]]
    frames: int
    fps: float | None = None
    pose: Pose | None = None
    text: Array | None = None


def read_truth(path: Path, white_nits: float) -> Truth:
    """The truth from a .npz as shared/bench/drivesim.py writes it, or from a video. InputError when it cannot be used."""
    if path.suffix.lower() != ".npz":
        frames, fps = count_frames(path), video_fps(path)
        if not frames:
            raise InputError(f"{path}: it has no frame that can be decoded.")
        return Truth(lambda: (nits / np.float32(white_nits) for nits in read_nits(path, white_nits)), frames, fps)
    stored = _archive(path)
    hdr = stored.get("hdr")
    if hdr is None or hdr.ndim != 4 or hdr.shape[3] != 3 or 0 in hdr.shape:
        found = ", ".join(f"{key} {value.shape}" for key, value in stored.items()) or "nothing"
        raise InputError(
            f"{path}: it needs a key `hdr` of shape (frames, height, width, 3), 1.0 = SDR white; it holds {found}."
        )
    if not np.isfinite(hdr).all():
        raise InputError(f"{path}: `hdr` holds values that are not finite; light must be numbers.")
    frames = len(hdr)
    pose = None
    if all(key in stored for key in ("yaw", "pitch", "roll", "fov")):
        angles = [stored[key] for key in ("yaw", "pitch", "roll")]
        if any(angle.shape != (frames,) for angle in angles) or stored["fov"].size != 1:
            raise InputError(f"{path}: yaw, pitch and roll must have one value a frame ({frames}), and fov one.")
        pose = Pose(*angles, fov_degrees=float(stored["fov"].reshape(())))
    text = stored.get("overlay")
    if text is not None and text.shape != hdr.shape[:3]:
        raise InputError(f"{path}: `overlay` is {text.shape}; it must be {hdr.shape[:3]}, as `hdr`.")
    return Truth(lambda: iter(hdr), frames, None, pose, None if text is None else text > 0)


def _archive(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not a .npz archive, or one that was cut short; write it again.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a readable .npz archive ({error}).") from error


def read_result(path: Path, white_nits: float) -> tuple[Iterator[Array], float | None]:
    """Frames of the result in nits (H,W,3), BT.709, and their rate (None when not said): a video, or a folder of .npy files that sort in
    the order of the frames (linear, 1.0 = SDR white). InputError when it is neither."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder.")
    if path.suffix.lower() in (*SUFFIXES, ".npz") and not path.is_dir():
        raise InputError(
            f"{path}: not a video by its name; against a video's truth give a video, or a folder of .npy frames."
        )
    if not path.is_dir():
        return read_nits(path, white_nits), video_fps(path)
    files = sorted(path.glob("*.npy"))
    if not files:
        raise InputError(f"{path}: no .npy frames in it; give a video, or a folder of 0000.npy, 0001.npy and so on.")
    return (read_light(file) * np.float32(white_nits) for file in files), None


def video_fps(path: Path) -> float | None:
    """Frame rate of a video's first stream by its header; None when it does not say. InputError when it is no video."""
    rate = probe(path).video_streams[0].avg_frame_rate_from_header
    return float(rate) if rate else None
