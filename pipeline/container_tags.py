"""The colour tags and HDR10 metadata that a container states of a video track: mp4 and mov boxes, Matroska elements.

FFmpeg mixes what the container and what the bitstream say; players look at one or the other, so both are read apart.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline import moov
from pipeline.bitstream_tags import SignalTags
from pipeline.hdr10 import ContentLight, MasteringDisplay

VISUAL_SAMPLE_ENTRY_BYTES = 78
"""Fixed part of a VisualSampleEntry after its box header (ISO/IEC 14496-12 clause 12.1.3)."""

EBML_HEADER, SEGMENT, TRACKS, TRACK_ENTRY, VIDEO, COLOUR, MASTERING = (
    0x1A45DFA3, 0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x55B0, 0x55D0,
)  # fmt: skip
MATRIX, SITING_ACROSS, SITING_DOWN, RANGE, TRANSFER, PRIMARIES, MAX_CLL, MAX_FALL = (
    0x55B1, 0x55B7, 0x55B8, 0x55B9, 0x55BA, 0x55BB, 0x55BC, 0x55BD,
)  # fmt: skip
FIRST_MASTERING, LAST_MASTERING = 0x55D1, 0x55DA
SITINGS = {(1, 1): "topleft", (1, 2): "left", (2, 2): "center", (2, 1): "top"}
MAX_TRACKS_BYTES = 16 << 20
NO_TAGS = SignalTags(None, None, None, None, None)


@dataclass(frozen=True)
class ContainerTags:
    """codec_tag: four letters of the sample entry ("" in Matroska); None and NO_TAGS where the container says nothing."""

    codec_tag: str
    signal: SignalTags
    mastering: MasteringDisplay | None
    light: ContentLight | None


def read_container_tags(path: Path, track: int, track_id: int) -> ContainerTags | None:
    """What the container says of one track; None when it is no mp4, mov or Matroska file or has no such track.

    track: place of the track in the file (Matroska); track_id: its id (mp4, mov)
    """
    with path.open("rb") as file:
        if file.read(4) == EBML_HEADER.to_bytes(4, "big"):
            return _matroska(file, track)
        found = moov.read_moov(file)
    return _sample_entry(found[1], track_id) if found else None


def _sample_entry(data: bytes, track_id: int) -> ContainerTags | None:
    top = next(moov.boxes(data, 0, len(data)))
    for track in moov.boxes(data, top.body, top.end):
        if track.kind != b"trak" or moov.track_id(data, track) != track_id:
            continue
        table = moov.inside(data, track, b"mdia", b"minf", b"stbl", b"stsd")
        entry = next(moov.boxes(data, table.body + 8, table.end), None) if table else None
        if entry is None:
            return None
        children = {
            box.kind: data[box.body : box.end]
            for box in moov.boxes(data, entry.body + VISUAL_SAMPLE_ENTRY_BYTES, entry.end)
        }
        mastering, light = children.get(b"mdcv"), children.get(b"clli")
        return ContainerTags(
            entry.kind.decode("latin-1"),
            _colr(children.get(b"colr", b"")),
            MasteringDisplay.from_payload(mastering) if mastering else None,
            ContentLight.from_payload(light) if light else None,
        )
    return None


def _colr(payload: bytes) -> SignalTags:
    """colr box: nclx (ISO/IEC 14496-12 clause 12.1.5) with a range flag, nclc (QuickTime) without."""
    kind = payload[:4]
    if kind not in (b"nclx", b"nclc") or len(payload) < 10:
        return NO_TAGS
    primaries, transfer, matrix = struct.unpack_from(">3H", payload, 4)
    full = bool(payload[10] & 0x80) if kind == b"nclx" and len(payload) > 10 else None
    return SignalTags(primaries, transfer, matrix, full, None)


def _matroska(file: BinaryIO, track: int) -> ContainerTags | None:
    tracks = _find_tracks(file)
    entries = [body for kind, body in _elements(tracks) if kind == TRACK_ENTRY]
    if track >= len(entries):
        return None
    video = dict(_elements(entries[track])).get(VIDEO, b"")
    colour = dict(_elements(dict(_elements(video)).get(COLOUR, b"")))
    number = {kind: int.from_bytes(body, "big") for kind, body in colour.items() if kind != MASTERING}
    full = {1: False, 2: True}.get(number.get(RANGE, 0))
    siting = SITINGS.get((number.get(SITING_ACROSS, 0), number.get(SITING_DOWN, 0)))
    signal = SignalTags(number.get(PRIMARIES), number.get(TRANSFER), number.get(MATRIX), full, siting)
    light = ContentLight(number[MAX_CLL], number.get(MAX_FALL, 0)) if MAX_CLL in number else None
    return ContainerTags("", signal, _matroska_mastering(dict(_elements(colour.get(MASTERING, b"")))), light)


def _matroska_mastering(elements: dict[int, bytes]) -> MasteringDisplay | None:
    values = [_real(elements.get(kind, b"")) for kind in range(FIRST_MASTERING, LAST_MASTERING + 1)]
    if not elements:
        return None
    red, green, blue, white = ((values[n], values[n + 1]) for n in (0, 2, 4, 6))
    return MasteringDisplay(values[8], values[9], red, green, blue, white)


def _real(body: bytes) -> float:
    return struct.unpack(">d" if len(body) == 8 else ">f", body)[0] if len(body) in (4, 8) else 0.0


def _find_tracks(file: BinaryIO) -> bytes:
    """Body of the Tracks element: walks the elements of the first level, into the Segment, over all others."""
    end = file.seek(0, os.SEEK_END)
    at = 0
    while at < end:
        file.seek(at)
        kind, size, header = _element_head(file.read(12))
        if header == 0:
            return b""
        if kind == TRACKS and size <= MAX_TRACKS_BYTES:
            file.seek(at + header)
            return file.read(size)
        at += header if kind == SEGMENT else header + size
    return b""


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        kind, size, header = _element_head(data[at : at + 12])
        if header == 0:
            return
        yield kind, data[at + header : at + header + size]
        at += header + size


def _element_head(data: bytes) -> tuple[int, int, int]:
    """(id, size of the body, size of the head) of an EBML element (RFC 8794 clause 4 and 5); the head is 0 when it is none."""
    if not data or data[0] < 0x10:
        return 0, 0, 0
    id_bytes = 9 - data[0].bit_length()
    if len(data) <= id_bytes or data[id_bytes] == 0:
        return 0, 0, 0
    size_bytes = 9 - data[id_bytes].bit_length()
    size = int.from_bytes(data[id_bytes : id_bytes + size_bytes], "big") & ((1 << 7 * size_bytes) - 1)
    return int.from_bytes(data[:id_bytes], "big"), size, id_bytes + size_bytes
