"""VideoIndex: every packet of one video stream, and the frames that they show."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.errors import ConversionError

NO_PTS = -(2**63)
"""Value of VideoIndex.pts for packets of a restamped stream that show no frame of their own (second fields, empty packets)."""

FORMAT_VERSION = 1


@dataclass(frozen=True)
class VideoIndex:
    """One entry a packet, in demux (decode) order. Saved beside the plan as .npz; pure data, no file handle.

    pts: int64 (P,) presentation time in `time_base`; the source's own, or a stamp given by us (see `restamped`)
    keyframe: bool (P,) decoding can start here (H.264 gradual refresh points are not marked)
    discard: bool (P,) decoded but not shown (edit lists)
    size: int64 (P,) bytes
    digest: uint8 (P, 16) blake2b-128 of the packet's bytes
    frame_pts: int64 (F,) strictly increasing: the pts of every frame that is shown, in display order
    frame_duration: int64 (F,) next frame's pts minus this one's; the last: the source's own, else the median, at least 1
    time_base: seconds per tick
    restamped: the file has no (usable) pts (raw .h264/.hevc, AVI with B-frames): reading goes from the start of the file and the
        n-th packet of the stream gets pts[n]
    loss: None, or one sentence that says which part of a cut file is missing (only with `salvage`)
    """

    pts: np.ndarray
    keyframe: np.ndarray
    discard: np.ndarray
    size: np.ndarray
    digest: np.ndarray
    frame_pts: np.ndarray
    frame_duration: np.ndarray
    time_base: Fraction
    restamped: bool
    loss: str | None = None

    def save(self, path: Path) -> None:
        """Write as uncompressed .npz (no pickle), atomically."""
        path = Path(path)
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays["time_base"] = np.array([self.time_base.numerator, self.time_base.denominator], np.int64)
        arrays["restamped"] = np.array(self.restamped)
        arrays["loss"] = np.frombuffer((self.loss or "").encode(), np.uint8)
        arrays["format_version"] = np.array(FORMAT_VERSION)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> VideoIndex:
        """Read what `save` wrote. Raises ConversionError when the file is none of ours."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if int(arrays["format_version"]) != FORMAT_VERSION:
                    raise ConversionError(
                        f"{path}: this index is of another Sunvisor version; delete it and run again."
                    )
                numerator, denominator = (int(number) for number in arrays["time_base"])
                return VideoIndex(
                    **{name: arrays[name] for name in _ARRAYS},
                    time_base=Fraction(numerator, denominator),
                    restamped=bool(arrays["restamped"]),
                    loss=arrays["loss"].tobytes().decode() or None,
                )
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ConversionError(f"{path}: this is not a readable video index; delete it and run again.") from error


_ARRAYS = tuple(field.name for field in fields(VideoIndex) if field.name not in {"time_base", "restamped", "loss"})


def content_hash(index: VideoIndex) -> str:
    """Hex blake2b-128 over everything in the index: equal for equal content, on every machine."""
    digest = hashlib.blake2b(digest_size=16)
    for name in _ARRAYS:
        array = np.ascontiguousarray(getattr(index, name))
        digest.update(f"{name} {array.dtype.newbyteorder('<').str} {array.shape};".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    digest.update(f"{index.time_base} {index.restamped} {index.loss}".encode())
    return digest.hexdigest()


def frame_durations(frame_pts: np.ndarray, last_duration: int | None) -> np.ndarray:
    """int64 (F,) ticks from each frame to the next; the last one's own when known and positive, else the median; at least 1."""
    gaps = np.diff(frame_pts)
    if last_duration is None or last_duration <= 0:
        last_duration = int(np.median(gaps)) if len(gaps) else 1
    return np.append(gaps, max(1, last_duration)).astype(np.int64)


def frame_packets(index: VideoIndex) -> np.ndarray:
    """int64 (F,): for each shown frame, in display order, the number of the packet that carries it."""
    shown = np.flatnonzero(~index.discard)
    return shown[np.argsort(index.pts[shown], kind="stable")]


def packets_for(index: VideoIndex, first_frame: int, frames: int, lead_in: int, lead_out: int) -> tuple[int, int]:
    """The packets to decode for the frames [first_frame - lead_in, first_frame + frames + lead_out): (seek_packet, end_packet).

    seek_packet is the last keyframe from which every wanted frame decodes right: no wanted frame comes before it in decode
    order, and none is shown before it (a leading picture of an open GOP refers to the GOP before: it needs the keyframe
    before that; H.265 clause 3 "RASL picture"). end_packet is one past the last wanted frame in decode order: what a frame
    refers to comes before it, and the end of input makes the decoder let go of the rest. Packets that show nothing (second
    fields) go with the frame before them. When the stream has no such keyframe, decoding starts at packet 0.
    """
    start, stop = first_frame - lead_in, first_frame + frames + lead_out
    if start < 0 or stop > len(index.frame_pts) or frames < 1 or lead_in < 0 or lead_out < 0:
        raise ValueError(f"frames {start}..{stop} are not all within the stream's {len(index.frame_pts)} frames")
    first_shown, last_shown = int(index.frame_pts[start]), int(index.frame_pts[stop - 1])
    wanted = np.flatnonzero(~index.discard & (index.pts >= first_shown) & (index.pts <= last_shown))
    pts = index.pts[: int(wanted.min()) + 1]
    fits = np.flatnonzero(index.keyframe[: len(pts)] & (pts <= first_shown) & (pts != NO_PTS))
    seek_packet = int(fits[-1]) if len(fits) else 0
    end_packet = int(wanted.max()) + 1
    while index.restamped and end_packet < len(index.pts) and index.discard[end_packet]:
        end_packet += 1
    return seek_packet, end_packet


def build_index(path: Path, stream_index: int, fps: Fraction | None = None, salvage: bool = False) -> VideoIndex:
    """Index one video stream by reading the whole file once (and decoding it once when its packets have no usable pts).

    fps: frames per second, used (and needed) only by files without a clock, such as raw .h264 and .hevc
    salvage: take the readable part of a cut file, and say in `loss` what is missing
    Raises InputError: no frames; no clock and no fps; a cut file without salvage (naming the last good time).
    """
    from pipeline.scan import scan  # PyAV is needed only here: the plan works on arrays without it

    return scan(Path(path), stream_index, fps, salvage)
