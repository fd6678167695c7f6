"""Camera: from scene light to the 8-bit picture that a dashcam or action cam records, and the light a converter should answer with.

The truth below SDR white is the light that a reference SDR display (BT.1886) shows for the camera's picture before noise and
compression, so that mid-tones stay; above it, scene light. Both are 1 at white, whatever the camera's response.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
import torch

from models.encodings import encode
from pipeline.color import ColorSpec, PixelLayout, coded_signal, unpack
from pipeline.planes import frame_planes

Array = np.ndarray
Curve = Callable[[Array], Array]
DISPLAY_GAMMA = 2.4
RESPONSES = ("bt1886", "srgb", "power", "measured")
COMPRESSIONS = ("h264", "hevc", "jpeg", "none")
VIDEO_ENCODERS = {"h264": "libx264", "hevc": "libx265"}
PAN_PX = 3  # between a picture and the one before it, from which a video codec predicts
BT709_LIMITED = ColorSpec("bt709", "limited", "bt1886", "bt709", "left")
WIDEST_CLIPPED_SHARE = 0.4


@dataclass(frozen=True)
class Shot:
    """One exposure's settings.

    clipped_share: of the pixels, at or above white, 0 to 0.4. response: one of RESPONSES; shape: its parameters, each 0 to 1.
    balance: (3,) white-balance gains. read_noise, shot_noise: variance = read + shot * light, SDR white = 1.
    blur_px: lens blur (Gaussian sigma). glare: share of the light that is spread around bright sources.
    compression: one of COMPRESSIONS; quality: crf of h264 and hevc, JPEG's quality.
    """

    clipped_share: float
    response: str
    shape: tuple[float, float]
    balance: tuple[float, float, float]
    read_noise: float
    shot_noise: float
    blur_px: float
    glare: float
    compression: str
    quality: int


BENCH_SHOT = Shot(0.12, "bt1886", (0.5, 0.5), (1.0, 1.0, 1.0), 1e-5, 4e-4, 0.0, 0.0, "h264", 20)
"""What the drives of ../shared/bench are shot with; validation uses it."""


def random_shot(rng: np.random.Generator) -> Shot:
    """Settings as real cameras have them: most expose and respond as the bench's do, the others anywhere in the families."""
    compression = str(rng.choice(COMPRESSIONS, p=(0.65, 0.1, 0.15, 0.1)))
    low, high = {"h264": (16, 30), "hevc": (18, 30), "jpeg": (60, 98), "none": (0, 0)}[compression]
    clipped_share = rng.normal(0.12, 0.035) if rng.random() < 0.6 else rng.gamma(2.5, 0.06)
    return Shot(
        clipped_share=float(np.clip(clipped_share, 0.0, WIDEST_CLIPPED_SHARE)),
        response=str(rng.choice(RESPONSES, p=(0.55, 0.15, 0.15, 0.15))),
        shape=(float(rng.random()), float(rng.random())),
        balance=tuple(np.exp(rng.normal(0, 0.04, 3) * (rng.random() < 0.7)).tolist()),
        read_noise=float(np.exp(rng.uniform(np.log(2e-6), np.log(5e-5)))),
        shot_noise=float(np.exp(rng.uniform(np.log(5e-5), np.log(1.5e-3)))),
        blur_px=float(rng.uniform(0.3, 0.8) * (rng.random() < 0.2)),
        glare=float(rng.uniform(0.0, 0.03) * (rng.random() < 0.25)),
        compression=compression,
        quality=int(rng.integers(low, high + 1)),
    )


def response_curve(name: str, shape: tuple[float, float]) -> Curve:
    """Scene light in [0, 1] -> signal in [0, 1], rising, f(0) = 0, f(1) = 1.

    bt1886: the inverse of the display's curve; srgb: IEC 61966-2-1; power: exponents 1/2.0 to 1/2.8; measured: a power with a toe
    and a shoulder, the form that measured responses take (Grossberg and Nayar 2004). KeyError for another name.
    """
    first, second = shape
    curves: dict[str, Curve] = {
        "bt1886": lambda x: x ** (1 / DISPLAY_GAMMA),
        "srgb": lambda x: encode(torch.from_numpy(x), "srgb").numpy(),
        "power": lambda x: x ** (1 / (2.0 + 0.8 * first)),
        "measured": lambda x: _toe_and_shoulder(x ** (1 / (1.9 + 0.6 * first)), 0.5 * second),
    }
    return curves[name]


def _toe_and_shoulder(v: Array, strength: float) -> Array:
    """Between the identity and a smoothstep."""
    return v + strength * (v * v * (3 - 2 * v) - v)


def expose(light: Array, shot: Shot) -> Array:
    """Scene light (H, W, 3), any scale -> the same with 1.0 = where the camera saturates, white balance included."""
    balanced = light * np.asarray(shot.balance, np.float32)
    level = np.quantile(balanced.max(-1), 1 - shot.clipped_share)
    return (balanced / max(float(level), 1e-6)).astype(np.float32)


def shoot(light: Array, shot: Shot, rng: np.random.Generator) -> tuple[Array, Array]:
    """Scene light (H, W, 3) float32, any scale; H, W even -> (coded (H, W, 3) uint8 RGB, truth (H, W, 3) float32, SDR white = 1.0)."""
    exposed = expose(light, shot)
    curve = response_curve(shot.response, shot.shape)
    shown = curve(np.minimum(exposed, 1.0)) ** DISPLAY_GAMMA
    truth = np.where(exposed >= 1.0, exposed, shown).astype(np.float32)
    seen = _through_the_lens(exposed, shot)
    frames = [np.roll(seen, PAN_PX, axis=1), seen] if shot.compression in VIDEO_ENCODERS else [seen]
    return compress([_record(frame, curve, shot, rng) for frame in frames], shot.compression, shot.quality), truth


def _record(light: Array, curve: Curve, shot: Shot, rng: np.random.Generator) -> Array:
    """The sensor: noise, clipping, the response, eight bits."""
    deviation = np.sqrt(shot.read_noise + shot.shot_noise * light)
    noisy = light + rng.standard_normal(light.shape, dtype=np.float32) * deviation
    return np.round(255 * curve(np.clip(noisy, 0.0, 1.0))).astype(np.uint8)


def _through_the_lens(light: Array, shot: Shot) -> Array:
    if shot.glare > 0:
        small = cv2.resize(light, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        veil = sum(cv2.GaussianBlur(small, (0, 0), sigma) for sigma in (2.0, 8.0, 24.0)) / 3
        veil = cv2.resize(veil, (light.shape[1], light.shape[0]), interpolation=cv2.INTER_LINEAR)
        light = light * (1 - shot.glare) + veil * shot.glare
    return cv2.GaussianBlur(light, (0, 0), shot.blur_px) if shot.blur_px > 0 else light


def compress(frames: list[Array], compression: str, quality: int) -> Array:
    """(H, W, 3) uint8 RGB pictures, H and W even, through a codec and back: the last one. h264, hevc: its crf; jpeg: its quality."""
    if compression in VIDEO_ENCODERS:
        return _through_video(frames, compression, quality)
    if compression == "none":
        return frames[-1]
    _, data = cv2.imencode(".jpg", frames[-1][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def _through_video(frames: list[Array], codec: str, crf: int) -> Array:
    height, width = frames[0].shape[:2]
    writer = av.CodecContext.create(VIDEO_ENCODERS[codec], "w")
    writer.width, writer.height, writer.pix_fmt = width, height, "yuv420p"
    writer.framerate, writer.time_base = 24, Fraction(1, 24)
    writer.thread_count = 1
    quiet = {"x265-params": "log-level=none:pools=1:frame-threads=1"} if codec == "hevc" else {}
    writer.options = {"crf": str(crf), "preset": "veryfast", "bf": "0", **quiet}
    packets = []
    for pts, code in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(code, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=1, src_color_range=2, dst_color_range=1
        )
        frame.pts = pts
        packets += writer.encode(frame)
    packets += writer.encode(None)
    reader = av.CodecContext.create(codec, "r")
    reader.thread_count = 1
    decoded = [picture for packet in packets for picture in reader.decode(packet)]
    decoded += reader.decode(None)
    return _to_rgb(decoded[-1])


def _to_rgb(frame: av.VideoFrame) -> Array:
    """As `convert` reads it: siting-aware chroma, BT.709 limited."""
    planes = tuple(plane[None] for plane in frame_planes(frame))
    light = unpack(planes, PixelLayout("420", 8), BT709_LIMITED)
    signal = coded_signal(light, "bt1886")[0].permute(1, 2, 0).numpy()
    return np.round(255 * signal).astype(np.uint8)
