"""Describe: everything that matters about a video file before (or after) converting it, as data and as text for a person."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.drive_files import drive_of
from pipeline.errors import InputError
from pipeline.hdr10 import ContentLight, MasteringDisplay
from pipeline.index import VideoIndex, build_index
from pipeline.memory_need import refuse_too_large
from pipeline.probe import StreamInfo, VideoInfo, hdr_reason, probe, read_color
from pipeline.source import CONTAINERS, open_source
from pipeline.streams import CopyPlan, plan_copies, sentence
from pipeline.verify import read_provenance
from pipeline.verify_tags import read_tags

STAND_IN_RATE = Fraction(25)
"""For raw streams: their frames can be counted, not timed."""

LONG_GOP_SECONDS = 10.0
KINDS = {"video": "video", "audio": "audio", "subtitle": "subtitles", "data": "data", "attachment": "attachment"}


def describe(path: Path, *, fps: Fraction | None = None, container: str = "mp4") -> dict[str, Any]:
    """Facts about a file as plain data: header and content apart, colours with reasons, what would become of each stream.

    fps: frame rate of a raw stream that has no clock; container: of the imagined output, "mp4", "mov" or "mkv"
    Times in seconds, sizes in pixels and bytes. Raises InputError when the file is no video that can be read.
    """
    path = Path(path)
    refuse_too_large(path)
    info = probe(path)
    warnings: list[str] = []
    moving = [stream.index for stream in info.video_streams]
    copies = {plan.stream: plan for plan in plan_copies(path, container, {moving[0]})}
    provenance = read_provenance(path)
    sound = _sound(path)
    streams = []
    for stream in info.streams:
        facts = _stream_facts(stream, copies.get(stream.index)) | sound.get(stream.index, {})
        if stream.index in moving:
            facts |= _video_facts(info, stream, fps, warnings)
        facts["becomes"] = _becomes(stream, copies.get(stream.index), facts.get("already_hdr"), len(moving) > 1)
        streams.append(facts)
    warnings += [text for plan in copies.values() if (text := sentence(plan))]
    return {
        "path": str(path),
        "container": CONTAINERS.get(info.container, info.container),
        "size_bytes": info.size_bytes,
        "duration_seconds_from_header": info.duration_seconds_from_header,
        "start_seconds_from_header": info.start_seconds_from_header,
        "chapters": info.chapters,
        "metadata": {key: value for key, value in info.metadata.items() if key.lower() != "sunvisor"},
        "streams": streams,
        "drive": dataclasses.asdict(drive_of(path)),
        "provenance": provenance.facts if provenance.stated else None,
        "warnings": warnings,
    }


def _sound(path: Path) -> dict[int, dict[str, Any]]:
    """Sample rate and channels of the audio streams, by index."""
    with open_source(path) as container:
        return {
            stream.index: {
                "sample_rate": stream.codec_context.sample_rate,
                "channels": stream.codec_context.channels,
                "channel_layout": stream.codec_context.layout.name,
            }
            for stream in container.streams.audio
            if stream.codec_context is not None
        }


def _stream_facts(stream: StreamInfo, plan: CopyPlan | None) -> dict[str, Any]:
    return {
        "index": stream.index,
        "kind": stream.kind,
        "codec": stream.codec or (plan.codec if plan else stream.codec_tag) or "unknown",
        "codec_tag": stream.codec_tag,
        "language": stream.language,
        "cover": stream.attached_pic,
        "time_base": str(stream.time_base) if stream.time_base else None,
        "metadata": stream.metadata,
    }


def _becomes(stream: StreamInfo, plan: CopyPlan | None, already_hdr: str | None, several: bool) -> dict[str, str]:
    """What convert would do with a stream, and why."""
    if plan is None:
        if already_hdr:
            return {
                "action": "refuse",
                "where": "",
                "reason": f"already HDR: {already_hdr}; --force converts it all the same",
            }
        return {"action": "convert", "where": "output", "reason": "the first video stream"}
    also = "; --video all converts it too" if several and stream.kind == "video" and not stream.attached_pic else ""
    return {"action": plan.action, "where": plan.where, "reason": f"{plan.reason}{also}"}


def _video_facts(info: VideoInfo, stream: StreamInfo, fps: Fraction | None, warnings: list[str]) -> dict[str, Any]:
    name = f"stream {stream.index}"
    facts: dict[str, Any] = {
        "width": stream.width,
        "height": stream.height,
        "pix_fmt": stream.pix_fmt,
        "bit_depth": stream.layout.bit_depth if stream.layout else None,
        "sample_aspect_ratio": str(stream.sample_aspect_ratio or 1),
        "rotation_degrees": stream.rotation_degrees,
        "interlaced": stream.interlaced_from_content,
        "rate_from_header": str(stream.avg_frame_rate_from_header) if stream.avg_frame_rate_from_header else None,
        "frames_from_header": stream.frames_from_header or None,
    }
    untimed = info.has_no_clock and fps is None
    index = build_index(info.path, stream.index, STAND_IN_RATE if untimed else fps, True)
    facts |= _timing(index, untimed) | _groups(index, untimed)
    facts["already_hdr"] = hdr_reason(stream)
    facts |= _color_facts(stream, name, warnings)
    facts["hdr"] = _hdr_facts(info.path, stream) if facts["already_hdr"] else None
    warnings += [f"{name}: {text}" for text in _worries(stream, index, facts, untimed)]
    return facts


def _timing(index: VideoIndex, untimed: bool) -> dict[str, Any]:
    """Frames as the content has them, and whether they come at a constant rate (to the tick)."""
    frames = len(index.frame_pts)
    facts: dict[str, Any] = {"frames_from_content": frames, "hidden_packets": int(index.discard.sum())}
    if untimed:
        return facts | {"rate": None, "constant_rate": None, "first_frame_seconds": None, "duration_seconds": None}
    gaps = np.diff(index.frame_pts)
    base = index.time_base
    span = int(index.frame_pts[-1] - index.frame_pts[0])
    constant = frames < 3 or int(gaps.max() - gaps.min()) <= 1
    rate = Fraction(frames - 1) / (span * base) if span else Fraction(1) / (int(index.frame_duration[0]) * base)
    facts["rate"] = float(rate)
    facts["constant_rate"] = constant
    facts["shortest_frame_seconds"] = float((int(gaps.min()) if gaps.size else int(index.frame_duration[0])) * base)
    facts["longest_frame_seconds"] = float((int(gaps.max()) if gaps.size else int(index.frame_duration[0])) * base)
    facts["first_frame_seconds"] = float(int(index.frame_pts[0]) * base)
    facts["duration_seconds"] = float((span + int(index.frame_duration[-1])) * base)
    facts["times_from_content"] = not index.restamped
    return facts


def _groups(index: VideoIndex, untimed: bool) -> dict[str, Any]:
    """Groups of pictures, counted in shown frames."""
    keys = np.sort(index.pts[index.keyframe & ~index.discard])
    starts = np.unique(np.searchsorted(index.frame_pts, keys))
    total = len(index.frame_pts)
    bounds = np.unique(np.concatenate([[0], starts[starts < total], [total]]))
    ends = np.append(index.frame_pts, index.frame_pts[-1] + index.frame_duration[-1])
    seconds = np.diff(ends[bounds]) * float(index.time_base)
    return {
        "keyframes": int(index.keyframe.sum()),
        "longest_gop_frames": int(np.diff(bounds).max()),
        "longest_gop_seconds": None if untimed else round(float(seconds.max()), 6),
    }


def _color_facts(stream: StreamInfo, name: str, warnings: list[str]) -> dict[str, Any]:
    tags = {
        "primaries": stream.primaries_tag,
        "transfer": stream.transfer_tag,
        "matrix": stream.matrix_tag,
        "range": stream.range_tag,
        "chroma_location": stream.chroma_location_tag,
    }
    if hdr_reason(stream):
        return {"color_tags": tags, "color": None}
    try:
        spec, reasons = read_color(stream)
    except InputError as error:
        warnings.append(f"{name}: {error}")
        return {"color_tags": tags, "color": None}
    read = dataclasses.asdict(spec)
    return {
        "color_tags": tags,
        "color": {key: {"value": read[key], "reason": reasons.get(key, "")} for key in read},
    }


def _hdr_facts(path: Path, stream: StreamInfo) -> dict[str, Any]:
    """Static metadata of an HDR stream, container and bitstream apart."""
    tags = read_tags(path, stream.index)
    stated = tags.container
    in_stream = tags.keyframes[0][2] if tags.keyframes else None
    whole = [found for _, _, found in tags.keyframes if found.mastering and found.light]
    return {
        "transfer": tags.transfer,
        "codec_tag": stated.codec_tag if stated else None,
        "container": _static(stated.mastering, stated.light) if stated else None,
        "bitstream": _static(in_stream.mastering, in_stream.light) if in_stream else None,
        "keyframes_with_metadata": len(whole),
    }


def _static(mastering: MasteringDisplay | None, light: ContentLight | None) -> dict[str, Any]:
    return {
        "mastering_display": dataclasses.asdict(mastering) if mastering else None,
        "max_cll_nits": light.max_cll_nits if light else None,
        "max_fall_nits": light.max_fall_nits if light else None,
    }


def _worries(stream: StreamInfo, index: VideoIndex, facts: dict[str, Any], untimed: bool) -> list[str]:
    """What a user should know before converting this stream."""
    worries = [index.loss] if index.loss else []
    if untimed:
        worries.append("a raw stream has no clock; convert needs its frame rate, for example --fps 30000/1001.")
    elif index.restamped:
        worries.append("the file has no usable presentation times; they are made from decoding order and rate.")
    if stream.layout is None:
        worries.append(f"pixel format {stream.pix_fmt} is not supported.")
    if facts["already_hdr"]:
        worries.append(f"already HDR ({facts['already_hdr']}); convert refuses it without --force.")
    guessed = [key for key, value in (facts["color"] or {}).items() if value["reason"].startswith("not tagged")]
    unsure = [key for key in guessed if key in ("matrix", "primaries", "range")]
    if unsure:
        worries.append(
            f"{', '.join(unsure)} not tagged; see the reasons above, override with input.{unsure[0]}= and so on."
        )
    if stream.interlaced_from_content:
        worries.append("interlaced; convert deinterlaces it at the same frame count.")
    if stream.width % 2 or stream.height % 2:
        worries.append(f"{stream.width}x{stream.height} is odd; it is coded one pixel larger and cropped by a tag.")
    longest = facts["longest_gop_seconds"]
    if longest and longest > LONG_GOP_SECONDS:
        worries.append(
            f"{longest:.1f} s between keyframes; spans inside decode from the keyframe before, which takes longer."
        )
    return worries


def describe_text(facts: dict[str, Any]) -> str:
    """The facts of `describe` in aligned columns."""
    duration = facts["duration_seconds_from_header"]
    lines = [facts["path"]]
    lines += _row("container", f"{facts['container']}, {_bytes(facts['size_bytes'])}, {_seconds(duration)}")
    if facts["chapters"]:
        lines += _row("chapters", str(facts["chapters"]))
    lines += [line for key, value in facts["metadata"].items() for line in _row(key, value)]
    for stream in facts["streams"]:
        lines += ["", *_stream_text(stream)]
    lines += ["", *_drive_text(facts["drive"], Path(facts["path"]).name)]
    made = facts["provenance"]
    if made:
        lines += ["", f"made by Sunvisor {made.get('version')}"]
        for key in (
            "model",
            "transfer",
            "white_nits",
            "peak_nits",
            "max_cll",
            "max_fall",
            "shift_seconds",
            "settings_hash",
        ):
            if key in made:
                lines += _row(key.replace("_", " "), str(made[key]))
        for track in made.get("tracks", []):
            spans = f"{track.get('frames')} frames in {len(track.get('span_starts', []))} spans"
            lines += _row(f"from stream {track.get('stream')}", spans)
    if facts["warnings"]:
        lines += ["", "warnings", *(f"  - {text}" for text in facts["warnings"])]
    return "\n".join(lines)


def _drive_text(drive: dict[str, Any], name: str) -> list[str]:
    """The files of the same drive in this folder, and why they are no more."""
    names = drive["names"]
    place = f"drive: file {names.index(name) + 1} of {len(names)}" if len(names) > 1 else "drive: this file alone"
    files = (
        [line for number, one in enumerate(names, 1) for line in _row(f"file {number}", one)] if len(names) > 1 else []
    )
    if drive["before"] == drive["after"]:
        return [f"{place} ({drive['before']})"]
    return [place, *files, *_row("before the first", drive["before"]), *_row("after the last", drive["after"])]


def _stream_text(stream: dict[str, Any]) -> list[str]:
    language = f", {stream['language']}" if stream["language"] and stream["language"] != "und" else ""
    kind = "cover art" if stream["cover"] else KINDS.get(stream["kind"], stream["kind"])
    lines = [f"stream {stream['index']}: {kind}, {stream['codec']}{language}"]
    if "width" in stream:
        lines += _video_text(stream)
    if "sample_rate" in stream:
        lines += _row("sound", f"{stream['sample_rate']} Hz, {stream['channel_layout']}")
    becomes = stream["becomes"]
    beside = f" *{becomes['where']}" if becomes["action"] == "sidecar" else ""
    return lines + _row("becomes", f"{becomes['action']}{beside}: {becomes['reason']}")


def _video_text(stream: dict[str, Any]) -> list[str]:
    size = f"{stream['width']}x{stream['height']}, {stream['pix_fmt']}"
    extras = [
        f"pixel aspect {stream['sample_aspect_ratio']}" if stream["sample_aspect_ratio"] != "1" else "",
        f"rotation {stream['rotation_degrees']} degrees" if stream["rotation_degrees"] else "",
        "interlaced" if stream["interlaced"] else "",
    ]
    lines = _row("picture", ", ".join([size, *filter(None, extras)]))
    lines += _row("frames", f"{stream['frames_from_content']} shown, {_rate(stream)}")
    longest = stream["longest_gop_seconds"]
    gop = f"{stream['longest_gop_frames']} frames" + (f" ({longest:.2f} s)" if longest is not None else "")
    lines += _row("keyframes", f"{stream['keyframes']}, longest group {gop}")
    for key, value in (stream["color"] or {}).items():
        lines += _row(key.replace("_", " "), f"{value['value']:<12}{value['reason']}")
    if stream["color"] is None:
        stated = [f"{key.replace('_', ' ')} {value}" for key, value in stream["color_tags"].items() if value]
        lines += _row("tags", ", ".join(stated) or "none")
    hdr = stream["hdr"]
    if hdr:
        lines += _row("HDR", stream["already_hdr"])
        for where in ("container", "bitstream"):
            lines += _row(f"  in {where}", _static_text(hdr[where]))
    return lines


def _static_text(found: dict[str, Any] | None) -> str:
    if not found or (found["mastering_display"] is None and found["max_cll_nits"] is None):
        return "no mastering display, no MaxCLL/MaxFALL"
    display = found["mastering_display"]
    said = (
        f"mastered on {display['min_nits']:g} to {display['peak_nits']:g} nits" if display else "no mastering display"
    )
    if found["max_cll_nits"] is None:
        return f"{said}, no MaxCLL/MaxFALL"
    return f"{said}, MaxCLL {found['max_cll_nits']}, MaxFALL {found['max_fall_nits']}"


def _rate(stream: dict[str, Any]) -> str:
    if stream["rate"] is None:
        return "no clock"
    start = f", first at {stream['first_frame_seconds']:.3f} s" if stream["first_frame_seconds"] else ""
    whole = f"{stream['duration_seconds']:.3f} s"
    if stream["constant_rate"]:
        return f"constant {stream['rate']:.6g} a second, {whole}{start}"
    ends = f"{stream['shortest_frame_seconds'] * 1000:.1f} to {stream['longest_frame_seconds'] * 1000:.1f} ms each"
    return f"variable rate, {stream['rate']:.6g} a second on average, {ends}, {whole}{start}"


def _row(name: str, value: str) -> list[str]:
    return [f"  {name:<18} {value}"]


def _bytes(count: int) -> str:
    return (
        f"{count / 1e9:.2f} GB"
        if count >= 1e9
        else f"{count / 1e6:.2f} MB"
        if count >= 1e6
        else f"{count / 1e3:.1f} kB"
    )


def _seconds(value: float | None) -> str:
    return "no duration in the header" if value is None else f"{value:.3f} s"
