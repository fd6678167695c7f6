"""Plan: which spans a video is cut into, and everything else that decides the bytes of the result.

Pure data and pure functions. A plan is made from the source and the result settings alone, never from the number of workers, so
that one worker and a hundred write the same bytes. Every `auto` is resolved here once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline import frame_files
from pipeline.color import ColorSpec, OutputSpec, PixelLayout
from pipeline.decode import packets_needed
from pipeline.encoder_choice import EncoderChoice
from pipeline.exclusion import Polygon
from pipeline.index import VideoIndex, packets_for
from pipeline.neighbour import DrivePlace, Neighbour
from pipeline.overlay import OverlayBox
from pipeline.proxy import PREFIX
from pipeline.span import Span
from pipeline.version import software

PLAN_VERSION = 2
LONG_GROUP_SECONDS = 60.0
"""A span inside a group of pictures decodes from the group's keyframe; in groups longer than this, spans are longer."""


@dataclass(frozen=True)
class Track:
    """One video stream to convert: how its codes become light, and its spans.

    time_base_den: output ticks per second (the output time base has numerator 1)
    ticks: output ticks per source tick, so that output pts = source pts * ticks, exactly
    width, height: the visible picture; the coded picture is the next even size
    tile: side of the tiles in pixels, 0 = whole frames
    radius: frames that the temporal stage looks at on either side, 0 = it does not run
    denoise: strength of that stage, 0 = it does not run
    overlays: where text is burnt in
    drive: the files before and after, which lend frames to the temporal stage; None where files are not joined
    excluded: polygons that stay as recorded
    """

    stream_index: int
    width: int
    height: int
    layout: PixelLayout
    color: ColorSpec
    color_reasons: dict[str, str]
    deinterlace: bool
    rate: Fraction
    sample_aspect_ratio: Fraction | None
    rotation: int
    time_base_den: int
    ticks: int
    frames: int
    duration_seconds: float
    content_hash: str
    tile: int
    spans: tuple[Span, ...]
    radius: int = 0
    denoise: float = 0.0
    overlays: tuple[OverlayBox, ...] = ()
    drive: DrivePlace | None = None
    excluded: tuple[Polygon, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of one output. Stored as plan.json in the work folder.

    stage_options: keyword arguments of the stages, by their names; what a track decides is in the track
    extras: what is written beside the output (configs.schema.ExtrasConfig); decides no byte of it
    """

    version: int
    source: str
    source_bytes: int
    output: str
    container: str
    model: str
    model_path: str
    model_sha256: str
    model_restores_highlights: bool
    device: str
    precision: str
    numerics_class: str
    stages: tuple[str, ...]
    strict: bool
    out: OutputSpec
    encoder: EncoderChoice
    settings_hash: str
    tracks: tuple[Track, ...]
    warnings: tuple[str, ...] = field(default_factory=tuple)
    decoder: str = "software"
    scale: float = 1.0
    stage_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    extras: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """Frames of all tracks."""
        return sum(track.frames for track in self.tracks)

    def to_json(self) -> str:
        """Readable JSON; `from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self), indent=1, default=str) + "\n"

    @staticmethod
    def from_json(text: str) -> Plan:
        """Rebuild a plan from `to_json`. Raises ValueError, KeyError or TypeError when the text is of another make."""
        data = json.loads(text)
        if data["version"] != PLAN_VERSION:
            raise ValueError(f"plan version {data['version']}, this Sunvisor writes {PLAN_VERSION}")
        data["out"] = OutputSpec(**data["out"])
        data["encoder"] = EncoderChoice(**data["encoder"])
        data["tracks"] = tuple(_track(track) for track in data["tracks"])
        data["stages"] = tuple(data["stages"])
        data["warnings"] = tuple(data["warnings"])
        data["extras"] = tuple(data["extras"])
        return Plan(**data)

    def identity(self) -> str:
        """blake2b-128 (hex) of what decides the bytes of the output: content, settings, model, numerics. Not where files lie."""
        facts = [self.version, self.settings_hash, self.model_sha256, self.numerics_class, self.container]
        facts += [[track.stream_index, track.content_hash, track.frames] for track in self.tracks]
        facts += [[track.denoise, *map(dataclasses.asdict, track.overlays)] for track in self.tracks]
        facts += [[one and one.packets_hash for one in _ends(track)] for track in self.tracks]
        facts += [track.excluded for track in self.tracks]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


def busy_stages(track: Track) -> frozenset[str]:
    """Names of the stages that have something to do in a track, whether they are asked for or not."""
    idle = {
        "denoise": track.denoise == 0,
        "deband": track.layout.bit_depth > 8,
        "overlay": not track.overlays,
        "temporal": track.radius == 0,
    }
    always = ("reconstruct", "grade")
    return frozenset([*always, *(name for name, nothing in idle.items() if not nothing)])


def kinds_beside(extras: tuple[str, ...]) -> frozenset[str]:
    """What spans write beside their video for these extras: "mask", a kind of pipeline/frame_files.py, a proxy's name, and "stats"
    (pipeline/frame_stats.py)."""
    own = {name for name in extras if name in ("mask", *frame_files.ENDINGS) or name.startswith(PREFIX)}
    return frozenset(own | ({"stats"} if set(extras) - own - {"manifest"} else set()))


def lenders(track: Track, span: Span) -> tuple[Neighbour | None, Neighbour | None]:
    """The files of the drive that lend frames to a span: to the first one before it, to the last one after it."""
    before, after = _ends(track)
    return before if span.number == 0 else None, after if span.number == len(track.spans) - 1 else None


def _ends(track: Track) -> tuple[Neighbour | None, Neighbour | None]:
    return (track.drive.before, track.drive.after) if track.drive else (None, None)


def span_key(plan: Plan, track: Track, span: Span, index: VideoIndex) -> str:
    """Hash (hex) of the packets that a span decodes, the span, the settings and the checkpoint: the same key, the same bytes."""
    first, end = packets_needed(index, span, deinterlace=track.deinterlace)
    state = hashlib.blake2b(digest_size=16)
    state.update(index.digest[first:end].tobytes())
    state.update(index.pts[first:end].tobytes())
    facts: list[Any] = [
        plan.version,
        software(),
        plan.settings_hash,
        plan.model_sha256,
        plan.numerics_class,
        str(plan.encoder),
    ]
    facts += [
        dataclasses.asdict(span),
        track.stream_index,
        track.tile,
        track.radius,
        track.denoise,
        [dataclasses.asdict(box) for box in track.overlays],
        track.excluded,
        str(track.color),
        str(track.layout),
        track.deinterlace,
        [one and one.packets_hash for one in lenders(track, span)],
    ]
    state.update(json.dumps(facts, sort_keys=True).encode())
    return state.hexdigest()


def cut_spans(
    index: VideoIndex,
    *,
    target_seconds: float,
    min_seconds: float,
    max_seconds: float,
    lead_in: int,
    lead_out: int,
) -> tuple[Span, ...]:
    """Cut a video into spans of about `target_seconds`, at keyframes where one is near, anywhere else otherwise.

    Every frame belongs to exactly one span. Each span is min_seconds to max_seconds long, except that a video shorter than
    min_seconds is one span, and a video with gaps longer than that (VFR) has spans as its frames allow. Where keyframes are
    more than LONG_GROUP_SECONDS apart, two thirds of max_seconds are the target.
    lead_in, lead_out: frames that the stages need beyond a span's ends.
    """
    starts = _cut_frames(index, target_seconds, min_seconds, max_seconds)
    total = len(index.frame_pts)
    spans = []
    for number, first in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else total
        before, after = min(lead_in, first), min(lead_out, total - end)
        seek, stop = packets_for(index, first, end - first, before, after)
        end_pts = int(index.frame_pts[end]) if end < total else int(index.frame_pts[-1] + index.frame_duration[-1])
        first_pts = int(index.frame_pts[first])
        spans.append(Span(number, first_pts, end_pts, first, end - first, before, after, seek, stop))
    return tuple(spans)


def longest_group_seconds(index: VideoIndex) -> float:
    """Longest stretch of time without a keyframe to start decoding from."""
    keys = np.sort(index.pts[index.keyframe & ~index.discard])
    ends = np.append(keys[keys > index.frame_pts[0]], index.frame_pts[-1] + index.frame_duration[-1])
    starts = np.concatenate([index.frame_pts[:1], ends[:-1]])
    return float((ends - starts).max() * index.time_base)


def _cut_frames(index: VideoIndex, target: float, shortest: float, longest: float) -> list[int]:
    """Numbers of the frames that start a span."""
    seconds = (index.frame_pts - index.frame_pts[0]) * float(index.time_base)
    total = float(seconds[-1] + index.frame_duration[-1] * float(index.time_base))
    key_pts = np.sort(index.pts[index.keyframe & ~index.discard])
    key_frames = np.searchsorted(index.frame_pts, key_pts)
    if longest_group_seconds(index) > LONG_GROUP_SECONDS:
        target = longest * 2 / 3  # cuts move by half a span at most, so that none passes `longest`
    pieces = max(1, min(int(np.ceil(total / target)), int(total / shortest)))
    key_frames = key_frames[(key_frames > 0) & (key_frames < len(seconds))]
    starts = [0]
    ideal = total / pieces
    for number in range(1, pieces):
        want = number * ideal
        low = float(seconds[starts[-1]]) + shortest
        high = max(low, min(low - shortest + longest, total - shortest * (pieces - number)))
        window = max(low, want - ideal / 2), min(high, want + ideal / 2)
        near = key_frames[(seconds[key_frames] >= window[0]) & (seconds[key_frames] <= window[1])]
        if near.size:
            frame = int(near[np.argmin(np.abs(seconds[near] - want))])
        else:
            frame = int(np.searchsorted(seconds, min(max(want, low), high) - 1e-9))
        if starts[-1] < frame < len(seconds):
            starts.append(frame)
    return starts


def _track(data: dict[str, Any]) -> Track:
    data["layout"] = PixelLayout(**data["layout"])
    data["color"] = ColorSpec(**data["color"])
    data["rate"] = Fraction(data["rate"])
    ratio = data["sample_aspect_ratio"]
    data["sample_aspect_ratio"] = None if ratio is None else Fraction(ratio)
    data["spans"] = tuple(Span(**span) for span in data["spans"])
    data["overlays"] = tuple(OverlayBox(**box) for box in data["overlays"])
    data["drive"] = None if data["drive"] is None else DrivePlace.from_data(data["drive"])
    data["excluded"] = tuple(map(tuple, data["excluded"]))
    return Track(**data)
