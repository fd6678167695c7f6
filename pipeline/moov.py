"""The `moov` box of mp4 and mov files (ISO/IEC 14496-12): the few things in it that FFmpeg's API neither tells nor writes."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

PICTURE_TYPES = {"mjpeg": 13, "png": 14, "bmp": 27}
"""FFmpeg codec of a cover -> type code of a `covr` data box (QuickTime file format, well-known types)."""

CHAPTERS = "chap"
MAX_MOOV_BYTES = 1 << 30


@dataclass(frozen=True)
class Box:
    """A box by position: the size field starts at `start`, the content at `body`, the next box at `end`."""

    kind: bytes
    start: int
    body: int
    end: int


def boxes(data: bytes | bytearray, start: int, end: int) -> Iterator[Box]:
    """The boxes between two positions of `data`. Stops at the first that does not fit."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1 and start + 16 <= end:
            size = struct.unpack_from(">Q", data, start + 8)[0]
            body = start + 16
        elif size == 0:
            size = end - start
        if size < body - start or start + size > end:
            return
        yield Box(kind, start, body, start + size)
        start += size


def inside(data: bytes | bytearray, outer: Box, *path: bytes) -> Box | None:
    """The first box at `path` below `outer`, or None. `meta` is a full box: its children start 4 bytes later."""
    for kind in path:
        skip = 4 if outer.kind == b"meta" else 0
        found = next((box for box in boxes(data, outer.body + skip, outer.end) if box.kind == kind), None)
        if found is None:
            return None
        outer = found
    return outer


def read_moov(file: BinaryIO) -> tuple[int, bytes] | None:
    """Position and bytes of the `moov` box of an open file; None when there is none (another container, or truncated)."""
    size = file.seek(0, os.SEEK_END)
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length, header = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, header = int.from_bytes(head[8:16], "big"), 16
        elif length == 0:
            length = size - at
        if length < header or at + length > size:
            return None
        if head[4:8] == b"moov":
            if length > MAX_MOOV_BYTES:
                return None
            file.seek(at)
            return at, file.read(length)
        at += length
    return None


def track_tags(file: BinaryIO) -> dict[int, str]:
    """Four-letter code of the first sample entry of every track, by track id (FFmpeg's stream.id). Empty for other containers.

    A track that another one names as its list of chapters (clause 8.3.3, type `chap`) is called "chap".
    """
    found = read_moov(file)
    if found is None:
        return {}
    data = found[1]
    tags, chapters = {}, set()
    for track in tracks(data):
        entry = inside(data, track, b"mdia", b"minf", b"stbl", b"stsd")
        if entry is not None and entry.end - entry.body >= 16:
            tags[track_id(data, track)] = data[entry.body + 12 : entry.body + 16].decode("latin-1")
        names = inside(data, track, b"tref", b"chap")
        if names is not None:
            whole = (names.end - names.body) // 4 * 4
            chapters |= {one for (one,) in struct.iter_unpack(">I", data[names.body : names.body + whole])}
    return tags | dict.fromkeys(chapters & tags.keys(), CHAPTERS)


def finish_moov(
    path: Path,
    covers: list[tuple[str, bytes]],
    hidden: dict[int, tuple[int, int]],
    languages: dict[int, str],
) -> None:
    """Write into a finished file what FFmpeg's muxer has no way to be told. `moov` must be the last box: nothing else moves.

    covers: (FFmpeg codec, picture) -> a `covr` box beside the other tags. FFmpeg drops cover art as soon as it is asked to
        keep tags of any name (movflags use_metadata_tags).
    hidden: track id -> (ticks, ticks in movie time) at the start of a track that begins after time 0 and whose first samples
        the source's edit list hides; they are hidden again by a later media start.
    languages: track id -> ISO 639-2 code. In mov FFmpeg writes Macintosh codes, which only some languages have
    """
    if not covers and not hidden and not languages:
        return
    with path.open("r+b") as file:
        found = read_moov(file)
        if found is None or found[0] + len(found[1]) != file.seek(0, os.SEEK_END):
            raise AssertionError(f"{path}: moov is not the last box")
        position, data = found[0], bytearray(found[1])
        for track in tracks(data):
            if (ticks := hidden.get(track_id(data, track))) is not None:
                _hide_start(data, track, *ticks)
            if (language := languages.get(track_id(data, track))) is not None:
                _set_language(data, track, language)
        if covers:
            _add_covers(data, covers)
        file.seek(position)
        file.write(data)
        file.truncate()


def tracks(data: bytes | bytearray) -> list[Box]:
    """The track boxes of a moov box that starts at 0."""
    moov = next(boxes(data, 0, len(data)))
    return [box for box in boxes(data, moov.body, moov.end) if box.kind == b"trak"]


def track_id(data: bytes | bytearray, track: Box) -> int:
    """Id of a track (clause 8.3.2), 0 when it has no header."""
    header = inside(data, track, b"tkhd")
    if header is None or header.end - header.body < 24:
        return 0
    version = data[header.body]
    return struct.unpack_from(">I", data, header.body + (20 if version else 12))[0]


def _hide_start(data: bytearray, track: Box, ticks: int, movie_ticks: int) -> None:
    """Lengthen the empty edit and start the media later by the same time (clause 8.6.6). Needs FFmpeg's two entries."""
    edits = inside(data, track, b"edts", b"elst")
    if edits is None:
        return
    wide = data[edits.body] == 1
    entry = ">qqI" if wide else ">iiI"
    size = struct.calcsize(entry)
    count = struct.unpack_from(">I", data, edits.body + 4)[0]
    first = edits.body + 8
    if count != 2:
        return
    empty, nothing, rate = struct.unpack_from(entry, data, first)
    length, media_start, media_rate = struct.unpack_from(entry, data, first + size)
    if nothing != -1:
        return
    struct.pack_into(entry, data, first, empty + movie_ticks, nothing, rate)
    struct.pack_into(entry, data, first + size, max(length - movie_ticks, 0), media_start + ticks, media_rate)


def _set_language(data: bytearray, track: Box, language: str) -> None:
    """Three letters of five bits each (clause 8.4.2), which QuickTime knows too."""
    header = inside(data, track, b"mdia", b"mdhd")
    if header is None or not re.fullmatch("[a-z]{3}", language):
        return
    packed = sum((ord(letter) - 0x60) << shift for letter, shift in zip(language, (10, 5, 0), strict=True))
    struct.pack_into(">H", data, header.body + (32 if data[header.body] else 20), packed)


def _add_covers(data: bytearray, covers: list[tuple[str, bytes]]) -> None:
    """Put one `covr` box with all pictures at the end of moov/udta/meta/ilst."""
    moov = next(boxes(data, 0, len(data)))
    pictures = b"".join(
        struct.pack(">I4sII", 16 + len(picture), b"data", PICTURE_TYPES[codec], 0) + picture
        for codec, picture in covers
    )
    cover = struct.pack(">I4s", 8 + len(pictures), b"covr") + pictures
    chain = [moov]
    for kind in (b"udta", b"meta", b"ilst"):
        found = inside(data, chain[-1], kind)
        if found is None:
            raise AssertionError(f"the muxer wrote no {kind.decode()} box")
        chain.append(found)
    resize(data, chain, chain[-1].end, cover)


def resize(data: bytearray, chain: list[Box], at: int, new: bytes = b"", *, remove: int = 0) -> None:
    """Put `new` in place of `remove` bytes at a position within all boxes of `chain`, and correct their sizes. Boxes read before are void then."""
    data[at : at + remove] = new
    for box in chain:
        size = box.end - box.start + len(new) - remove
        if box.body - box.start == 16:
            struct.pack_into(">Q", data, box.start + 8, size)
        else:
            struct.pack_into(">I", data, box.start, size)
