"""Boxes of mp4 and mov files that FFmpeg does not hand on: vendors' own, and bytes that are no box at all. Every number in them may be hostile."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.heartbeat import beat
from pipeline.moov import Box, boxes, inside, read_moov, track_id
from pipeline.telemetry.known import MARK_KINDS, PADDING, STANDARD, words_for
from pipeline.telemetry.unowned import unowned_spans

BLOCK_BYTES = 1 << 20
MAX_BOXES = 10_000
MAX_WALKED = 2_000_000
MAX_GPS_BLOCKS = 1_000_000
MAX_UNOWNED_BYTES = 256 << 20
MAX_GPS_BLOCK_BYTES = 1 << 20
"""Limits on what a hostile file can make us do; real files stay far below."""

TAG_HANDLERS = (b"mdir", b"mdta")
TAG_VALUE_TYPES = frozenset({1, 13, 14, 21, 22, 23, 27})
"""Types of values in a list of tags that FFmpeg reads for any tag (QuickTime file format, well-known types): text, pictures, numbers."""
UNTYPED_TAGS = frozenset({b"trkn", b"disk", b"gnre", b"covr"})
"""Tags whose values FFmpeg reads without a type (0)."""


@dataclass(frozen=True)
class FoundBox:
    """One thing in the file that is neither a track nor part of the structure that every muxer writes anew.

    place: "file" (top level), "moov", "moov/udta", "trak N" or "trak N/udta" (N: track id), "mdat" (between the media data)
    kind: its four letters; "" for bytes that are no box
    nature: "vendor" (a box to be kept as it is), "padding" (zeros), "tags" (FFmpeg reads its entries as tags), "index" (Novatek's list of
        GPS blocks), "blocks" (those blocks), "offsets" (it points at places in the file), "rest" (no box), "left" (too much that no track leads to), "uncounted" (too many to list)
    what: in words; spans: (start, size) in the file, header included; sha256: of the spans' bytes one after another
    """

    place: str
    kind: str
    nature: str
    what: str
    spans: tuple[tuple[int, int], ...]
    sha256: str

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(size for _, size in self.spans)

    @property
    def name(self) -> str:
        """For people: moov/udta/FIRM. A kind that is not plain text is written as its hexadecimal bytes."""
        kind = self.kind.strip() if self.kind.isprintable() else self.kind.encode("latin-1").hex()
        return f"{self.place}/{kind}" if self.kind else f"{self.place}, bytes that are no box"

    @property
    def track(self) -> int | None:
        """Id of the track that it belongs to."""
        found = re.match(r"trak (\d+)", self.place)
        return int(found[1]) if found else None


def find_boxes(path: Path) -> list[FoundBox]:
    """Everything of that sort in an mp4 or mov file, in the file's order, moov's first; empty for other containers. Reads it in small pieces.

    Padding is listed once a place and kind. Not looked at: boxes below a track's `mdia`, fragments (`moof`) and their media data.
    Raises OSError when reading fails.
    """
    with path.open("rb") as file:
        moov = read_moov(file)
        if moov is None:
            return []
        scan = _Scan(file)
        scan.walk_moov(*moov)
        scan.walk_file()
        scan.between_media(moov[1])
        return scan.result()


def copy_spans(file: BinaryIO, spans: tuple[tuple[int, int], ...]) -> Iterator[bytes]:
    """The bytes of some places of a file, in pieces of at most 1 MiB."""
    for start, size in spans:
        file.seek(start)
        while size > 0 and (block := file.read(min(size, BLOCK_BYTES))):
            size -= len(block)
            beat()
            yield block


class _Scan:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.end = file.seek(0, 2)
        self.found: list[FoundBox] = []
        self.padding: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self.uncounted: tuple[int, int] | None = None
        self.blocks: dict[int, int] = {}
        self.media: list[tuple[int, int]] = []
        self.unsure = False
        self.walked = 0

    def result(self) -> list[FoundBox]:
        """All that was found; padding and what was too much to list at the end."""
        for (place, kind), spans in self.padding.items():
            count = "" if len(spans) == 1 else f", in {len(spans)} pieces"
            self.found.append(self._box(place, kind, "padding", f"nothing but zeros{count}", tuple(spans)))
        if self.uncounted is not None:
            words = f"boxes beyond the first {MAX_BOXES}; they are not told apart"
            self.found.append(FoundBox("file", "", "uncounted", words, (self.uncounted,), ""))
        return self.found

    def walk_moov(self, position: int, data: bytes) -> None:
        """The moov box, the tracks and their user data."""
        top = next(boxes(data, 0, len(data)))
        for box in self._children(position, data, top, "moov"):
            if box.kind == b"udta":
                self._user_data(position, data, box, "moov/udta")
            elif box.kind == b"gps ":
                self._index(position, data, box)
            elif box.kind == b"trak":
                place = f"trak {track_id(data, box)}"
                for part in self._children(position, data, box, place):
                    if part.kind == b"udta":
                        self._user_data(position, data, part, f"{place}/udta")
                    elif part.kind not in STANDARD["trak"]:
                        self._note(place, part, position, data)
            elif box.kind not in STANDARD["moov"]:
                self._note("moov", box, position, data)

    def walk_file(self) -> None:
        """The top level. What comes after the last sound box is one piece of bytes."""
        at = 0
        while at + 8 <= self.end:
            self.walked += 1
            if self.walked > MAX_WALKED:
                self.uncounted = self.uncounted or (at, self.end - at)
                return
            self.file.seek(at)
            head = self.file.read(16)
            size, kind = struct.unpack_from(">I4s", head)
            body = 8
            if size == 1 and len(head) == 16:
                size, body = struct.unpack_from(">Q", head, 8)[0], 16
            elif size == 0:
                size = self.end - at
            if size < body or at + size > self.end or not re.fullmatch(rb"[ -~\xa9]{4}", kind):
                if kind == b"mdat":
                    self.unsure = True  # cut short: media data to the end, and tables that lead beyond it
                    return
                break
            self.unsure |= kind == b"moof"
            if kind == b"mdat":
                self.media.append((at + body, at + size))
            if kind not in STANDARD["file"] and at not in self.blocks:
                start = self._read(at + body, min(size - body, 64))
                self._add("file", kind, at, size, at + body, start)
            at += size
        self._rest("file", at, self.end - at)

    def between_media(self, data: bytes) -> None:
        """What lies in the media data and in no track. All of it is one thing, however many pieces it has."""
        if self.unsure or self.uncounted is not None:
            return
        full: list[tuple[int, int]] = []
        for span in unowned_spans(data, self.media, list(self.blocks.items())):
            if self._is_zero(*span):
                self._pad("mdat", "", *span)
            else:
                full.append(span)
        if full:
            blocks = self._read(full[0][0] + 4, 8) == b"".join(MARK_KINDS)
            what = "Novatek GPS blocks that no index leads to" if blocks else "bytes that no track leads to"
            count = "" if len(full) == 1 else f", in {len(full)} pieces"
            nature = "rest" if sum(size for _, size in full) <= MAX_UNOWNED_BYTES else "left"
            self._keep("mdat", "", nature, what + count, tuple(full))

    def _children(self, position: int, data: bytes, outer: Box, place: str) -> Iterator[Box]:
        end = outer.body
        for box in boxes(data, outer.body, outer.end):
            end = box.end
            self.walked += 1
            if self.walked > MAX_WALKED:
                self.uncounted = self.uncounted or (position + box.start, outer.end - box.start)
                return
            yield box
        self._rest(place, position + end, outer.end - end)

    def _user_data(self, position: int, data: bytes, outer: Box, place: str) -> None:
        for box in self._children(position, data, outer, place):
            self._note(place, box, position, data)

    def _note(self, place: str, box: Box, position: int, data: bytes) -> None:
        nature = _nature_of_meta(data, box) if box.kind == b"meta" else "vendor"
        start = data[box.body : min(box.end, box.body + 64)]
        self._add(place, box.kind, position + box.start, box.end - box.start, position + box.body, start, nature)

    def _add(
        self, place: str, kind: bytes, at: int, size: int, body: int, start: bytes, nature: str = "vendor"
    ) -> None:
        name = kind.decode("latin-1")
        if kind in PADDING and self._is_zero(body, at + size - body):
            self._pad(place, name, at, size)
            return
        if kind == b"meta" and place == "file":
            nature = "offsets" if b"iloc" in self._read(body, min(size, BLOCK_BYTES)) else "vendor"
        self._keep(place, name, nature, words_for(kind, start), ((at, size),))

    def _index(self, position: int, data: bytes, box: Box) -> None:
        """Novatek's `gps `: 8 bytes, then offset and size of each block. A block is a `free` box whose content begins with `GPS `."""
        whole = (box.end - box.body) // 8 * 8
        spans, seen, total, nowhere = [], set(), 0, 0
        for offset, size in struct.iter_unpack(">II", data[box.body + 8 : box.body + whole]):
            good = 12 <= size <= MAX_GPS_BLOCK_BYTES and offset + size <= self.end and offset not in seen
            if not good or self._read(offset, 12) != struct.pack(">I4s4s", size, *MARK_KINDS):
                nowhere += 1
            else:
                seen.add(offset)
                total += size
                spans.append((offset, size))
            if total > self.end or len(spans) + nowhere > MAX_GPS_BLOCKS:
                spans = []  # blocks that overlap: not written by a camera
                break
        useless = f"; {nowhere} entries lead to none" if nowhere else ""
        what = f"Novatek's index of {len(spans)} GPS blocks{useless}"
        self._keep(
            "moov", "gps ", "index" if spans else "offsets", what, ((position + box.start, box.end - box.start),)
        )
        if spans:
            self.blocks = dict(spans)
            what = f"{len(spans)} Novatek GPS blocks: time, position and speed"
            self._keep("mdat", "free", "blocks", what, tuple(spans))

    def _rest(self, place: str, start: int, size: int) -> None:
        if size <= 0:
            return
        if self._is_zero(start, size):
            self._pad(place, "", start, size)
        else:
            self._keep(
                place, "", "rest", words_for(b"", self._read(max(start, start + size - 64), 64)), ((start, size),)
            )

    def _pad(self, place: str, kind: str, start: int, size: int) -> None:
        spans = self.padding.setdefault((place, kind), [])
        if len(spans) < MAX_BOXES:
            spans.append((start, size))

    def _keep(self, place: str, kind: str, nature: str, what: str, spans: tuple[tuple[int, int], ...]) -> None:
        if len(self.found) >= MAX_BOXES:
            self.uncounted = self.uncounted or spans[0]
            return
        self.found.append(self._box(place, kind, nature, what, spans))

    def _box(self, place: str, kind: str, nature: str, what: str, spans: tuple[tuple[int, int], ...]) -> FoundBox:
        state = hashlib.sha256()
        for block in copy_spans(self.file, spans):
            state.update(block)
        return FoundBox(place, kind, nature, what, spans, state.hexdigest())

    def _read(self, start: int, size: int) -> bytes:
        self.file.seek(start)
        return self.file.read(size)

    def _is_zero(self, start: int, size: int) -> bool:
        return not any(block.count(0) != len(block) for block in copy_spans(self.file, ((start, size),)))


def _nature_of_meta(data: bytes, meta: Box) -> str:
    """ "tags" when FFmpeg reads all its entries, "offsets" when it has an item location box (`iloc`), else "vendor"."""
    # In a QuickTime file `meta` is a plain box, elsewhere a full one: its children start 4 bytes later.
    plain = Box(
        b"meta?", meta.start, meta.body + (0 if data[meta.body + 4 : meta.body + 8] == b"hdlr" else 4), meta.end
    )
    if inside(data, plain, b"iloc") is not None:
        return "offsets"
    handler, entries = inside(data, plain, b"hdlr"), inside(data, plain, b"ilst")
    known = {b"hdlr", b"keys", b"ilst", *PADDING}
    if handler is None or data[handler.body + 8 : handler.body + 12] not in TAG_HANDLERS:
        return "vendor"
    if any(box.kind not in known for box in boxes(data, plain.body, plain.end)):
        return "vendor"
    for entry in boxes(data, entries.body, entries.end) if entries is not None else ():
        values = [box for box in boxes(data, entry.body, entry.end) if box.kind == b"data"]
        kinds = {int.from_bytes(data[value.body : value.body + 4], "big") for value in values}
        read = TAG_VALUE_TYPES | {0} if entry.kind in UNTYPED_TAGS else TAG_VALUE_TYPES
        if not values or not kinds <= read or entry.kind == b"----":
            return "vendor"
    return "tags"
