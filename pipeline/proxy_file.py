"""Proxy file: the small video beside a result; its pieces are encoded with the spans and joined, with the source's sound, at the end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from pipeline.assemble import assemble
from pipeline.encode import publish
from pipeline.encoder_choice import proxy_encoder
from pipeline.prepare import Prepared
from pipeline.proxy import Proxy, proxy_in, proxy_size
from pipeline.streams import plan_copies
from pipeline.track_packets import TrackSpans
from pipeline.version import VERSION

SUFFIX = ".proxy.mp4"
TAG = "sunvisor_proxy"


def proxy_path(output: Path, track: int = 0) -> Path:
    """drive_hdr.mp4 -> drive_hdr.proxy.mp4; of a second converted video stream drive_hdr.1.proxy.mp4"""
    return output.with_name(output.stem + (f".{track}" if track else "") + SUFFIX)


def proxies_current(prepared: Prepared, tags_of: Callable[[Path], Mapping[str, str]]) -> bool:
    """Whether the proxies that the plan asks for are there, of this kind and made with this result; True where none is asked for.

    tags_of: a video's tags; none where it is not there or cannot be read
    """
    proxy = proxy_in(prepared.plan.extras)
    wanted = [] if proxy is None else [proxy_path(prepared.output, track) for track in range(len(prepared.plan.tracks))]
    return all(_facts(tags_of(path)) == _made_of(prepared, proxy) for path in wanted if proxy is not None)


def write_proxy(prepared: Prepared, track: int, files: Sequence[Path], shift: Fraction, target: Path) -> list[str]:
    """Join the pieces of one track, with the first sound of the source that mp4 holds, and publish. Returns warnings of its own; those
    about the source's times the result has given.

    files: pieces of all spans, in order; shift: seconds added to the result's times, and so to the proxy's
    Raises ConversionError when a piece is damaged, OSError (ENOSPC) when the disk is full.
    """
    plan, job, index = prepared.plan, prepared.plan.tracks[track], prepared.indices[track]
    proxy = proxy_in(plan.extras)
    if proxy is None:
        raise ValueError("the plan asks for no proxy")
    width, height = proxy_size(job.width, job.height, proxy.width)
    small = dataclasses.replace(job, width=width, height=height)
    times = index.frame_pts * job.ticks, index.frame_duration * job.ticks
    streams = plan_copies(prepared.source, "mp4", {one.stream_index for one in plan.tracks})
    sounds = [copy for copy in streams if copy.kind == "audio"]
    sound = [copy for copy in sounds if copy.action == "copy"][:1]
    partial = prepared.workdir / f"final.{track}{SUFFIX}"
    assemble(
        prepared.source,
        partial,
        [TrackSpans(small, tuple(files), *times, scaled=True)],
        sound,
        container="mp4",
        codec=proxy_encoder(proxy.kind).codec,
        mastering=None,
        light=None,
        provenance_key=TAG,
        provenance=_made_of(prepared, proxy),
        least_shift=shift,
    )
    publish(partial, target)
    return [f"{target.name} has no sound: mp4 holds none of the source's."] if sounds and not sound else []


def _made_of(prepared: Prepared, proxy: Proxy) -> dict[str, str]:
    return {"version": VERSION, "identity": prepared.plan.identity(), "proxy": proxy.name}


def _facts(tags: Mapping[str, str]) -> dict[str, str]:
    """What a proxy says of itself, without its times; empty when it is none of ours, or not there."""
    try:
        facts = json.loads(tags.get(TAG, "{}"))
    except ValueError:
        return {}
    return {name: text for name, text in facts.items() if name != "shift_seconds"}
