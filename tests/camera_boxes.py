"""What cameras write beside picture and sound, made by hand and put into small mp4 files: Novatek, BlackVue, GoPro."""

from __future__ import annotations

import struct
from pathlib import Path

CHUNK_TABLES = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def box(kind: bytes, content: bytes = b"") -> bytes:
    """A box with an 8-byte header."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


def walk(data: bytes, start: int = 0, end: int | None = None) -> list[tuple[bytes, int, int]]:
    """(kind, start, end) of the boxes between two places; only plain 32-bit sizes, which small files have."""
    found, end = [], len(data) if end is None else end
    while start + 8 <= end:
        size = int.from_bytes(data[start : start + 4], "big")
        found.append((data[start + 4 : start + 8], start, start + size))
        start += size
    return found


def children(data: bytes, *path: bytes) -> list[bytes]:
    """The bytes of every box directly within the first box at `path`, by way of this module's own reader."""
    start, end = 0, len(data)
    for kind in path:
        start, end = next((one + 8, two) for name, one, two in walk(data, start, end) if name == kind)
    return [data[one:two] for _, one, two in walk(data, start, end)]


def add_to_moov(data: bytes, extra: bytes, *, udta: bytes = b"", track_udta: bytes = b"") -> bytes:
    """An mp4 whose moov is last, with boxes added: to moov itself, to its user data, to the first track's user data."""
    name, start, end = walk(data)[-1]
    assert name == b"moov"
    parts, first = [], True
    for kind, one, two in walk(data, start + 8, end):
        part = data[one:two]
        if kind == b"trak" and first:
            part, first = box(b"trak", part[8:] + (box(b"udta", track_udta) if track_udta else b"")), False
        if kind == b"udta":
            part, udta = box(b"udta", part[8:] + udta), b""
        parts.append(part)
    parts += [box(b"udta", udta)] if udta else []
    return data[:start] + box(b"moov", b"".join(parts) + extra)


def novatek_block(
    number: int, *, latitude: float = 5130.5, longitude: float = 730.25, active: bytes = b"A", base: int = 48
) -> bytes:
    """One GPS block: 2024-05-06 07:08:(9 + number), N and W."""
    record = (
        struct.pack("<6I", 7, 8, 9 + number, 24, 5, 6)
        + active
        + b"NW\0"
        + struct.pack("<4f", latitude, longitude, 12.5, 90.0)
    )
    content = (b"GPS " + b"\x4c\x00\x00\x00").ljust(base - 8, b"\0") + record
    return box(b"free", content.ljust(248, b"\0"))


def with_novatek(clip: Path, blocks: list[bytes], *, wrong: int = 0) -> bytes:
    """The clip with the blocks between its media data and its moov, and the index `gps ` in moov; `wrong` more entries lead nowhere."""
    data = clip.read_bytes()
    name, start, _ = walk(data)[-1]
    assert name == b"moov"
    entries, at = [], start
    for block in blocks:
        entries.append((at, len(block)))
        at += len(block)
    entries += [(7 + number, 256) for number in range(wrong)] + ([(0xFFFFFFF0, 256)] if wrong else [])
    index = box(
        b"gps ", struct.pack(">II", 0x101, len(entries)) + b"".join(struct.pack(">II", *one) for one in entries)
    )
    return add_to_moov(data[:start] + b"".join(blocks) + data[start:], index)


def with_loose_blocks(clip: Path, blocks: list[bytes]) -> bytes:
    """The clip with the blocks at the end of its media data, where nothing leads to them: some firmware writes no index."""
    data = clip.read_bytes()
    (_, media, _), (_, moov, _) = walk(data)[-2:]
    extra = b"".join(blocks)
    grown = struct.pack(">I", moov - media + len(extra)) + data[media + 4 : moov] + extra
    return data[:media] + grown + data[moov:]


def nmea(body: str) -> bytes:
    """A sentence with its checksum."""
    total = 0
    for byte in body.encode():
        total ^= byte
    return f"${body}*{total:02X}\r\n".encode()


BLACKVUE_TEXT = b"".join(
    b"[1523661874000]" + nmea(body)
    for body in (
        "GPRMC,070809.00,A,5130.500,N,00730.250,W,12.5,90.0,060524,,,A",
        "GPGGA,070809.00,5130.500,N,00730.250,W,1,08,1.0,123.4,M,47.0,M,,",
        "GPRMC,070810.00,V,,,,,,,060524,,,N",
        "GPRMC,070811.50,A,5130.600,S,00730.250,E,12.5,90.0,060524,,,A",
    )
)
BLACKVUE = box(
    b"free",
    box(b"cprt", b"Pittasoft Co., Ltd.\0")
    + box(b"thum", bytes(range(200)))
    + box(b"gps ", BLACKVUE_TEXT)
    + box(b"3gf ", bytes(40)),
)
GOPRO = (
    box(b"FIRM", b"HD5.02.01.57.00")
    + box(b"LENS", b"LAJ7061916601668")
    + box(b"GPMF", b"DEVC\0\x01\0\0")
    + box(b"MUID", bytes(range(32)))
)


def klv(key: bytes, kind: bytes, size: int, content: bytes) -> bytes:
    """One entry of GPMF; kind "\\0" nests."""
    count = len(content) // size if size else 0
    return key + kind + struct.pack(">BH", size, count) + content.ljust((len(content) + 3) // 4 * 4, b"\0")


def gps9_packet() -> bytes:
    """A HERO11-like packet: one sample with a fix, one without, one impossible."""
    scales = struct.pack(">9i", 10000000, 10000000, 1000, 1000, 100, 1, 1000, 100, 1)
    days, clock = 8892, 25_689_500  # 2024-05-06 07:08:09.5
    samples = b"".join(
        struct.pack(">7iHH", latitude, -75000000, 123400, 1000, 100, days, clock, 100, fix)
        for latitude, fix in ((515083333, 3), (515083333, 0), (910000000, 3))
    )
    stream = klv(b"SCAL", b"l", 4, scales) + klv(b"TYPE", b"c", 1, b"lllllllSS") + klv(b"GPS9", b"?", 32, samples)
    return klv(b"DEVC", b"\0", 1, klv(b"STRM", b"\0", 1, stream))
