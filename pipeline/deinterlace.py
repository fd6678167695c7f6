"""Deinterlacing with FFmpeg's bwdif: one frame out for each frame in, progressive frames untouched."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
from av.filter import Graph

from pipeline.errors import ConversionError

OPTIONS = "mode=send_frame:parity=auto:deint=interlaced"


def deinterlaced(
    frames: Iterator[tuple[av.VideoFrame, bool]], time_base: Fraction, name: str
) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Frames flagged as interlaced become progressive (Weston 3-field with edge-directed interpolation, mode send_frame).

    Each result depends on the frame itself and one neighbour on either side. The second item of each pair goes with its frame.
    Raises ConversionError when the filter would convert the pixel format or loses a frame.
    """
    graph: Graph | None = None
    flags: list[bool] = []
    given = 0
    pixel_format = None
    for frame, flag in frames:
        if graph is None:
            graph, pixel_format = _graph(frame, time_base), frame.format.name
        flags.append(flag)
        frame.pts = len(flags) - 1
        frame.time_base = time_base
        graph.push(frame)
        for result in _pulled(graph):
            yield _checked(result, given, pixel_format, name), flags[given]
            given += 1
    if graph is not None:
        graph.push(None)
        for result in _pulled(graph):
            yield _checked(result, given, pixel_format, name), flags[given]
            given += 1
    if given != len(flags):
        raise ConversionError(f"{name}: deinterlacing gave {given} frames for {len(flags)}; set input.deinterlace=off.")


def _graph(frame: av.VideoFrame, time_base: Fraction) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
    graph.link_nodes(source, graph.add("bwdif", OPTIONS), graph.add("buffersink")).configure()
    return graph


def _pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _checked(frame: av.VideoFrame, number: int, pixel_format: str | None, name: str) -> av.VideoFrame:
    if frame.format.name != pixel_format:
        raise ConversionError(
            f"{name}: pixel format {pixel_format} cannot be deinterlaced without conversion; set input.deinterlace=off."
        )
    if frame.pts != 2 * number:  # bwdif counts in half ticks, in mode send_frame too
        raise ConversionError(
            f"{name}: deinterlacing changed the order of frames at frame {number}; set input.deinterlace=off."
        )
    return frame
