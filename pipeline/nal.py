"""Pieces of coded packets: HEVC NAL units in length-prefixed packets, AV1 OBUs in low-overhead packets. Bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import ConversionError

HEVC_LAST_VCL = 31
HEVC_PREFIX_SEI = 39

AV1_SEQUENCE_HEADER = 1
AV1_TEMPORAL_DELIMITER = 2
AV1_METADATA = 5


def add_emulation_prevention(rbsp: bytes) -> bytes:
    """Raw payload -> NAL payload: 03 goes in after two zeros wherever a byte of 0 to 3 follows (ITU-T H.265 7.4.2).

    A payload ends with its trailing bits, so never with a zero that would need a guard of its own.
    """
    out = bytearray()
    zeros = 0
    for byte in rbsp:
        if zeros >= 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)


def remove_emulation_prevention(payload: bytes) -> bytes:
    """NAL payload -> raw payload: drops every 03 that follows two zeros (ITU-T H.265 7.3.1.1)."""
    out = bytearray()
    zeros = 0
    for byte in payload:
        if zeros >= 2 and byte == 3:
            zeros = 0
            continue
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)


def hevc_type(nal: bytes) -> int:
    """nal_unit_type of a NAL unit with its two-byte header (ITU-T H.265 7.3.1.2); up to 31 is picture data."""
    return (nal[0] >> 1) & 0x3F


def split_hevc(packet: bytes, length_bytes: int = 4) -> list[bytes]:
    """NAL units of a packet in which each is preceded by its length (ISO/IEC 14496-15), as mp4, mov and mkv hold them.

    Raises ConversionError when a length reaches beyond the packet or a unit is shorter than its header.
    """
    nals = []
    place = 0
    while place < len(packet):
        size = int.from_bytes(packet[place : place + length_bytes], "big")
        place += length_bytes
        if size < 2 or place + size > len(packet):
            raise ConversionError(f"HEVC packet of {len(packet)} bytes: NAL unit at byte {place} claims {size} bytes.")
        nals.append(packet[place : place + size])
        place += size
    return nals


def join_hevc(nals: list[bytes]) -> bytes:
    """The reverse of `split_hevc`, with four-byte lengths."""
    return b"".join(len(nal).to_bytes(4, "big") + nal for nal in nals)


@dataclass(frozen=True)
class Obu:
    """One AV1 open bitstream unit. kind: obu_type; payload: without header and size; raw: the unit as it lay in the packet."""

    kind: int
    payload: bytes
    raw: bytes


def leb128(value: int) -> bytes:
    """Little-endian base-128 number, shortest form (AV1 specification 4.10.5)."""
    if value < 0:
        raise ValueError(f"leb128 takes numbers from 0, not {value}")
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def read_leb128(data: bytes, place: int) -> tuple[int, int]:
    """(number, place after it). Raises ConversionError when the number does not end within 8 bytes or the data."""
    value = 0
    for count, byte in enumerate(data[place : place + 8]):
        value |= (byte & 0x7F) << (7 * count)
        if not byte & 0x80:
            return value, place + count + 1
    raise ConversionError(f"AV1 data of {len(data)} bytes: no end of the number at byte {place}.")


def split_av1(packet: bytes) -> Iterator[Obu]:
    """OBUs of a packet (AV1 specification 5.3). A unit without a size field reaches to the packet's end.

    Raises ConversionError when a size reaches beyond the packet.
    """
    place = 0
    while place < len(packet):
        start, header = place, packet[place]
        place += 2 if header & 4 else 1
        size = len(packet) - place
        if header & 2:
            size, place = read_leb128(packet, place)
        if size < 0 or place + size > len(packet):
            raise ConversionError(f"AV1 packet of {len(packet)} bytes: OBU at byte {start} claims {size} bytes.")
        yield Obu((header >> 3) & 15, packet[place : place + size], packet[start : place + size])
        place += size


def make_obu(kind: int, payload: bytes) -> bytes:
    """An OBU with its size field and no extension. The payload holds its own trailing bits where its kind has them."""
    return bytes([kind << 3 | 2]) + leb128(len(payload)) + payload
