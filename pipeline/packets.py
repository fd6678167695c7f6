"""Packets of a stream from a given one on, numbered and stamped as the VideoIndex has them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer

from pipeline.errors import ConversionError
from pipeline.index import NO_PTS, VideoIndex
from pipeline.source import demux

STEPS_BACK_SECONDS = (0, 1, 2, 4, 8, 16)
"""MPEG-TS seeks land up to a group of pictures late (facts/pyav_ray.md B); then the seek is tried again so much earlier."""


def read_packets(
    path: Path, container: InputContainer, stream: av.VideoStream, index: VideoIndex, first: int, end: int
) -> Iterator[tuple[int, av.Packet]]:
    """Yield (number, packet) for first <= number < end; packet.pts is index.pts[number].

    Streams without usable pts are counted from the start of the file; others are sought, and fall back to counting.
    Raises ConversionError when the packets are not those of the index: the file has changed since.
    """
    numbered = _sought(container, stream, index, first) if first and not index.restamped else None
    if numbered is None:
        if first and not index.restamped:
            container.seek(container.start_time or 0)
        numbered = _counted(container, stream)
    number = first - 1
    for number, packet in numbered:
        if number < first:
            continue
        if number >= end:
            return
        if packet.size != index.size[number] or _digest(packet) != index.digest[number].tobytes():
            raise ConversionError(
                f"{path}: packet {number} is not the one that was indexed; the file has changed: run again."
            )
        pts = int(index.pts[number])
        packet.pts = None if pts == NO_PTS else pts
        yield number, packet
    if number < end - 1:
        raise ConversionError(
            f"{path}: the file ends before packet {end - 1}, which was there when it was indexed: run again."
        )


def _counted(container: InputContainer, stream: av.VideoStream, first: int = 0) -> Iterator[tuple[int, av.Packet]]:
    number = first
    for packet in demux(container, stream):
        if packet.size:  # the packet that ends the stream is empty
            yield number, packet
            number += 1


def _sought(
    container: InputContainer, stream: av.VideoStream, index: VideoIndex, first: int
) -> Iterator[tuple[int, av.Packet]] | None:
    """Packets from number `first` on, or None when seeking does not find it."""
    target = int(index.pts[first])
    wanted = index.digest[first].tobytes()
    for seconds in STEPS_BACK_SECONDS:
        try:
            container.seek(target - int(seconds / index.time_base), stream=stream, backward=True)
        except av.FFmpegError:
            continue  # before the first packet, or a container that cannot seek: counting from the start is left
        demuxer = demux(container, stream)
        for packet in demuxer:
            if not packet.size or (packet.pts is not None and packet.pts > target):
                break
            if packet.pts == target and packet.size == index.size[first] and _digest(packet) == wanted:
                return _following(packet, demuxer, first)
    return None


def _following(packet: av.Packet, demuxer: Iterator[av.Packet], first: int) -> Iterator[tuple[int, av.Packet]]:
    yield first, packet
    number = first
    for packet in demuxer:
        if packet.size:
            number += 1
            yield number, packet


def _digest(packet: av.Packet) -> bytes:
    return hashlib.blake2b(memoryview(packet), digest_size=16).digest()
