"""How good the encoders' settings are: JOD (ColorVideoVDP) of span files against the very planes handed to the encoder.

    .venv/bin/python -m bench.encode_quality [--clips FOLDER] [ENCODER:PRESET:CRF ...]

Frames of real clips go the pipeline's way to 10-bit PQ. Their highlights are raised as a trained network would raise them, up to
the 1000-nit peak, so that bright gradients are encoded too. Each setting encodes each clip with SpanEncoder; decoded and handed-over
planes are compared on ColorVideoVDP's standard HDR display. Prints a Markdown table; its settings of record are the defaults in
pipeline/encoder_choice.py. JOD is measured on a centre crop of a few frames to keep the cost down; rate and time are of whole frames.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pycvvdp
import torch
from rich.console import Console
from torch import Tensor

from pipeline.color import OutputSpec, pack, unpack
from pipeline.encode import SpanEncoder
from pipeline.encoder_choice import DEFAULTS, EncoderChoice, resolve_encoder
from pipeline.planes import frame_planes
from pipeline.probe import probe, read_color
from pipeline.stages.grade import Grade

CLIPS = ("highway_960x540.mp4", "highway_concrete_1280x720.mp4", "park_street_1920x1080.mp4")
DISPLAY = "standard_hdr_pq"
WHITE_NITS, PEAK_NITS = 203.0, 1000.0
HIGHLIGHTS_FROM = 0.7
CODECS = {"libx265": "hevc", "libsvtav1": "av1", "hevc_nvenc": "hevc", "av1_nvenc": "av1"}

Planes = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Clip:
    """Frames of one clip as they go to the encoder: Y, U, V uint16 each."""

    name: str
    rate: Fraction
    frames: list[Planes]


@dataclass(frozen=True)
class Score:
    """One setting on one clip. cpu_ms: CPU milliseconds a frame of encoding alone."""

    choice: EncoderChoice
    clip: str
    jod: float
    mbit_per_second: float
    cpu_ms: float


def read_clip(path: Path, frames: int, start_seconds: float) -> Clip:
    """`frames` frames from `start_seconds` on, by the pipeline's own colour code, highlights raised and graded to the peak."""
    stream = next(stream for stream in probe(path).streams if stream.kind == "video")
    spec, _ = read_color(stream)
    grade = Grade(WHITE_NITS, PEAK_NITS)
    packed: list[Planes] = []
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        rate = video.average_rate or Fraction(25)
        for frame in file.decode(video):
            if len(packed) == frames:
                break
            if frame.time < start_seconds:
                continue
            planes = tuple(plane[None] for plane in frame_planes(frame))
            light = raise_highlights(unpack(planes, stream.layout, spec))
            y, u, v = pack(grade(light), OutputSpec("pq", WHITE_NITS, PEAK_NITS), torch.tensor([len(packed)]))
            packed.append((y[0], u[0], v[0]))
    return Clip(path.name, rate, packed)


def raise_highlights(light: Tensor) -> Tensor:
    """Linear light with what is near SDR white multiplied by up to PEAK/WHITE, smoothly from HIGHLIGHTS_FROM on."""
    place = ((light.amax(dim=1, keepdim=True) - HIGHLIGHTS_FROM) / (1 - HIGHLIGHTS_FROM)).clamp(0, 1)
    return light * (1 + (PEAK_NITS / WHITE_NITS - 1) * place * place * (3 - 2 * place))


def encode(clip: Clip, choice: EncoderChoice, path: Path) -> float:
    """Encode the clip to `path`; CPU seconds that it took, all threads."""
    height, width = clip.frames[0][0].shape
    started = time.process_time()
    with SpanEncoder(
        path,
        choice,
        width=width,
        height=height,
        time_base=Fraction(1, clip.rate.numerator),
        rate=clip.rate,
        sample_aspect_ratio=None,
        transfer="pq",
        threads=2,
    ) as encoder:
        ticks = clip.rate.denominator
        for number, (y, u, v) in enumerate(clip.frames):
            encoder.write(y, u, v, number * ticks, ticks)
    return time.process_time() - started


def decode(path: Path) -> list[Planes]:
    """Planes of every frame of a span file."""
    with av.open(str(path)) as file:
        return [tuple(torch.from_dlpack(plane).clone() for plane in frame.planes) for frame in file.decode(video=0)]


def pq_rgb(frames: list[Planes], crop: tuple[int, int]) -> Tensor:
    """(F, 3, h, w) PQ-coded BT.2020 R, G, B in [0, 1] of the centre crop; chroma bilinear (both sides of the comparison alike)."""
    pictures = []
    for planes in frames:
        y, u, v = (_centre(plane, crop, 1 if number == 0 else 2).float() for number, plane in enumerate(planes))
        u, v = (torch.nn.functional.interpolate(c[None, None], scale_factor=2, mode="bilinear")[0, 0] for c in (u, v))
        luma, cb, cr = (y - 64) / 876, (u - 512) / 896, (v - 512) / 896
        red, blue = luma + 1.4746 * cr, luma + 1.8814 * cb
        pictures.append(torch.stack((red, (luma - 0.2627 * red - 0.0593 * blue) / 0.678, blue)))
    return torch.stack(pictures).clamp(0, 1)


def _centre(plane: Tensor, crop: tuple[int, int], step: int) -> Tensor:
    height, width = (min(size // step, have) for size, have in zip(crop, plane.shape, strict=True))
    top, left = (plane.shape[0] - height) // 2, (plane.shape[1] - width) // 2
    return plane[top : top + height, left : left + width]


def score(clip: Clip, choice: EncoderChoice, metric: pycvvdp.cvvdp, crop: tuple[int, int]) -> Score:
    """Encode, decode, compare."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "span.mp4"
        seconds = encode(clip, choice, path)
        jod, _ = metric.predict(
            pq_rgb(decode(path), crop), pq_rgb(clip.frames, crop), dim_order="FCHW", frames_per_second=float(clip.rate)
        )
        mbit = path.stat().st_size * 8 / 1e6 * float(clip.rate) / len(clip.frames)
    return Score(choice, clip.name, float(jod), mbit, 1000 * seconds / len(clip.frames))


def settings(words: list[str]) -> list[EncoderChoice]:
    """ENCODER:PRESET:CRF words, or the defaults of both software encoders when there are none."""
    words = words or [f"{name}:{preset}:{crf}" for name, (crf, preset) in DEFAULTS.items() if "nvenc" not in name]
    choices = []
    for word in words:
        name, preset, crf = word.split(":")
        output = SimpleNamespace(
            transfer="pq", codec=CODECS[name], encoder=name, crf=int(crf), preset=preset, container="auto"
        )
        choices.append(replace(resolve_encoder(output, "cpu"), reason="bench"))
    return choices


def table(scores: list[Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| encoder | preset | crf | clip | JOD | Mbit/s | CPU ms/frame |", "|---|---|---|---|---|---|---|"]
    for one in scores:
        choice = one.choice
        lines.append(
            f"| {choice.encoder} | {choice.preset} | {choice.crf} | {one.clip} "
            f"| {one.jod:.2f} | {one.mbit_per_second:.1f} | {one.cpu_ms:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="JOD of encoder settings on real clips.")
    parser.add_argument(
        "settings", nargs="*", metavar="ENCODER:PRESET:CRF", help="default: the defaults of both encoders"
    )
    parser.add_argument("--clips", type=Path, default=Path("../shared/data/clips"), help="folder with the real clips")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--start", type=float, default=1.0, help="seconds into each clip")
    parser.add_argument("--crop", type=int, nargs=2, default=(360, 640), metavar=("HEIGHT", "WIDTH"))
    arguments = parser.parse_args()
    metric = pycvvdp.cvvdp(display_name=DISPLAY, quiet=True)
    clips = [read_clip(arguments.clips / name, arguments.frames, arguments.start) for name in CLIPS]
    choices = settings(arguments.settings)
    scores = [score(clip, choice, metric, tuple(arguments.crop)) for choice in choices for clip in clips]
    Console().print(table(scores), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
