"""Where in a source positions are, and how to read them: Novatek blocks, BlackVue text, gpmd tracks, NMEA in text tracks."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from pipeline.source import open_source
from pipeline.streams import CopyPlan, demux_streams
from pipeline.telemetry.fixes import GpsFix
from pipeline.telemetry.found import MAX_GPS_BLOCK_BYTES, MAX_GPS_BLOCKS, FoundBox, copy_spans
from pipeline.telemetry.gpmf import gpmf_fixes
from pipeline.telemetry.known import MARK_KINDS
from pipeline.telemetry.nmea import lines_of, nmea_fixes
from pipeline.telemetry.novatek import novatek_fixes

GPMD = "gpmd"
TEXT_CODECS = frozenset({"mov_text", "subrip", "text", "ass", "webvtt"})
MAX_PARTS = 1000


def positions(
    source: Path, found: Sequence[FoundBox], copies: Sequence[CopyPlan], fourccs: Mapping[int, str]
) -> Iterator[tuple[str, Iterator[GpsFix]]]:
    """(origin in words, its positions) for everything in a source that may hold positions, read while iterating.

    found: of `find_boxes`; copies: of `plan_copies`; fourccs: four-letter tags of tracks, by stream index
    Raises ConversionError when the source's packets cannot be read.
    """
    for box in found:
        if box.nature == "blocks":
            yield "Novatek GPS blocks", novatek_fixes(_each(source, box.spans))
    loose = [box.spans for box in found if box.what.startswith("Novatek") and box.nature in ("vendor", "rest")]
    if loose:
        yield "Novatek GPS blocks without an index", novatek_fixes(_each(source, _blocks(source, sum(loose, ()))))
    for box in found:
        if box.nature == "vendor" and box.place == "file" and box.kind in ("free", "skip"):
            for text in _parts(source, box.spans[0], b"gps "):
                yield "NMEA text of the camera's own box", nmea_fixes(lines_of(_pieces(source, (text,))))
    for copy in copies:
        if copy.kind == "data" and fourccs.get(copy.stream, copy.codec) == GPMD:
            yield f"stream {copy.stream} (gpmd)", gpmf_fixes(_packets(source, copy.stream))
        elif copy.kind == "subtitle" and copy.codec in TEXT_CODECS:
            lines = lines_of(text + b"\n" for text, _ in _packets(source, copy.stream))
            yield f"stream {copy.stream} (NMEA text)", nmea_fixes(lines)


def has_position(found: Iterable[tuple[str, Iterator[GpsFix]]]) -> bool:
    """Is there one at least?"""
    return any(next(fixes, None) is not None for _, fixes in found)


def _packets(source: Path, index: int) -> Iterator[tuple[bytes, float]]:
    with open_source(source) as opened:
        for packet in demux_streams(opened, {index}):
            yield bytes(packet), float((packet.duration or 0) * (packet.time_base or Fraction(0)))


def _blocks(source: Path, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The GPS blocks in these places, where each may hold several in a row; MAX_GPS_BLOCKS of them at most."""
    count = 0
    with source.open("rb") as file:
        for start, size in spans:
            at = start
            while at + 12 <= start + size:
                file.seek(at)
                length, *mark = struct.unpack(">I4s4s", file.read(12).ljust(12, b"\0"))
                if tuple(mark) != MARK_KINDS or length < 12 or count == MAX_GPS_BLOCKS:
                    break
                count += 1
                yield at, length
                at += length


def _each(source: Path, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """The start of each place; what a block says lies in its first hundred bytes."""
    with source.open("rb") as file:
        for start, size in spans:
            file.seek(start)
            yield file.read(min(size, MAX_GPS_BLOCK_BYTES, 256))


def _pieces(source: Path, spans: tuple[tuple[int, int], ...]) -> Iterator[bytes]:
    with source.open("rb") as file:
        yield from copy_spans(file, spans)


def _parts(source: Path, outer: tuple[int, int], kind: bytes) -> list[tuple[int, int]]:
    """(start, size) of the content of the boxes of one kind within a box. Stops at the first that does not fit."""
    found, at, end = [], outer[0] + 8, sum(outer)
    with source.open("rb") as file:
        for _ in range(MAX_PARTS):
            file.seek(at)
            head = file.read(8)
            size = struct.unpack(">I4s", head)[0] if len(head) == 8 else 0
            if size < 8 or at + size > end:
                break
            if head[4:] == kind:
                found.append((at + 8, size - 8))
            at += size
    return found
