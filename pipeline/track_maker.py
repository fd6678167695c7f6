"""A track of a plan: how one video stream's codes become light, what is burnt into its pictures, and its spans."""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

from configs.schema import Config
from pipeline.color import ColorSpec
from pipeline.errors import InputError
from pipeline.exclusion import Polygon, by_hand
from pipeline.index import VideoIndex, content_hash
from pipeline.looks import Looks
from pipeline.overlay import OverlayBox
from pipeline.plan import LONG_GROUP_SECONDS, Track, cut_spans, longest_group_seconds
from pipeline.probe import StreamInfo, read_color
from pipeline.span import Span
from pipeline.stages.denoise import BLOCKY

LEAD_SHARE = 0.1
"""Of a span: the frames beyond its ends that may be computed for the temporal stage, both ends together."""


def make_track(
    source: Path,
    stream: StreamInfo,
    index: VideoIndex,
    config: Config,
    tile: int,
    overrides: dict[str, str],
    looks: Looks,
) -> tuple[Track, list[str]]:
    try:
        color, reasons = read_color(stream, overrides)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    radius, spans = _spans(index, config)
    overlays, excluded, denoise = _look(source, stream, index, color, config, looks)
    warnings = [index.loss] if index.loss else []
    if stream.width % 2 or stream.height % 2:
        warnings.append(
            f"stream {stream.index}: {stream.width}x{stream.height} is odd; 4:2:0 video has even sizes, so it is coded one pixel larger and cropped by a tag."
        )
    group = longest_group_seconds(index)
    if group > LONG_GROUP_SECONDS:
        warnings.append(
            f"stream {stream.index}: {group:.0f} s without a keyframe; each span there decodes from the keyframe before, which takes time."
        )
    ticks, den = index.time_base.numerator, index.time_base.denominator
    seconds = float((index.frame_pts[-1] - index.frame_pts[0] + index.frame_duration[-1]) * index.time_base)
    track = Track(
        stream_index=stream.index,
        width=stream.width,
        height=stream.height,
        layout=stream.layout,
        color=color,
        color_reasons=reasons,
        deinterlace=stream.interlaced_from_content
        if config.input.deinterlace == "auto"
        else config.input.deinterlace == "on",
        rate=_rate(stream, index),
        sample_aspect_ratio=stream.sample_aspect_ratio,
        rotation=stream.rotation_degrees,
        time_base_den=den,
        ticks=ticks,
        frames=len(index.frame_pts),
        duration_seconds=seconds,
        content_hash=content_hash(index),
        tile=tile,
        spans=spans,
        radius=radius,
        denoise=denoise,
        overlays=overlays,
        excluded=excluded,
    )
    return track, warnings


def _look(
    source: Path, stream: StreamInfo, index: VideoIndex, color: ColorSpec, config: Config, looks: Looks
) -> tuple[tuple[OverlayBox, ...], tuple[Polygon, ...], float]:
    """Burnt-in text, what is excluded, and the strength of denoising: by the settings, or by a look at keyframes of the whole file."""
    guards, strength = "overlay" in config.stages, config.denoise.strength
    seen = looks.keyframes(
        source,
        stream,
        index,
        color,
        config.overlay.boxes if guards else [],
        find=guards and config.overlay.find,
        judge="denoise" in config.stages and strength is None,
        bonnet=config.exclude.find,
    )
    if strength is None:
        strength = 1.0 if seen.blocks >= BLOCKY else 0.0
    excluded = by_hand(config.exclude.boxes, config.exclude.polygons, stream.width, stream.height)
    bonnet = () if seen.bonnet is None else (seen.bonnet,)
    return seen.overlays, (*excluded, *bonnet), strength if "denoise" in config.stages else 0.0


def _spans(index: VideoIndex, config: Config) -> tuple[int, tuple[Span, ...]]:
    """The temporal stage's radius in frames, and the spans: of a short span's frames, LEAD_SHARE may be computed twice, no more."""
    seconds = asdict(config.span)
    spans = cut_spans(index, **seconds, lead_in=0, lead_out=0)
    radius = config.temporal.radius if "temporal" in config.stages else 0
    if len(spans) > 1:
        radius = min(radius, lead_limit(spans))
    return radius, cut_spans(index, **seconds, lead_in=radius, lead_out=radius)


def lead_limit(spans: tuple[Span, ...]) -> int:
    """How many frames beyond either end of a span may be computed."""
    return int(min(span.frames for span in spans) * LEAD_SHARE / 2)


def _rate(stream: StreamInfo, index: VideoIndex) -> Fraction:
    """Frames per second for the encoder's rate control and players' display; times come from pts, never from this."""
    if stream.avg_frame_rate_from_header and not index.restamped:
        return stream.avg_frame_rate_from_header
    ticks = int(index.frame_pts[-1] - index.frame_pts[0] + index.frame_duration[-1])
    return (len(index.frame_pts) / (max(ticks, 1) * index.time_base)).limit_denominator(100_000)
