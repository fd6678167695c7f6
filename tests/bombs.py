"""Files of a few hundred bytes that claim to be huge pictures."""

from __future__ import annotations

import zlib
from pathlib import Path

SIDE = 16000
"""A multiple of 16. FFmpeg itself refuses a little more: (width + 128) x (height + 128) x 8 must stay below 2 ** 31."""


class Bits:
    """Bits in a row, as ITU-T H.264 clause 7.2 and 9.1 write them."""

    def __init__(self) -> None:
        self._bits = ""

    def u(self, value: int, count: int) -> Bits:
        """Unsigned, so many bits."""
        self._bits += f"{value:0{count}b}"
        return self

    def ue(self, *values: int) -> Bits:
        """Unsigned Exp-Golomb codes."""
        for value in values:
            code = f"{value + 1:b}"
            self._bits += "0" * (len(code) - 1) + code
        return self

    def nal(self, head: int) -> bytes:
        """As a NAL unit behind a start code, with trailing bits and emulation prevention."""
        bits = self._bits + "1"
        bits += "0" * (-len(bits) % 8)
        payload = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
        safe = bytearray()
        for byte in payload:
            if safe[-2:] == b"\0\0" and byte <= 3:
                safe.append(3)
            safe.append(byte)
        return b"\0\0\0\1" + bytes([head]) + bytes(safe)


def h264_bomb(path: Path, frames: int, side: int = SIDE) -> Path:
    """A raw H.264 stream (clause 7.3) whose frames of side x side say in a few bytes that every macroblock is skipped."""
    blocks = side // 16
    sps = Bits().u(66, 8).u(0, 8).u(62, 8).ue(0, 0, 2, 1).u(0, 1).ue(blocks - 1, blocks - 1).u(0b1100, 4)
    pps = Bits().ue(0, 0).u(0, 2).ue(0, 0, 0).u(0, 3).ue(0, 0, 0).u(0, 3)
    data = sps.nal(0x67) + pps.nal(0x68)
    data += Bits().ue(0, 7, 0).u(0, 4).ue(0).u(0, 2).ue(0).u(0b1010, 4).nal(0x65)
    for number in range(1, frames):
        data += Bits().ue(0, 5, 0).u(number % 16, 4).u(0, 3).ue(0, blocks * blocks).nal(0x61)
    path.write_bytes(data)
    return path


def png_bomb(path: Path, side: int = SIDE) -> Path:
    """A grey PNG of side x side (ISO/IEC 15948) that is zeros throughout: zlib makes a thousandth of it."""
    packer = zlib.compressobj(9)
    row = bytes(side + 1)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    return path
