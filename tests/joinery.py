"""Helpers of the assemble and streams tests: span files for any source, the join, and what ffprobe says about the result."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import torch

from pipeline.assemble import AssembleReport, assemble
from pipeline.color import ColorSpec, PixelLayout
from pipeline.encode import SpanEncoder
from pipeline.encoder_choice import resolve_encoder
from pipeline.hdr10 import MasteringDisplay
from pipeline.index import build_index
from pipeline.plan import Track
from pipeline.span import Span
from pipeline.streams import CopyPlan, plan_copies
from pipeline.track_packets import TrackSpans


def span_track(
    source: Path, stream: int, folder: Path, *, spans: int = 2, codec: str = "hevc", **facts: object
) -> TrackSpans:
    """A track of tiny gray span files with the exact times of a source's video stream. facts: fields of Track to set."""
    index = build_index(source, stream)
    frames, ticks, den = len(index.frame_pts), index.time_base.numerator, index.time_base.denominator
    asked = SimpleNamespace(
        transfer="pq", codec=codec, encoder="auto", crf=None, preset="12" if codec == "av1" else None, container="auto"
    )
    choice = resolve_encoder(asked, "cpu")
    starts = sorted({frames * number // spans for number in range(spans)})
    planned, files = [], []
    for number, (first, end) in enumerate(zip(starts, [*starts[1:], frames], strict=True)):
        planned.append(Span(number, int(index.frame_pts[first]), 0, first, end - first, 0, 0, 0, 0))
        files.append(folder / f"span_{stream}_{number}.mp4")
        with SpanEncoder(
            files[-1],
            choice,
            width=64,
            height=64,
            time_base=Fraction(1, den),
            rate=Fraction(25),
            sample_aspect_ratio=facts.get("sample_aspect_ratio"),
            transfer="pq",
            threads=1,
        ) as encoder:
            for frame in range(first, end):
                grain = torch.arange(64 * 64, dtype=torch.int32).reshape(64, 64) * (frame + 7) % 301 + 200
                chroma = torch.full((32, 32), 512, dtype=torch.int32).to(torch.uint16)
                pts = int(index.frame_pts[frame] - index.frame_pts[first]) * ticks
                encoder.write(grain.to(torch.uint16), chroma, chroma, pts, int(index.frame_duration[frame]) * ticks)
    with av.open(str(source)) as opened:
        rate = opened.streams[stream].average_rate or Fraction(25)
    known = {
        "width": 64,
        "height": 64,
        "layout": PixelLayout("420", 8),
        "color": ColorSpec("bt709", "limited", "bt1886", "bt709", "left"),
        "color_reasons": {},
        "deinterlace": False,
        "rate": rate,
        "sample_aspect_ratio": None,
        "rotation": 0,
        "duration_seconds": 1.0,
        "content_hash": "",
        "tile": 0,
    }
    track = Track(
        stream_index=stream, time_base_den=den, ticks=ticks, frames=frames, spans=tuple(planned), **(known | facts)
    )
    return TrackSpans(track, tuple(files), index.frame_pts * ticks, index.frame_duration * ticks)


@dataclass
class Joined:
    """A finished join and how it was made."""

    source: Path
    path: Path
    tracks: list[TrackSpans]
    copies: list[CopyPlan]
    report: AssembleReport


def join(
    source: Path, folder: Path, container: str, *, videos: list[int] | None = None, name: str = "out", **options: object
) -> Joined:
    """Convert the given video streams (default: the first) of `source` to gray and join."""
    if videos is None:
        with av.open(str(source)) as opened:
            videos = [opened.streams.video[0].index]
    folder.mkdir(parents=True, exist_ok=True)
    hdr = options.pop("hdr", True)
    codec = options.get("codec", "hevc")
    tracks = [span_track(source, stream, folder, **options) for stream in videos]
    copies = plan_copies(source, container, set(videos))
    path = folder / f"{name}.{container}"
    report = assemble(
        source,
        path,
        tracks,
        copies,
        container=container,
        codec=codec,
        mastering=MasteringDisplay(peak_nits=1000.0) if hdr else None,
        light=(987, 123) if hdr else None,
        provenance_key="sunvisor",
        provenance={"version": "test", "tracks": [1, 2]},
    )
    return Joined(source, path, tracks, copies, report)


def ffprobe(path: Path, *entries: str) -> dict[str, Any]:
    """ffprobe's JSON. A missing ffprobe fails the test."""
    command = ["ffprobe", "-v", "error", *entries, "-of", "json", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def ffmpeg(*arguments: object) -> None:
    """Run Debian's ffmpeg to make a source."""
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


def shown_times(path: Path, stream: int) -> list[Fraction]:
    """Presentation times in seconds of a stream's shown packets, sorted, after ffprobe."""
    found = ffprobe(path, "-select_streams", str(stream), "-show_entries", "packet=pts,flags:stream=time_base")
    base = Fraction(found["streams"][0]["time_base"])
    return sorted(packet["pts"] * base for packet in found["packets"] if "D" not in packet["flags"])


def wanted_times(spans: TrackSpans, shift: Fraction = Fraction(0)) -> list[Fraction]:
    """Presentation times in seconds that a track has in the source."""
    return [int(pts) * spans.time_base + shift for pts in spans.frame_pts]


def packets(path: Path, stream: int) -> list[tuple[str, Fraction | None]]:
    """(md5, presentation time in seconds) of every packet of a stream, read with PyAV."""
    with av.open(str(path)) as opened:
        wanted = opened.streams[stream]
        return [
            (hashlib.md5(bytes(packet)).hexdigest(), None if packet.pts is None else packet.pts * packet.time_base)
            for packet in opened.demux(wanted)
            if packet.size
        ]


def streams(path: Path) -> list[dict[str, Any]]:
    """ffprobe's description of all streams."""
    return ffprobe(path, "-show_streams")["streams"]


def tags(path: Path) -> dict[str, str]:
    """Tags of the file, names in lower case."""
    return {name.lower(): text for name, text in ffprobe(path, "-show_format")["format"].get("tags", {}).items()}
