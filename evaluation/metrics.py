"""How far a video is from known light: the figures of the project's bench, without those that need a panorama.

Both sides are limited, hue kept, to 0.8 of the peak, so that a converter's shoulder above that costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from pipeline.color import ColorSpec, PixelLayout, bt2020_to_bt709, unpack, unpack_hdr
from pipeline.errors import InputError

Array = np.ndarray
LUMA_709 = np.array([0.2126, 0.7152, 0.0722], np.float32)
FLOOR_NITS = 0.005
LIMIT_SHARE = 0.8
HDR_TRANSFERS = {16: "pq", 18: "hlg"}  # H.273 transfer characteristics


@dataclass(frozen=True)
class Scores:
    """Distance of a video from the truth.

    frames: frames compared
    lost_share: share of pixels that the SDR clip lost (truth at or above white in some channel)
    hl_stops: mean |log2 Y/Y_truth| over lost pixels; hl_bias: its signed mean
    hl_detail: correlation with the truth of band-passed log luminance (sigma 2 to 16 px) inside the lost regions
    mid_stops: mean |log2 Y/Y_truth| over well-exposed pixels (largest channel 0.05 to 0.9 of white)
    pu_psnr: PSNR of PU21-encoded RGB in dB (Mantiuk and Azimi 2021, banding_glare); infinite for equal pictures
    A figure with no pixel to measure is NaN.
    """

    frames: int
    lost_share: float
    hl_stops: float
    hl_bias: float
    hl_detail: float
    mid_stops: float
    pu_psnr: float


def pu21(nits: Array) -> Array:
    """PU21 banding_glare encoding of 0.005 to 10000 nits: about 0 to 600, equal steps are equally visible (Mantiuk and Azimi 2021)."""
    p = (0.353487901, 0.3734658629, 8.277049286e-05, 0.9062562627, 0.09150303166, 0.9099517204, 596.3148142)
    y = np.clip(nits, 0.005, 10000.0) ** p[3]
    return np.maximum(p[6] * (((p[0] + p[1] * y) / (1.0 + p[2] * y)) ** p[4] - p[5]), 0.0)


def limit(nits: Array, top_nits: float) -> Array:
    """Scale pixels (..., 3) down, hue kept, whose largest channel exceeds `top_nits`; nothing is below 0.005 nits."""
    nits = np.maximum(nits, FLOOR_NITS)
    return nits * np.minimum(1.0, top_nits / largest_channel(nits))[..., None]


def largest_channel(rgb: Array) -> Array:
    """max(R, G, B) of (..., 3)."""
    return np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])


def band_pass(log_y: Array, mask: Array) -> Array:
    """Detail of sigma 2 to 16 px of (H, W) inside the mask, as a list of its pixels.

    Only pixels inside count (normalised convolution): the outline of a lost region is known from the SDR and earns nothing.
    """
    weight = mask.astype(np.float32)

    def blur(sigma: float) -> Array:
        share = np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-6)
        return cv2.GaussianBlur(log_y * weight, (0, 0), sigma) / share

    return (blur(2.0) - blur(16.0))[mask]


def score(truth: Array, result: Iterable[Array], white_nits: float = 203.0, peak_nits: float = 1000.0) -> Scores:
    """Compare frames in nits (H,W,3), BT.709 primaries, with the truth (T,H,W,3), 1.0 = SDR white.

    Raises InputError when the numbers or sizes of frames differ.
    """
    top_nits = LIMIT_SHARE * peak_nits
    lost_error, lost_bias, mid_error, squares, lost_shares = [], [], [], [], []
    cross = result_power = truth_power = 0.0
    frames = 0
    for nits in result:
        frames += 1
        if frames > len(truth):
            continue
        light = truth[frames - 1].astype(np.float32)
        if nits.shape != light.shape:
            raise InputError(
                f"frame {frames - 1} of the result is {nits.shape}, the truth is {light.shape}; compare like sizes"
            )
        wanted, got = limit(light * white_nits, top_nits), limit(np.asarray(nits, np.float32), top_nits)
        squares.append(np.mean((pu21(wanted) - pu21(got)) ** 2, dtype=np.float64))
        log_wanted, log_got = np.log2(wanted @ LUMA_709), np.log2(got @ LUMA_709)
        error, largest = log_got - log_wanted, largest_channel(light)
        lost, mid = largest >= 1.0, (largest > 0.05) & (largest < 0.9)
        lost_shares.append(lost.mean())
        if lost.any():
            lost_error.append(np.abs(error[lost]).mean(dtype=np.float64))
            lost_bias.append(error[lost].mean(dtype=np.float64))
            a, b = band_pass(log_got, lost), band_pass(log_wanted, lost)
            cross, result_power, truth_power = cross + a @ b, result_power + a @ a, truth_power + b @ b
        if mid.any():
            mid_error.append(np.abs(error[mid]).mean(dtype=np.float64))
    if frames != len(truth):
        raise InputError(
            f"the result has {frames} frames, the truth has {len(truth)}; a missing frame cannot be scored"
        )
    square = float(np.mean(squares))
    return Scores(
        frames=frames,
        lost_share=_mean(lost_shares),
        hl_stops=_mean(lost_error),
        hl_bias=_mean(lost_bias),
        hl_detail=float(cross / max(np.sqrt(result_power * truth_power), 1e-12)) if lost_error else float("nan"),
        mid_stops=_mean(mid_error),
        pu_psnr=float(10 * np.log10(pu21(np.array(top_nits)) ** 2 / square)) if square > 0 else float("inf"),
    )


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def read_nits(path: Path, white_nits: float = 203.0) -> Iterator[Array]:
    """Frames of a video as light in nits (H,W,3) float32, BT.709 primaries.

    HDR: 10-bit limited BT.2020 4:2:0 in PQ or HLG, as Sunvisor writes it. SDR: BT.709 limited 8-bit 4:2:0 with left-sited chroma, as
    demo.dashcam writes it, shown on a reference display (BT.1886) whose white is `white_nits`. Raises InputError for others.
    """
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            transfer = HDR_TRANSFERS.get(int(frame.color_trc))
            expected = "yuv420p10le" if transfer else "yuv420p"
            if frame.format.name != expected:
                raise InputError(f"{path}: pixels are {frame.format.name}; scoring reads {expected} with this transfer")
            planes = tuple(_plane(plane, frame.format.components[i].bits) for i, plane in enumerate(frame.planes))
            if transfer:
                nits = bt2020_to_bt709(unpack_hdr(*planes, transfer))
            else:
                spec = ColorSpec("bt709", "limited", "bt1886", "bt709", "left")
                nits = unpack(planes, PixelLayout("420", 8), spec) * white_nits
            yield nits[0, :, : frame.height, : frame.width].permute(1, 2, 0).numpy()


def _plane(plane: av.video.plane.VideoPlane, bits: int) -> torch.Tensor:
    """One plane of a decoded frame, (1, h, w) uint8 or uint16, without the padding of its lines."""
    kind = np.uint8 if bits == 8 else np.uint16
    rows = np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // kind().itemsize)
    return torch.from_numpy(rows[:, : plane.width].copy())[None]
