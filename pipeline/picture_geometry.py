"""Picture geometry: the orientation and the crop that a source's container asks players for. Neither changes a pixel."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from fractions import Fraction

import av
from av.video.stream import VideoStream

from pipeline.boxes import CleanAperture, read_boxes
from pipeline.moov import boxes, inside

IDENTITY = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""Display matrix that turns nothing, 16.16 and 2.30 fixed point (ISO/IEC 14496-12 8.3.2)."""


@dataclass(frozen=True)
class PictureGeometry:
    """display_matrix: 9 integers as in the track header box; None: upright, or unknown to a container that has none
    clap: the part of the decoded picture that is shown; None: all of it
    """

    display_matrix: tuple[int, ...] | None
    clap: CleanAperture | None


def read_geometry(stream: VideoStream) -> PictureGeometry:
    """Read from an open source's video stream, whatever its container, by what FFmpeg's muxer makes of it.

    PyAV shows neither; a header without frames is muxed to memory and its boxes are read.
    """
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="mov", options={"movflags": "empty_moov+default_base_moof"}) as out:
            out.add_stream_from_template(stream, opaque=True)
            out.start_encoding()
    except (av.FFmpegError, ValueError):
        return PictureGeometry(None, None)  # a codec that mov does not know comes in no container that turns or crops
    data = buffer.getvalue()
    moov = next(box for box in boxes(data, 0, len(data)) if box.kind == b"moov")
    header = inside(data, moov, b"trak", b"tkhd")
    matrix = None
    if header is not None:
        at = header.body + (52 if data[header.body] else 40)
        matrix = struct.unpack_from(">9i", data, at)
    return PictureGeometry(None if matrix == IDENTITY else matrix, read_boxes(data).clap)


def shown_part(source: CleanAperture | None, shown: tuple[int, int], coded: tuple[int, int]) -> CleanAperture | None:
    """The clean aperture of the output: the source's own, counted in the coded picture, which may be padded to even sizes.

    shown, coded: (width, height) of the decoded source picture and of the coded output picture, which begin at the same corner
    """
    if source is None:
        return None if shown == coded else CleanAperture.top_left(shown, coded)
    moved_x, moved_y = (Fraction(show - code, 2) for show, code in zip(shown, coded, strict=True))
    return CleanAperture(source.width, source.height, source.x_offset + moved_x, source.y_offset + moved_y)
