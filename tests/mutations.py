"""Damage done to files by chance, the same for the same seed: what a failing card, a cut transfer or an attacker leaves behind."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

from tests.clips import make_clip, remux

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
BOXES = (b"moov", b"trak", b"mdia", b"stbl", b"stsd", b"stts", b"stsz", b"stco", b"stsc", b"elst", b"avcC", b"tkhd", b"mvhd", b"udta", b"meta", b"ilst")  # fmt: skip
HEAD_SHARE = 0.5
"""Of the damage that goes into the first or last 2 KiB, where the tables of a container lie."""


def make_seeds(folder: Path) -> list[Path]:
    """Small healthy files, one of each kind of container and of codec that cameras write."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"com.apple.quicktime.make": "Camera", "location": "+52.5+013.4/"}
    mp4 = make_clip(folder / "h264.mp4", audio=True, metadata=told)
    return [
        mp4,
        make_clip(folder / "edit.mov", start=7, rotation=90, bframes=0),
        make_clip(folder / "hevc.mp4", "libx265"),
        make_clip(folder / "full.mp4", pix_fmt="yuvj420p", width=66, height=50, bframes=0),
        make_clip(folder / "ten.mkv", "libx265", pix_fmt="yuv420p10le"),
        make_clip(folder / "vp9.webm", "libvpx-vp9"),
        make_clip(folder / "av1.mp4", "libsvtav1", width=64, height=64),
        make_clip(folder / "mpeg4.avi", "mpeg4"),
        make_clip(folder / "mjpeg.avi", "mjpeg", pix_fmt="yuvj420p"),
        make_clip(folder / "mpeg2.ts", "mpeg2video", interlaced=True),
        remux(mp4, folder / "card.ts", container="mpegts"),
        remux(mp4, folder / "raw.h264", container="h264"),
        remux(mp4, folder / "frag.flv", container="flv"),
    ]


def mutate(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """One to four kinds of damage to a file's bytes. other: another file, pieces of which may get in."""
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if len(damaged) >= 64:
            chance.choice(KINDS)(damaged, other, chance)
    return bytes(damaged)


def _place(data: bytearray, chance: random.Random) -> int:
    if chance.random() >= HEAD_SHARE:
        return chance.randrange(len(data) - 8)
    near = chance.randrange(min(2048, len(data) - 8))
    return near if chance.random() < 0.5 else len(data) - 8 - near


def _flip(data: bytearray, other: bytes, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 3, 20, 200))):
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _number(data: bytearray, other: bytes, chance: random.Random) -> None:
    at, size = _place(data, chance), chance.choice("BHIQ")
    value = chance.choice(EXTREMES) & ((1 << 8 * struct.calcsize(size)) - 1)
    struct.pack_into(chance.choice("<>") + size, data, at, value)


def _cut(data: bytearray, other: bytes, chance: random.Random) -> None:
    del data[chance.randrange(1, len(data)) :]


def _drop(data: bytearray, other: bytes, chance: random.Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.choice((1, 4, 188, 1000))]


def _repeat(data: bytearray, other: bytes, chance: random.Random) -> None:
    at, size = _place(data, chance), chance.choice((4, 64, 188, 2000))
    data[at:at] = data[at : at + size] * chance.choice((1, 2, 9))


def _zero(data: bytearray, other: bytes, chance: random.Random) -> None:
    at, size = _place(data, chance), chance.choice((16, 512, 4096))
    end = min(len(data), at + size)
    data[at:end] = bytes(end - at)


def _splice(data: bytearray, other: bytes, chance: random.Random) -> None:
    at, size = _place(data, chance), chance.choice((8, 100, 3000))
    start = chance.randrange(max(1, len(other) - size))
    data[at : at + chance.choice((0, size))] = other[start : start + size]


def _box(data: bytearray, other: bytes, chance: random.Random) -> None:
    """Another size, or another name, of a box of ISO base media files (ISO/IEC 14496-12 clause 4.2)."""
    found = [at for name in BOXES if (at := data.find(name)) >= 4]
    if not found:
        return
    at = chance.choice(found)
    if chance.random() < 0.7:
        size = struct.unpack_from(">I", data, at - 4)[0]
        new = chance.choice((0, 1, 7, 8, size - 1, size + 1, size * 2, 0x7FFFFFFF, 0xFFFFFFFF))
        struct.pack_into(">I", data, at - 4, new & 0xFFFFFFFF)
    else:
        data[at : at + 4] = chance.choice(BOXES)


KINDS: tuple[Callable[[bytearray, bytes, random.Random], None], ...] = (
    _flip, _flip, _number, _number, _cut, _drop, _repeat, _zero, _splice, _box, _box,
)  # fmt: skip
