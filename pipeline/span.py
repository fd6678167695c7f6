"""Span: the piece of work that is handed out, redone and resumed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A frame-exact piece of one video stream: it owns the frames with first_pts <= pts < end_pts.

    number: 0, 1, 2 ... within the stream
    first_pts, end_pts: stream ticks (VideoIndex.time_base)
    first_frame, frames: owned frames are VideoIndex.frame_pts[first_frame : first_frame + frames]
    lead_in, lead_out: how many frames before and after are decoded and handed to the stages too (fewer at the file's ends)
    seek_packet: index into VideoIndex of the packet (a keyframe) that decoding starts from
    end_packet: one past the last packet that is needed for all owned and lead-out frames to come out
    """

    number: int
    first_pts: int
    end_pts: int
    first_frame: int
    frames: int
    lead_in: int
    lead_out: int
    seek_packet: int
    end_packet: int
