"""Pictures: the same frame of source and result, made fit for an SDR screen, as data URIs; and which frames are worth seeing."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from evaluation.tonemap import encode_srgb, exposure, tone_map
from pipeline import color, transfer
from pipeline.decode import decode_span
from pipeline.errors import InputError
from pipeline.frame_stats import flicker_stops
from pipeline.index import VideoIndex, build_index, packets_for
from pipeline.span import Span
from reporting.facts import ReportFacts, TrackFacts

Array = np.ndarray

MOST_PIXELS_WIDE = 640
JPEG_QUALITY = 82
VISIBLE_FLICKER_STOPS = 0.02
"""Smaller leaps of a frame's average light are not worth a picture."""

WAVEFORM_PX = (256, 160)
MARK_RGB = (255, 0, 200)


@dataclass(frozen=True)
class Telling:
    """A frame worth seeing: its number within the track, and why, in plain words."""

    frame: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class FramePictures:
    """One telling frame as data URIs (JPEG) and as light.

    before, after: as this screen can show them; before_dark, after_dark: both `stops` darker, so that highlights can be seen
    before_nits, after_nits: (H, W) luminance of every pixel, turned upright
    """

    telling: Telling
    before: str
    after: str
    before_dark: str
    after_dark: str
    stops: int
    before_nits: Array
    after_nits: Array


def telling_frames(stats: Array) -> list[Telling]:
    """The frames worth seeing of (F,) rows of frame_stats.TABLE, at most four, in order; F at least 1.

    Most restored (if anything was), darkest and brightest on average, and the one that flickers most (if any does visibly). Of equal frames the
    first; a frame that is worth seeing for two reasons comes once.
    """
    flicker = flicker_stops(stats)
    wanted = []
    if stats["restored_share"].max() > 0:
        wanted.append((int(stats["restored_share"].argmax()), "most restored"))
    wanted.append((int(stats["fall_nits"].argmin()), "darkest"))
    wanted.append((int(stats["fall_nits"].argmax()), "brightest"))
    if flicker.max() > VISIBLE_FLICKER_STOPS:
        wanted.append((int(flicker.argmax()), "most flicker"))
    frames = sorted({frame for frame, _ in wanted})
    return [Telling(frame, tuple(why for number, why in wanted if number == frame)) for frame in frames]


def take(facts: ReportFacts, track: TrackFacts) -> list[FramePictures]:
    """Decode the telling frames of a track from source and result, frame number by frame number, and make pictures of them.

    Raises InputError or ConversionError when one of the files cannot be read, or the result has other frames than the statistics.
    """
    index = build_index(facts.result, track.result_stream)
    if len(index.frame_pts) != len(track.stats):
        raise InputError(
            f"{facts.result}: has {len(index.frame_pts)} frames and {len(track.stats)} were converted; it is not the file of this report."
        )
    return [_frame(facts, track, telling, index) for telling in telling_frames(track.stats)]


def source_light(facts: ReportFacts, track: TrackFacts, frame: int) -> Array:
    """One frame of the source as a reference display shows it: (H, W, 3) float32 nits, BT.709 primaries, white at white_nits."""
    planes = _planes(facts.source, track.source_stream, track.source_index, frame, track.deinterlace)
    linear = color.unpack(tuple(plane[None] for plane in planes), track.layout, track.color)
    return linear[0].mul_(facts.white_nits).permute(1, 2, 0).numpy()


def result_light(facts: ReportFacts, track: TrackFacts, index: VideoIndex, frame: int) -> Array:
    """One frame of the result as (H, W, 3) float32 nits, BT.2020 primaries, cropped to the source's size.

    index: of the result's stream. Reads what our encoders write: 10 bits, limited range, BT.2020, chroma top-left.
    """
    planes = tuple(plane[None] for plane in _planes(facts.result, track.result_stream, index, frame, False))
    spec = replace(color.HDR_SPEC, primaries="bt709")  # codes have no light yet: leave the primaries be
    red, green, blue = color.unpack(planes, _layout(planes), spec)[0]
    if facts.transfer == "hlg":
        transfer.hlg_decode_(red, green, blue)
    else:
        for channel in (red, green, blue):
            transfer.PQ_DECODE.apply_(channel)
    return torch.stack((red, green, blue), dim=-1)[: track.height, : track.width].numpy()


def waveform_png(nits: Array, top_nits: float) -> str:
    """Luminance (H, W) in nits -> data URI of a PNG of WAVEFORM_PX: across as in the picture, up by brightness as PQ spaces it, 0 to top_nits; the
    more pixels, the more opaque."""
    import cv2

    wide, high = WAVEFORM_PX
    place = transfer.pq_inverse_eotf(torch.from_numpy(np.ascontiguousarray(nits)).double().clamp(0, top_nits)).numpy()
    rows = (high - 1 - np.rint(place / transfer.pq_inverse_eotf(top_nits) * (high - 1))).astype(np.int64)
    columns = np.broadcast_to(np.arange(nits.shape[1]) * wide // nits.shape[1], nits.shape)
    counts = np.bincount((rows * wide + columns).ravel(), minlength=wide * high).reshape(high, wide)
    image = np.zeros((high, wide, 4), np.uint8)
    image[..., :3] = (224, 144, 64)  # blue, green, red: seen on white and on black
    shares = counts / np.maximum(counts.sum(axis=0, keepdims=True), 1)
    image[..., 3] = np.where(counts > 0, np.minimum(90 + 330 * np.sqrt(shares), 255), 0)
    return _uri("png", cv2.imencode(".png", image)[1])


def overlay_picture(facts: ReportFacts, track: TrackFacts, frame: int) -> str:
    """A source frame with the found overlays boxed and numbered from 1, as a data URI."""
    import cv2

    picture = np.ascontiguousarray(encode_srgb(source_light(facts, track, frame) / facts.white_nits))
    thick = max(2, track.width // 320)
    for number, box in enumerate(track.overlays, 1):
        corners = (box.x, box.y), (box.x + box.width - 1, box.y + box.height - 1)
        cv2.rectangle(picture, *corners, MARK_RGB, thick)
        place = (box.x, box.y - 2 * thick if box.y > 24 * thick else box.y + box.height + 12 * thick)
        cv2.putText(picture, str(number), place, cv2.FONT_HERSHEY_SIMPLEX, thick / 2, MARK_RGB, thick)
    return _jpeg(_upright(picture, track), track)


def _frame(facts: ReportFacts, track: TrackFacts, telling: Telling, index: VideoIndex) -> FramePictures:
    before = _upright(source_light(facts, track, telling.frame), track)
    wide = _upright(result_light(facts, track, index, telling.frame), track)
    after = color.bt2020_to_bt709(torch.from_numpy(wide.copy()).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    brightest = float(track.stats["percentiles_nits"][telling.frame].max())
    stops = min(4, max(1, math.ceil(math.log2(max(brightest, 1.0) / facts.white_nits))))
    return FramePictures(
        telling=telling,
        before=_jpeg(encode_srgb(before / facts.white_nits), track),
        after=_jpeg(tone_map(after, facts.white_nits), track),
        before_dark=_jpeg(exposure(before, -stops, facts.white_nits), track),
        after_dark=_jpeg(exposure(after, -stops, facts.white_nits), track),
        stops=stops,
        before_nits=np.maximum(before @ np.array((0.2126, 0.7152, 0.0722), np.float32), 0),
        after_nits=wide @ np.array((0.2627, 0.6780, 0.0593), np.float32),
    )


def _planes(path: Path, stream: int, index: VideoIndex, frame: int, deinterlace: bool) -> tuple[torch.Tensor, ...]:
    """Planes of one frame by its number, decoded as the converter decodes."""
    first, end = packets_for(index, frame, 1, 0, 0)
    pts = int(index.frame_pts[frame])
    span = Span(0, pts, pts + int(index.frame_duration[frame]), frame, 1, 0, 0, first, end)
    (decoded,) = decode_span(path, stream, index, span, deinterlace=deinterlace)
    return decoded.planes


def _layout(planes: tuple[torch.Tensor, ...]) -> color.PixelLayout:
    """The layout of a result's planes, by their sizes; ten bits, as all our encoders write them."""
    across, down = (round(planes[0].shape[side] / planes[1].shape[side]) for side in (2, 1))
    chroma = {(2, 2): "420", (2, 1): "422", (1, 1): "444"}[across, down]
    return color.PixelLayout(chroma, 10)


def _upright(picture: Array, track: TrackFacts) -> Array:
    """(H, W, 3) turned as the file asks players to show it. rotation_degrees counts against the clock, as PyAV's."""
    return np.rot90(picture, round(track.rotation_degrees / 90) % 4)


def _jpeg(picture: Array, track: TrackFacts) -> str:
    """(H, W, 3) uint8 sRGB -> data URI, at most MOST_PIXELS_WIDE wide, pixels square."""
    import cv2

    height, width = picture.shape[:2]
    ratio = float(track.sample_aspect_ratio or 1)
    shown = (width, height * ratio) if round(track.rotation_degrees / 90) % 2 else (width * ratio, height)
    scale = min(1.0, MOST_PIXELS_WIDE / max(shown))
    size = tuple(max(1, round(side * scale)) for side in shown)
    small = cv2.resize(np.ascontiguousarray(picture[..., ::-1]), size, interpolation=cv2.INTER_AREA)
    return _uri("jpeg", cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])


def _uri(kind: str, data: Array) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"
