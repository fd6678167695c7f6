"""A small true conversion, made with the pipeline's own parts but without a network, and ways to break it on purpose."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import torch

from pipeline import light
from pipeline.assemble import assemble
from pipeline.color import OutputSpec, pack, unpack
from pipeline.decode import decode_span
from pipeline.encode import SpanEncoder
from pipeline.encoder_choice import resolve_encoder
from pipeline.hdr10 import MasteringDisplay
from pipeline.index import build_index, content_hash, packets_for
from pipeline.plan import Track
from pipeline.probe import StreamInfo, probe, read_color
from pipeline.span import Span
from pipeline.streams import CopyPlan, plan_copies
from pipeline.track_packets import TrackSpans


@dataclass(frozen=True)
class Made:
    """A conversion and what went into it."""

    source: Path
    output: Path
    copies: list[CopyPlan]
    max_cll: int
    max_fall: int
    shift_seconds: Fraction


def convert(
    source: Path,
    output: Path,
    *,
    starts: Sequence[int] = (0, 10, 20),
    transfer: str = "pq",
    codec: str = "hevc",
    gain: Callable[[int], float] = lambda frame: 1.0,
    fall_factor: float = 1.0,
    coded_transfer: str | None = None,
    videos: Sequence[int] | None = None,
    crf: int = 8,
    restore: float = 1.0,
) -> Made:
    """Convert `source`: SDR white at 203 nits, nothing restored.

    starts: first frames of the spans; gain: light factor by frame number
    restore: factor for pixels at or above SDR white; fall_factor: MaxFALL is tagged that much too high; coded_transfer: what the encoder is told, when it is to lie
    """
    info = probe(source)
    streams = [stream for stream in info.video_streams if videos is None or stream.index in videos]
    tracks, levels, repeated = [], [], []
    folder = output.parent / f"{output.name}.spans"
    folder.mkdir()
    for stream in streams:
        track, lights, replaced = _track(
            source, stream, folder, starts, transfer, coded_transfer or transfer, codec, gain, crf, restore
        )
        tracks.append(track)
        levels += lights
        repeated.append(replaced)
    total = functools.reduce(lambda left, right: left | right, levels)
    max_cll, max_fall = round(total.max_cll_nits), round(total.max_fall_nits * fall_factor)
    container = output.suffix[1:]
    copies = plan_copies(source, container, {stream.index for stream in streams})
    facts: dict[str, Any] = {"version": "test", "identity": "00", "model": "none", "model_sha256": "00"}
    facts |= {"settings_hash": "00", "transfer": transfer, "white_nits": 203.0, "peak_nits": 1000.0}
    facts |= {"max_cll": max_cll, "max_fall": max_fall, "tracks": []}
    facts["tracks"] = [_facts(track, source, count) for track, count in zip(tracks, repeated, strict=True)]
    report = assemble(
        source,
        output,
        tracks,
        copies,
        container=container,
        codec=codec,
        mastering=MasteringDisplay(1000.0) if transfer == "pq" else None,
        light=(max_cll, max_fall) if transfer == "pq" else None,
        provenance_key="sunvisor",
        provenance=facts,
    )
    return Made(source, output, copies, max_cll, max_fall, report.shift_seconds)


def _facts(spans: TrackSpans, source: Path, repeated: int) -> dict[str, Any]:
    index = build_index(source, spans.track.stream_index)
    facts = {"stream": spans.track.stream_index, "content_hash": content_hash(index), "frames": spans.track.frames}
    return facts | {"span_starts": [span.first_frame for span in spans.track.spans], "repeated": repeated}


def _track(
    source: Path,
    stream: StreamInfo,
    folder: Path,
    starts: Sequence[int],
    transfer: str,
    coded_transfer: str,
    codec: str,
    gain: Callable[[int], float],
    crf: int,
    restore: float,
) -> tuple[TrackSpans, list[light.LightLevels], int]:
    index = build_index(source, stream.index)
    spec, reasons = read_color(stream)
    total, ticks, den = len(index.frame_pts), index.time_base.numerator, index.time_base.denominator
    asked = SimpleNamespace(
        transfer=transfer,
        codec=codec,
        encoder="auto",
        crf=crf,
        preset="ultrafast" if codec == "hevc" else None,
        container="auto",
    )
    choice = resolve_encoder(asked, "cpu")
    out = OutputSpec(transfer, 203.0, 1000.0)
    spans, files, levels = [], [], []
    repeated = 0
    firsts = [start for start in starts if start < total]
    for number, (first, end) in enumerate(zip(firsts, [*firsts[1:], total], strict=True)):
        seek, stop = packets_for(index, first, end - first, 0, 0)
        span = Span(number, int(index.frame_pts[first]), 0, first, end - first, 0, 0, seek, stop)
        frames = list(decode_span(source, stream.index, index, span, deinterlace=False))
        repeated += sum(frame.repeated for frame in frames)
        planes = [torch.stack([frame.planes[n] for frame in frames]) for n in range(len(frames[0].planes))]
        linear = unpack(tuple(planes), stream.layout, spec)
        linear *= torch.tensor([gain(frame) for frame in range(first, end)]).view(-1, 1, 1, 1)
        linear[linear >= 0.999] *= restore
        y, u, v = pack(linear, out, torch.arange(first, end))
        levels += light.measure(y, u, v, transfer)
        spans.append(span)
        files.append(folder / f"span_{stream.index}_{number}.mp4")
        with SpanEncoder(
            files[-1],
            choice,
            width=y.shape[-1],
            height=y.shape[-2],
            time_base=Fraction(1, den),
            rate=Fraction(25),
            sample_aspect_ratio=stream.sample_aspect_ratio,
            transfer=coded_transfer,
            threads=1,
        ) as encoder:
            for place in range(end - first):
                frame = first + place
                pts = int(index.frame_pts[frame] - index.frame_pts[first]) * ticks
                encoder.write(y[place], u[place], v[place], pts, int(index.frame_duration[frame]) * ticks)
    track = Track(
        stream.index,
        stream.width,
        stream.height,
        stream.layout,
        spec,
        reasons,
        deinterlace=False,
        rate=Fraction(25),
        sample_aspect_ratio=stream.sample_aspect_ratio,
        rotation=stream.rotation_degrees,
        time_base_den=den,
        ticks=ticks,
        frames=total,
        duration_seconds=total / 25,
        content_hash="",
        tile=0,
        spans=tuple(spans),
    )
    return TrackSpans(track, tuple(files), index.frame_pts * ticks, index.frame_duration * ticks), levels, repeated


Edit = Callable[[av.Packet, int], bytes | None]


def rewrite(made: Path, broken: Path, kind: str, edit: Edit, *, later: tuple[int, int] | None = None) -> Path:
    """Copy a file and change packets of its first stream of a kind.

    edit: (packet, its number) -> new payload, or None to leave it out; later: (number of a packet, ticks by which it is shown later)
    """
    numbers = dict.fromkeys(range(64), 0)
    with av.open(str(made)) as inp:
        first = next(stream for stream in inp.streams if stream.type == kind)
        scale = str(inp.streams.video[0].time_base.denominator)
        options = {"movflags": "use_metadata_tags", "video_track_timescale": scale, "movie_timescale": scale}
        with av.open(str(broken), "w", options=options if broken.suffix == ".mp4" else {}) as out:
            out.metadata.update(inp.metadata)
            copies = {}
            for stream in inp.streams:
                copies[stream.index] = out.add_stream_from_template(stream, opaque=True)
                if stream.type == "video" and stream.codec_context.name == "hevc" and broken.suffix == ".mp4":
                    copies[stream.index].codec_context.codec_tag = "hvc1"
            for packet in inp.demux():
                if not packet.size:
                    continue
                payload: bytes | None = bytes(packet)
                number = numbers[packet.stream_index]
                numbers[packet.stream_index] += 1
                chosen = packet.stream_index == first.index
                if chosen:
                    payload = edit(packet, number)
                if payload is None:
                    continue
                copy = av.Packet(payload)
                copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
                copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
                if chosen and later is not None and number == later[0]:
                    copy.pts += later[1]
                    copy.dts += later[1] if kind == "audio" else 0
                copy.stream = copies[packet.stream_index]
                out.mux(copy)
    return broken


def patch(made: Path, broken: Path, old: bytes, new: bytes) -> Path:
    """Copy a file with one run of bytes replaced by another of the same length."""
    data = made.read_bytes()
    assert len(old) == len(new)
    assert old in data, "the bytes to patch are not in the file"
    broken.write_bytes(data.replace(old, new))
    return broken
