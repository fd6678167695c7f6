"""Does the picture of the output decode, and is its light what the tags say? Decodes all of it, or only where spans meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from torch import Tensor

from pipeline import light
from pipeline.hdr10 import ContentLight
from pipeline.heartbeat import beat
from pipeline.index import VideoIndex
from pipeline.light import LightLevels
from pipeline.verify_packets import open_video
from pipeline.verify_report import Check
from pipeline.verify_seams import Brightness, brightness_of_hdr

PIXEL_FORMATS = {"prores": "yuv422p10le"}
"""Codec -> what it decodes to; all others to yuv420p10le."""
CRC_DAMAGE = "CRC mismatch"
MAX_FALL_TOLERANCE = 0.03
MAX_CLL_TOLERANCE = 0.10
SMALL_PICTURE_TOLERANCE = 0.30
FEW_PIXELS = 100_000
ROUNDING_NITS = 0.5
"""Tags are whole nits, so half a nit of any difference is rounding."""

Frames = tuple[int, int]
"""First and last frame of a run, both counted."""


@dataclass
class DecodedPicture:
    """What decoding one HDR track gave.

    decoded: frames that came out where they should; wanted: frames that should have
    problem: the first thing that went wrong, in words; nothing was decoded after it
    levels: light of all decoded frames, None unless asked for
    brightness: of the frames asked for, by frame number; pixels: of one frame
    """

    decoded: int = 0
    wanted: int = 0
    problem: str | None = None
    levels: LightLevels | None = None
    brightness: dict[int, Brightness] = field(default_factory=dict)
    pixels: int = 0


def merge_runs(runs: list[Frames], index: VideoIndex) -> list[Frames]:
    """Join runs of frames that overlap, or that share the keyframe from which both would be decoded. Sorted."""
    keys = np.sort(index.pts[index.keyframe & ~index.discard])
    merged: list[Frames] = []
    for first, last in sorted(runs):
        place = int(np.searchsorted(keys, index.frame_pts[first], side="right")) - 1
        start = index.frame_pts[0] if place < 0 else keys[place]
        if merged and start <= index.frame_pts[merged[-1][1]]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def decode_picture(
    path: Path,
    stream_index: int,
    index: VideoIndex,
    runs: list[Frames],
    *,
    transfer: str,
    measure: bool,
    look_at: set[int],
    on_frames: Callable[[int], None] | None = None,
) -> DecodedPicture:
    """Decode runs of frames of one HDR track.

    runs: disjoint and ascending, as `merge_runs` gives them
    measure: take the light levels of every frame; look_at: frames whose brightness is wanted
    on_frames: told after each frame how many it was (1)
    Raises InputError when the file cannot be opened.
    """
    result = DecodedPicture(wanted=sum(last - first + 1 for first, last in runs))
    with open_video(path, "output") as container, ExitStack() as held:
        stream = container.streams.video[_video_number(container, stream_index)]
        result.pixels = stream.width * stream.height
        codec = stream.codec_context.codec.canonical_name
        stream.thread_type = "SLICE" if codec == "ffv1" else "AUTO"
        said = held.enter_context(_decoder_says()) if codec == "ffv1" else []
        wanted = PIXEL_FORMATS.get(codec, "yuv420p10le")
        stream.codec_context.options = {"err_detect": "explode"}
        for first, last in runs:
            expected = first
            try:
                for number, frame in _frames(container, stream, index, first, last):
                    if number != expected:
                        result.problem = f"{_at(index, expected)} does not come out of the decoder"
                        return result
                    damage = next((text for *_, text in said if CRC_DAMAGE in text), None)
                    result.problem = _unfit(frame, wanted) if damage is None else f"is damaged ({damage.strip()})"
                    if result.problem:
                        result.problem = f"{_at(index, number)} {result.problem}"
                        return result
                    _look(frame, number, result, transfer, measure, look_at)
                    result.decoded += 1
                    expected += 1
                    if on_frames is not None:
                        on_frames(1)
            except av.FFmpegError as error:
                result.problem = f"the decoder fails at {_at(index, expected)}: {error.strerror}"
                return result
            except ValueError as error:
                result.problem = str(error)
                return result
            if expected != last + 1:
                result.problem = f"{_at(index, expected)} does not come out of the decoder"
                return result
    return result


@contextmanager
def _decoder_says() -> Iterator[list[tuple[int, str, str]]]:
    """Errors that decoders log meanwhile. FFmpeg's FFV1 decoder tells of a wrong checksum in no other way, and shows the frame."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=False) as said:
            yield said
    finally:
        av.logging.set_level(level)


def _video_number(container: InputContainer, stream_index: int) -> int:
    return next(n for n, stream in enumerate(container.streams.video) if stream.index == stream_index)


def _frames(
    container: InputContainer, stream: av.VideoStream, index: VideoIndex, first: int, last: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) from `first` to `last`, from the keyframe before. Raises ValueError for a time that no packet has."""
    if first > 0:
        container.seek(int(index.frame_pts[first]), stream=stream, backward=True)
    for frame in container.decode(stream):
        beat()
        pts = frame.pts
        number = int(np.searchsorted(index.frame_pts, pts)) if pts is not None else -1
        if number < 0 or number >= len(index.frame_pts) or index.frame_pts[number] != pts:
            raise ValueError(f"the decoder gives a frame at tick {pts}, where no packet says there is one")
        if number < first:
            continue
        if number > last:
            return
        yield number, frame
        if number == last:
            return


def _unfit(frame: av.VideoFrame, wanted: str) -> str | None:
    if frame.format.name != wanted:
        return f"is {frame.format.name} instead of {wanted} (10 bits, 4:2:{wanted[5]})"
    return "is damaged" if frame.is_corrupt else None


def _look(
    frame: av.VideoFrame, number: int, result: DecodedPicture, transfer: str, measure: bool, look_at: set[int]
) -> None:
    if not measure and number not in look_at:
        return
    planes: list[Tensor] = [torch.from_dlpack(plane)[None] for plane in frame.planes]
    y, u, v = planes
    if measure:
        levels = light.measure(y, u, v, transfer)[0]
        result.levels = levels if result.levels is None else result.levels | levels
    if number in look_at:
        result.brightness[number] = brightness_of_hdr(y, u, v, transfer)


def _at(index: VideoIndex, number: int) -> str:
    seconds = float(int(index.frame_pts[number]) * index.time_base)
    return f"frame {number} ({seconds:.3f} s)"


def decode_check(picture: DecodedPicture, total: int, prefix: str = "") -> Check:
    """Did all frames that were asked for come out?"""
    name = f"{prefix}decode"
    if picture.problem:
        return Check(name, False, f"{picture.problem}; {picture.decoded} frames before it decode.")
    if picture.wanted == total:
        return Check(name, True, f"all {total} frames decode without an error.")
    return Check(
        name,
        True,
        f"{picture.wanted} of {total} frames decode without an error: the first, the last and those around the borders of spans.",
    )


def light_check(
    levels: LightLevels | None,
    tagged: ContentLight | None,
    recorded_p9999: float | None = None,
    *,
    pixels: int = FEW_PIXELS,
) -> Check:
    """Is the decoded light what MaxCLL and MaxFALL say?

    MaxFALL must agree within 3 %. MaxCLL is the brightest pixel of all, and a single pixel does not survive coding exactly. So the
    largest 99.99th percentile of any frame must be within 10 % of it; or, where fewer than 0.01 % of the pixels are that bright,
    MaxCLL must lie between that percentile and the brightest decoded pixel, 10 % to either side (coding makes single pixels
    brighter by more than that). recorded_p9999: the percentile before coding, in nits, if known: must agree within 10 %.
    In frames of fewer than 100,000 pixels the percentile is a matter of a few pixels too and may be 30 % above.
    Half a nit more is allowed everywhere for the tags' rounding.
    """
    if levels is None:
        return Check("light", False, "no frame was decoded, so there is no light to measure.")
    fall, percentile, brightest = levels.max_fall_nits, levels.p9999_nits, levels.max_cll_nits
    measured = f"decoded MaxFALL {fall:.1f}, 99.99th percentile {percentile:.1f}, brightest pixel {brightest:.1f} nits"
    if tagged is None:
        return Check("light", True, f"{measured}; there are no MaxCLL and MaxFALL tags to hold them against.")
    numbers = f"{measured}; tags MaxFALL {tagged.max_fall_nits}, MaxCLL {tagged.max_cll_nits}"
    cll, wrong = tagged.max_cll_nits, []
    if not _near(fall, tagged.max_fall_nits, MAX_FALL_TOLERANCE):
        wrong.append(f"MaxFALL is {_percent(fall, tagged.max_fall_nits)} off, 3 % are allowed")
    few = percentile < cll
    above = MAX_CLL_TOLERANCE if few or pixels >= FEW_PIXELS else SMALL_PICTURE_TOLERANCE
    between = few and (brightest >= cll or _near(brightest, cll, MAX_CLL_TOLERANCE))
    if not between and not _near(percentile, cll, above):
        seen, which = (brightest, "brightest pixel") if few else (percentile, "99.99th percentile")
        wrong.append(f"the {which} is {_percent(seen, cll)} off MaxCLL, {100 * above:.0f} % are allowed")
    if recorded_p9999 is not None:
        numbers += f", percentile before coding {recorded_p9999:.1f}"
        if not _near(percentile, recorded_p9999, above):
            wrong.append(
                f"the 99.99th percentile is {_percent(percentile, recorded_p9999)} off, {100 * above:.0f} % are allowed"
            )
    if wrong:
        return Check("light", False, f"{'; '.join(wrong)} ({numbers}).")
    rare = "; fewer than 0.01 % of the pixels are as bright as MaxCLL" if few else ""
    return Check("light", True, f"{numbers}{rare}.")


def _near(measured: float, tag: float, tolerance: float) -> bool:
    """Below one nit nothing is told apart: a tag cannot say less, as 0 would mean "unknown"."""
    return abs(max(measured, 1.0) - max(tag, 1.0)) <= tolerance * tag + ROUNDING_NITS


def _percent(measured: float, tag: float) -> str:
    return f"{100 * (measured - tag) / max(tag, 1):+.1f} %"
