"""Verify: is this output a true conversion of that source? Every check says in plain words what it found.

Cheap (what convert runs before it publishes): packets, times, tags, and the picture around the borders of spans. Full: every frame
is decoded and its light measured as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.hdr10 import ContentLight
from pipeline.index import VideoIndex, build_index, content_hash
from pipeline.light import LightLevels
from pipeline.probe import probe, read_color
from pipeline.verify_boxes import box_checks, manifest_checks
from pipeline.verify_packets import CopyFound, StreamPackets, files_beside, find_copies, open_video, read_packets
from pipeline.verify_picture import DecodedPicture, decode_check, decode_picture, light_check, merge_runs
from pipeline.verify_report import Check, VerifyReport
from pipeline.verify_seams import frames_around, seam_check, source_brightness
from pipeline.verify_tags import OutputTags, check_tags, read_tags

__all__ = ["Check", "VerifyReport", "read_provenance", "verify"]

PROVENANCE_KEY = "sunvisor"
HALF_MILLISECOND = Fraction(1, 2000)
DEFAULT_WHITE_NITS = 203.0
MATROSKA = "matroska,webm"


@dataclass(frozen=True)
class _Provenance:
    """What Sunvisor wrote into the output of itself; `stated` False when there is nothing or it cannot be read."""

    stated: bool
    facts: dict[str, Any]

    @property
    def shift(self) -> Fraction:
        return Fraction(self.facts.get("shift_seconds", "0"))

    @property
    def tracks(self) -> list[dict[str, Any]]:
        return self.facts.get("tracks", [])

    @property
    def recorded_light(self) -> tuple[int, int] | None:
        return (self.facts["max_cll"], self.facts["max_fall"]) if "max_cll" in self.facts else None


@dataclass
class _Pair:
    """One converted stream of the source and the HDR track that came of it."""

    source_stream: int
    output_stream: int
    facts: dict[str, Any]
    source: VideoIndex
    output: VideoIndex
    tags: OutputTags
    transfer: str | None
    prefix: str

    @property
    def borders(self) -> list[int]:
        """Numbers of the frames that start a span, the first span left out."""
        total = min(len(self.source.frame_pts), len(self.output.frame_pts))
        return [start for start in self.facts.get("span_starts", []) if 0 < start < total]


def verify(
    source: Path,
    output: Path,
    *,
    full: bool = False,
    on_frames: Callable[[int], None] | None = None,
    sidecar_stem: Path | None = None,
    to_be_saved: Collection[int] = (),
    boxes_to_be_saved: Collection[str] = (),
    fps: Fraction | None = None,
    color_overrides: Mapping[str, str | None] | None = None,
) -> VerifyReport:
    """Check an output against its source.

    full: decode every frame and measure its light; else only frames around the borders of spans, the first and the last
    on_frames: told how many more frames have been decoded (1 a call)
    sidecar_stem: the final path of an output that still has another name; sidecars carry that name
    to_be_saved, boxes_to_be_saved: source streams, and SHA-256 of boxes, that the caller will save beside the output once this passes
    fps: frame rate of a raw source without a clock; color_overrides: `input.*` settings that the conversion was told; when
        not given, what the provenance's track says as "fps" and "color"
    Raises InputError when either file is missing, cannot be opened, or holds no frames.
    """
    source, output = Path(source), Path(output)
    theirs = read_packets(output, "output")
    provenance = read_provenance(output)
    ours = read_packets(source, "source", to_the_end=False, skip=[track["stream"] for track in provenance.tracks])
    with open_video(output, "output") as container:
        matroska = container.format.name == MATROSKA
    checks = [_provenance_check(provenance)]
    wanted = [track["stream"] for track in provenance.tracks] or _changed_videos(ours, theirs)
    copies = find_copies(
        ours,
        theirs,
        set(wanted),
        shift=provenance.shift,
        matroska=matroska,
        sidecars=files_beside(output) + (files_beside(sidecar_stem) if sidecar_stem else []),
        to_be_saved=to_be_saved,
        tags=_timecodes(output),
    )
    pairs = _pair_up(source, output, wanted, _hdr_tracks(output, theirs, copies, len(wanted)), provenance, fps)
    if len(pairs) < len(wanted) or not wanted:
        checks.append(_no_track(len(pairs), len(wanted)))
    levels: LightLevels | None = None
    pixels = []
    for pair in pairs:
        checks += _time_checks(pair, provenance.shift, matroska)
        checks += _tag_checks(pair, provenance)
        picture = _decode(output, pair, full, on_frames)
        checks.append(decode_check(picture, len(pair.output.frame_pts), pair.prefix))
        checks.append(_seams(source, pair, picture, provenance, color_overrides))
        pixels.append(picture.pixels)
        if picture.levels is not None:
            levels = picture.levels if levels is None else levels | picture.levels
    if full and pairs:
        recorded = provenance.facts.get("p9999_nits")
        checks.append(light_check(levels, _light_tag(pairs, provenance), recorded, pixels=min(pixels)))
    checks += [Check(f"stream {copy.source.index}", copy.ok, copy.detail) for copy in copies]
    checks += box_checks(source, output, boxes_to_be_saved) + manifest_checks(output)
    return VerifyReport(str(source), str(output), full, all(check.ok for check in checks), checks)


def read_provenance(path: Path) -> _Provenance:
    """The JSON that Sunvisor leaves in the tag `sunvisor`. Raises InputError when the file cannot be opened."""
    with open_video(path, "output") as container:
        return provenance_in(container.metadata)


def provenance_in(metadata: Mapping[str, str]) -> _Provenance:
    """The same, from a container's tags."""
    tags = {key.lower(): value for key, value in metadata.items()}
    try:
        facts = json.loads(tags.get(PROVENANCE_KEY, ""))
        found = _Provenance(True, facts)
        found.shift, found.recorded_light  # noqa: B018 - raise here when they are not what they should be
        [(int(track["stream"]), list(track["span_starts"])) for track in found.tracks]
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return _Provenance(False, {})
    return found


def _provenance_check(provenance: _Provenance) -> Check:
    if not provenance.stated:
        return Check(
            "provenance",
            True,
            "no readable Sunvisor tag: not made by Sunvisor, or the tag was lost; span borders are not known.",
        )
    facts = provenance.facts
    moved = f"; all times moved by {float(provenance.shift):+.6f} s" if provenance.shift else ""
    return Check("provenance", True, f"Sunvisor {facts.get('version')}, model {facts.get('model')}{moved}.")


def _changed_videos(ours: list[StreamPackets], theirs: list[StreamPackets]) -> list[int]:
    """Without provenance: the videos of the source that are not in the output as they were."""
    kept = [stream.digests for stream in theirs]
    videos = [stream for stream in ours if stream.kind == "video" and not stream.attached_pic]
    return [stream.index for stream in videos if stream.digests not in kept]


def _timecodes(output: Path) -> set[str]:
    with open_video(output, "output") as container:
        places = [container.metadata, *(stream.metadata for stream in container.streams)]
        return {value for place in places for key, value in place.items() if key.lower() == "timecode"}


def _hdr_tracks(output: Path, theirs: list[StreamPackets], copies: list[CopyFound], wanted: int) -> list[StreamPackets]:
    """The output's videos that are no copies, in order; the HDR ones alone when there are more than are wanted."""
    taken = {copy.place.index for copy in copies if copy.place is not None}
    tracks = [
        other for other in theirs if other.kind == "video" and not other.attached_pic and other.index not in taken
    ]
    if len(tracks) > wanted:
        hdr = [track for track in tracks if read_tags(output, track.index).transfer]
        tracks = hdr if len(hdr) >= wanted else tracks
    return tracks


def _pair_up(
    source: Path,
    output: Path,
    wanted: list[int],
    tracks: list[StreamPackets],
    provenance: _Provenance,
    fps: Fraction | None,
) -> list[_Pair]:
    facts = {track["stream"]: track for track in provenance.tracks}
    pairs = []
    for stream, track in zip(wanted, tracks, strict=False):
        tags = read_tags(output, track.index)
        prefix = f"stream {stream}: " if len(wanted) > 1 else ""
        own = facts.get(stream, {})
        rate = fps if fps is not None or own.get("fps") is None else Fraction(own["fps"])
        before, after = build_index(source, stream, rate, True), build_index(output, track.index, None, True)
        transfer = provenance.facts.get("transfer") or tags.transfer
        pairs.append(_Pair(stream, track.index, own, before, after, tags, transfer, prefix))
    return pairs


def _no_track(found: int, wanted: int) -> Check:
    if not wanted:
        return Check(
            "HDR track", False, "every video of the output is a plain copy of the source's; nothing was converted."
        )
    return Check("HDR track", False, f"the output holds {found} converted videos, {wanted} were converted.")


def _time_checks(pair: _Pair, shift: Fraction, matroska: bool) -> list[Check]:
    """Frames and their times; and, where the provenance says which source it was, whether it is this one."""
    checks = []
    stated = pair.facts.get("content_hash")
    if stated is not None:
        same = stated == content_hash(pair.source)
        detail = "the video stream is the one that was converted, bit for bit."
        checks.append(
            Check(
                f"{pair.prefix}source",
                same,
                detail if same else "the output was made from another source than this one.",
            )
        )
    ours, theirs = len(pair.source.frame_pts), len(pair.output.frame_pts)
    loss = "".join(f" {text}" for text in (pair.source.loss, pair.output.loss) if text)
    recorded = pair.facts.get("frames", ours)
    whole = ours == theirs == recorded and pair.output.loss is None
    numbers = f"{theirs} frames, the source shows {ours}" + (
        f", the provenance recorded {recorded}" if recorded != ours else ""
    )
    repeated = pair.facts.get("repeated")
    damaged = f"; {repeated} damaged ones repeat the last good frame" if repeated else ""
    checks.append(Check(f"{pair.prefix}frames", whole, f"{numbers}{damaged}.{loss}"))
    checks.append(_times_check(pair, shift, matroska))
    return checks


def _times_check(pair: _Pair, shift: Fraction, matroska: bool) -> Check:
    """Every time of presentation, in whole numbers of a common tick, so exactly."""
    name = f"{pair.prefix}times"
    before, after = pair.source.time_base, pair.output.time_base
    ticks = math.lcm(before.denominator, after.denominator, shift.denominator)
    count = min(len(pair.source.frame_pts), len(pair.output.frame_pts))
    due = pair.source.frame_pts[:count].astype(object) * int(before * ticks) + int(shift * ticks)
    found = pair.output.frame_pts[:count].astype(object) * int(after * ticks)
    off = np.abs(found - due)
    allowed = HALF_MILLISECOND * ticks if matroska else 0
    wrong = np.flatnonzero(off > allowed)
    if wrong.size:
        first = int(wrong[0])
        moment = float(Fraction(int(found[first]), ticks))
        meant = float(Fraction(int(due[first]), ticks))
        detail = f"frame {first} is at {moment:.6f} s instead of {meant:.6f} s; {wrong.size} of {count} frames are off."
        return Check(name, False, detail)
    moved = f" moved by {float(shift):+.6f} s" if shift else ""
    if matroska and int(off.max(initial=0)):
        most = float(Fraction(int(off.max()), ticks)) * 1000
        return Check(
            name,
            True,
            f"all {count} times are the source's{moved}, rounded to Matroska's millisecond (at most {most:.3f} ms).",
        )
    return Check(name, True, f"all {count} times are the source's{moved}, exactly.")


def _tag_checks(pair: _Pair, provenance: _Provenance) -> list[Check]:
    if pair.transfer not in ("pq", "hlg"):
        return [
            Check(
                f"{pair.prefix}container tags",
                False,
                "neither container nor bitstream calls the video HDR (PQ or HLG).",
            )
        ]
    return check_tags(
        pair.tags,
        transfer=pair.transfer,
        peak_nits=provenance.facts.get("peak_nits"),
        recorded=provenance.recorded_light,
        prefix=pair.prefix,
    )


def _decode(output: Path, pair: _Pair, full: bool, on_frames: Callable[[int], None] | None) -> DecodedPicture:
    total = len(pair.output.frame_pts)
    around = frames_around(pair.borders, total)
    ends = [(0, min(1, total - 1)), (max(0, total - 2), total - 1)]
    runs = [(0, total - 1)] if full else merge_runs([*ends, *around], pair.output)
    return decode_picture(
        output,
        pair.output_stream,
        pair.output,
        runs,
        transfer=pair.transfer or "pq",
        measure=full,
        look_at={number for first, last in around for number in range(first, last + 1)},
        on_frames=on_frames,
    )


def _seams(
    source: Path,
    pair: _Pair,
    picture: DecodedPicture,
    provenance: _Provenance,
    overrides: Mapping[str, str | None] | None,
) -> Check:
    name = f"{pair.prefix}seams"
    if not provenance.stated:
        return Check(name, True, "not looked at: without provenance the borders of spans are not known.")
    if picture.problem or len(pair.source.frame_pts) != len(pair.output.frame_pts):
        return Check(name, False, "cannot be judged, as frames are missing or do not decode.")
    if not pair.borders:
        return Check(name, True, "one span, no seams.")
    stream = next(one for one in probe(source).streams if one.index == pair.source_stream)
    spec, _ = read_color(stream, dict(overrides or pair.facts.get("color") or {}))
    total = len(pair.source.frame_pts)
    around = frames_around(pair.borders, total)
    wanted = {number for first, last in around for number in range(first, last + 1)}
    damaged = bool(pair.facts.get("repeated"))
    if damaged:  # what comes out of damaged packets depends on where decoding starts: start where the conversion did
        runs = list(zip([0, *pair.borders], [border - 1 for border in [*pair.borders, total]], strict=True))
    else:
        runs = merge_runs(around, pair.source)
    seen = source_brightness(
        source, pair.source_stream, pair.source, runs, wanted, stream.layout, spec, keep_repeated=damaged
    )
    span = float((pair.source.frame_pts[-1] - pair.source.frame_pts[0]) * pair.source.time_base)
    return seam_check(
        pair.borders,
        seen,
        picture.brightness,
        white_nits=float(provenance.facts.get("white_nits", DEFAULT_WHITE_NITS)),
        rate=(len(pair.source.frame_pts) - 1) / span if span else 0.0,
        prefix=pair.prefix,
    )


def _light_tag(pairs: list[_Pair], provenance: _Provenance) -> ContentLight | None:
    """The tag of the file: the container's, which the tag checks hold against all others; for HLG what the provenance recorded."""
    for pair in pairs:
        if pair.tags.container and pair.tags.container.light:
            return pair.tags.container.light
    recorded = provenance.recorded_light
    return ContentLight(*recorded) if recorded else None
