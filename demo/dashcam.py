"""A simulated dashcam: what it does to light between the windscreen and the memory card.

Lens glare, an auto exposure that lags, a sensor that is noisy and then full, a response curve, 8 bits, H.264. The light behind
the lens is kept: it is the truth that a conversion is scored against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.audio.resampler import AudioResampler

Array = np.ndarray
GLARE = ((0.020, 0.005), (0.012, 0.025), (0.012, 0.10))  # share of the light, spread in picture widths
SHOT_VARIANCE, READ_VARIANCE = 3e-4, 6e-6  # of the signal at saturation = 1
AUDIO_RATE = 48_000
BT709, LIMITED = 1, 1  # H.273 code points of matrix, primaries and transfer; FFmpeg's number for limited range


@dataclass(frozen=True)
class DashcamOptions:
    """clipped: share of pixels that auto exposure lets saturate. lag: how much of the way to the wanted exposure (in stops) a
    frame goes. crf: H.264 quality. seed: of the sensor's noise."""

    fps: int = 24
    clipped: float = 0.12
    lag: float = 0.08
    crf: int = 18
    seed: int = 11


@dataclass(frozen=True)
class Recording:
    """sdr: the clip. truth (T,H,W,3) float16: linear BT.709 light behind the lens, 1.0 = the sensor is full. gain (T,): exposure."""

    sdr: Path
    truth: Array
    gain: Array


def glare(light: Array) -> Array:
    """Scatter in lens and windscreen: a little of all light spreads around. (H,W,3) float32 in and out, light is conserved."""
    height, width = light.shape[:2]
    small = cv2.resize(light, (max(width // 4, 1), max(height // 4, 1)), interpolation=cv2.INTER_AREA)
    out = light * (1.0 - sum(share for share, _ in GLARE))
    for share, spread in GLARE:
        sigma = spread * width
        fine = sigma < 8.0
        source = light if fine else small
        blurred = cv2.GaussianBlur(source, (0, 0), sigma if fine else sigma / 4, borderType=cv2.BORDER_REPLICATE)
        if not fine:
            blurred = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
        out += share * blurred
    return out


class AutoExposure:
    """Steers the gain so that `clipped` of the pixels saturate; follows changes slowly, as cameras do."""

    def __init__(self, clipped: float, lag: float) -> None:
        self._quantile, self._lag = 1.0 - clipped, lag
        self._gain: float | None = None

    def __call__(self, light: Array) -> float:
        """Gain for this frame (H,W,3)."""
        wanted = 1.0 / max(float(np.quantile(light.max(-1), self._quantile)), 1e-6)
        self._gain = wanted if self._gain is None else self._gain * (wanted / self._gain) ** self._lag
        return self._gain


def respond(truth: Array, rng: np.random.Generator) -> Array:
    """Light behind the lens (H,W,3), 1.0 = full, to 8-bit R'G'B': shot and read noise, saturation, inverse of BT.1886 (gamma 2.4)."""
    noisy = truth + rng.standard_normal(truth.shape, np.float32) * np.sqrt(READ_VARIANCE + SHOT_VARIANCE * truth)
    return np.round(255.0 * np.clip(noisy, 0.0, 1.0) ** (1 / 2.4)).astype(np.uint8)


def to_yuv420(rgb: Array) -> tuple[Array, Array, Array]:
    """8-bit full-range R'G'B' (H,W,3), H and W even, to limited-range BT.709 Y, Cb, Cr with left-sited chroma (BT.709-6 clause 3)."""
    r, g, b = np.moveaxis(rgb.astype(np.float32) / 255.0, -1, 0)
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
    chroma = np.stack([(b - luma) / 1.8556, (r - luma) / 1.5748])
    rows = 0.5 * (chroma[:, 0::2] + chroma[:, 1::2])
    before = np.concatenate([rows[:, :, :1], rows[:, :, 1:-1:2]], -1)
    halved = 0.25 * before + 0.5 * rows[:, :, 0::2] + 0.25 * rows[:, :, 1::2]
    codes = np.clip(np.round(128.0 + 224.0 * halved), 16, 240).astype(np.uint8)
    return np.clip(np.round(16.0 + 219.0 * luma), 16, 235).astype(np.uint8), codes[0], codes[1]


def record(
    scene: Iterable[Array],
    folder: Path,
    options: DashcamOptions | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> Recording:
    """Film linear light (H,W,3), H and W even, into `folder`/sdr.mp4 (a quiet tone beside it) and `folder`/truth.npz.

    truth.npz holds `hdr` (T,H,W,3) float16 and `gain` (T,) float32. on_frame gets the number of frames done. The bytes of both
    depend on the scene and the options alone: the encoder runs one thread.
    """
    options = options or DashcamOptions()
    folder.mkdir(parents=True, exist_ok=True)
    rng, exposure = np.random.default_rng(options.seed), AutoExposure(options.clipped, options.lag)
    truths, gains, path = [], [], folder / "sdr.mp4"
    with av.open(str(path), "w") as container:
        video = None
        for number, radiance in enumerate(scene):
            if video is None:
                video, audio = _streams(container, radiance.shape[1], radiance.shape[0], options)
            light = glare(np.asarray(radiance, np.float32))
            gains.append(exposure(light))
            truth = light * gains[-1]
            truths.append(np.minimum(truth, 6e4).astype(np.float16))
            planes = to_yuv420(respond(truth, rng))
            packed = np.concatenate([plane.reshape(-1) for plane in planes]).reshape(-1, truth.shape[1])
            frame = av.VideoFrame.from_ndarray(packed, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, options.fps)
            container.mux(video.encode(frame))
            if on_frame:
                on_frame(number + 1)
        if video is None:
            raise ValueError("the scene has no frames")
        container.mux(video.encode())
        _add_tone(container, audio, len(truths) / options.fps)
    truth, gain = np.stack(truths), np.array(gains, np.float32)
    np.savez(folder / "truth.npz", hdr=truth, gain=gain)
    return Recording(path, truth, gain)


def _streams(
    container: av.container.OutputContainer, width: int, height: int, options: DashcamOptions
) -> tuple[av.VideoStream, av.AudioStream]:
    """H.264 tagged BT.709 limited with left-sited chroma, and an AAC track.

    Without look-ahead and macroblock tree: with them, libx264 of PyAV 18.1 gave several different streams for the same frames, even
    in one thread; without, 382 encodes of 3 small frames were equal. Which of the two is to blame was not looked into.
    """
    settings = {"crf": str(options.crf), "preset": "medium", "bf": "2", "g": "24", "chroma_sample_location": "left"}
    settings |= {"rc-lookahead": "0", "x264-params": "mbtree=0"}
    video = container.add_stream("libx264", rate=options.fps, options=settings)
    video.width, video.height, video.pix_fmt = width, height, "yuv420p"
    context = video.codec_context
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range, context.thread_count = LIMITED, 1
    video.time_base = context.time_base = Fraction(1, options.fps)
    return video, container.add_stream("aac", rate=AUDIO_RATE, layout="mono")


def _add_tone(container: av.container.OutputContainer, audio: av.AudioStream, seconds: float) -> None:
    """A quiet engine-like hum, so that the copy of the sound can be heard."""
    t = np.arange(round(seconds * AUDIO_RATE)) / AUDIO_RATE
    wave = 0.05 * np.sin(2 * np.pi * 92.0 * t) + 0.02 * np.sin(2 * np.pi * 184.0 * t) * np.sin(2 * np.pi * 3.0 * t)
    frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = AUDIO_RATE, 0, Fraction(1, AUDIO_RATE)
    for piece in AudioResampler("fltp", "mono", AUDIO_RATE, frame_size=1024).resample(frame):
        container.mux(audio.encode(piece))
    container.mux(audio.encode())
