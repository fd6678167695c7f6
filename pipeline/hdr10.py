"""HDR10 static metadata: what it says, and its bytes in an HEVC SEI message, an AV1 metadata OBU and an ISO box.

Values are measured after encoding, so they are put into the keyframe packets of the finished video; no picture is touched.
HLG carries none of this (ITU-R BT.2100 needs no mastering display), so nothing here is called for it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import ConversionError
from pipeline.light import LightLevels
from pipeline.nal import (
    AV1_METADATA,
    AV1_SEQUENCE_HEADER,
    AV1_TEMPORAL_DELIMITER,
    HEVC_LAST_VCL,
    HEVC_PREFIX_SEI,
    add_emulation_prevention,
    hevc_type,
    join_hevc,
    leb128,
    make_obu,
    read_leb128,
    remove_emulation_prevention,
    split_av1,
    split_hevc,
)

SEI_MASTERING = 137
SEI_LIGHT = 144
OBU_LIGHT = 1
OBU_MASTERING = 2
IN_PACKETS = ("hevc", "av1")
"""Codecs whose packets carry the metadata; of all others the container alone does."""
PREFIX_SEI_HEADER = bytes([HEVC_PREFIX_SEI << 1, 1])

Chromaticity = tuple[float, float]


@dataclass(frozen=True)
class MasteringDisplay:
    """The display that the picture was made for (SMPTE ST 2086). Primaries and white point default to P3 with D65 white.

    peak_nits, min_nits: its brightest and darkest light in cd/m2
    red, green, blue, white: CIE 1931 x, y
    """

    peak_nits: float
    min_nits: float = 0.005
    red: Chromaticity = (0.680, 0.320)
    green: Chromaticity = (0.265, 0.690)
    blue: Chromaticity = (0.150, 0.060)
    white: Chromaticity = (0.3127, 0.3290)

    def payload(self) -> bytes:
        """24 bytes: SEI message 137 (ITU-T H.265 D.2.28) and mdcv box (ISO/IEC 14496-12 12.1.5) alike.

        Big-endian; G, B, R, white as x, y in 1/50000, then peak and minimum in 1/10000 cd/m2; each rounded to the nearest.
        """
        points = (self.green, self.blue, self.red, self.white)
        steps = [round(value * 50000) for point in points for value in point]
        return struct.pack(">8H2I", *steps, round(self.peak_nits * 10000), round(self.min_nits * 10000))

    @classmethod
    def from_payload(cls, payload: bytes) -> MasteringDisplay:
        """Read what `payload` writes. Raises ConversionError when there are fewer than 24 bytes."""
        if len(payload) < 24:
            raise ConversionError(f"The mastering display payload has {len(payload)} bytes; ST 2086 takes 24.")
        values = struct.unpack(">8H2I", payload[:24])
        green, blue, red, white = ((values[i] / 50000, values[i + 1] / 50000) for i in (0, 2, 4, 6))
        return cls(values[8] / 10000, values[9] / 10000, red, green, blue, white)

    def av1_payload(self) -> bytes:
        """24 bytes of metadata_hdr_mdcv (AV1 specification 5.8.4, 6.7.4).

        Big-endian; R, G, B, white as x, y in 0.16 fixed point, peak in 24.8, minimum in 18.14; each rounded to the nearest.
        """
        points = (self.red, self.green, self.blue, self.white)
        steps = [min(round(value * 65536), 65535) for point in points for value in point]
        return struct.pack(">8H2I", *steps, round(self.peak_nits * 256), round(self.min_nits * 16384))

    @classmethod
    def from_av1_payload(cls, payload: bytes) -> MasteringDisplay:
        """Read what `av1_payload` writes, to fixed-point accuracy. Raises ConversionError on fewer than 24 bytes."""
        if len(payload) < 24:
            raise ConversionError(f"The AV1 mastering display payload has {len(payload)} bytes; it takes 24.")
        values = struct.unpack(">8H2I", payload[:24])
        red, green, blue, white = ((values[i] / 65536, values[i + 1] / 65536) for i in (0, 2, 4, 6))
        return cls(values[8] / 256, values[9] / 16384, red, green, blue, white)

    def matches(self, other: MasteringDisplay) -> bool:
        """Whether both say the same, to within what the coarsest of the three notations can hold."""
        mine = (*self.red, *self.green, *self.blue, *self.white)
        theirs = (*other.red, *other.green, *other.blue, *other.white)
        return (
            all(abs(a - b) <= 2e-5 for a, b in zip(mine, theirs, strict=True))
            and abs(self.peak_nits - other.peak_nits) <= 1 / 256
            and abs(self.min_nits - other.min_nits) <= 1e-4
        )


@dataclass(frozen=True)
class ContentLight:
    """MaxCLL and MaxFALL as they are written (CTA-861.3): whole cd/m2, 16 bits. 0 would mean "unknown"."""

    max_cll_nits: int
    max_fall_nits: int

    @classmethod
    def from_levels(cls, levels: LightLevels) -> ContentLight:
        """Measured levels, rounded to the nearest whole nit and kept within 1 to 65535: even a black video is not "unknown".

        Nearest, not up: a peak of 1000.0001 nits from float arithmetic is not light beyond a 1000-nit display.
        """
        cll, fall = (min(max(round(value), 1), 65535) for value in (levels.max_cll_nits, levels.max_fall_nits))
        return cls(cll, fall)

    def payload(self) -> bytes:
        """4 bytes, big-endian MaxCLL, MaxFALL: SEI message 144, clli box and AV1 metadata_hdr_cll alike."""
        return struct.pack(">2H", self.max_cll_nits, self.max_fall_nits)

    @classmethod
    def from_payload(cls, payload: bytes) -> ContentLight:
        """Read what `payload` writes. Raises ConversionError when there are fewer than 4 bytes."""
        if len(payload) < 4:
            raise ConversionError(f"The content light payload has {len(payload)} bytes; CTA-861.3 takes 4.")
        return cls(*struct.unpack(">2H", payload[:4]))


@dataclass(frozen=True)
class StaticMetadata:
    """What was found in a packet; None where there was nothing."""

    mastering: MasteringDisplay | None
    light: ContentLight | None


def hevc_nals(mastering: MasteringDisplay, light: ContentLight) -> tuple[bytes, bytes]:
    """Prefix SEI NAL units (no length prefix), one a message: 137 (mastering display), 144 (content light)."""
    return _sei_nal(SEI_MASTERING, mastering.payload()), _sei_nal(SEI_LIGHT, light.payload())


def av1_obus(mastering: MasteringDisplay, light: ContentLight) -> tuple[bytes, bytes]:
    """Metadata OBUs: content light (type 1), mastering display (type 2), each with its trailing bits."""
    return _metadata_obu(OBU_LIGHT, light.payload()), _metadata_obu(OBU_MASTERING, mastering.av1_payload())


def insert_hevc(packet: bytes, nals: Sequence[bytes]) -> bytes:
    """The packet (four-byte lengths) with `nals` before its first picture NAL unit, as ITU-T H.265 7.4.2.4.4 wants.

    Raises ConversionError when the packet is damaged or holds no picture.
    """
    units = split_hevc(packet)
    for place, unit in enumerate(units):
        if hevc_type(unit) <= HEVC_LAST_VCL:
            return join_hevc([*units[:place], *nals, *units[place:]])
    raise ConversionError(f"HEVC packet of {len(packet)} bytes holds no picture; it cannot carry HDR10 metadata.")


def insert_av1(packet: bytes, obus: Sequence[bytes]) -> bytes:
    """The packet with `obus` after its sequence header, or after the temporal delimiter, or in front (AV1 specification 7.5).

    Raises ConversionError when the packet is damaged.
    """
    units = list(split_av1(packet))
    kinds = [unit.kind for unit in units]
    place = 0
    for kind in (AV1_TEMPORAL_DELIMITER, AV1_SEQUENCE_HEADER):
        if kind in kinds:
            place = kinds.index(kind) + 1
    raw = [unit.raw for unit in units]
    return b"".join([*raw[:place], *obus, *raw[place:]])


def insert(codec: str, packet: bytes, mastering: MasteringDisplay, light: ContentLight) -> bytes:
    """A keyframe packet of codec "hevc" or "av1" with both messages in it. Raises ConversionError as the functions above do."""
    if codec == "hevc":
        return insert_hevc(packet, hevc_nals(mastering, light))
    if codec == "av1":
        return insert_av1(packet, av1_obus(mastering, light))
    raise ConversionError(f"No place for HDR10 metadata in {codec!r} packets; legal codecs: {', '.join(IN_PACKETS)}.")


def read_hevc_sei(packet: bytes) -> StaticMetadata:
    """Static metadata in the prefix SEI messages of a packet with four-byte lengths. Raises ConversionError on damage."""
    found: dict[int, bytes] = {}
    for nal in split_hevc(packet):
        if hevc_type(nal) == HEVC_PREFIX_SEI:
            found.update(_sei_messages(remove_emulation_prevention(nal[2:])))
    mastering, light = found.get(SEI_MASTERING), found.get(SEI_LIGHT)
    return StaticMetadata(
        MasteringDisplay.from_payload(mastering) if mastering is not None else None,
        ContentLight.from_payload(light) if light is not None else None,
    )


def read_av1_metadata(packet: bytes) -> StaticMetadata:
    """Static metadata in the metadata OBUs of a packet. Raises ConversionError on damage."""
    mastering = light = None
    for obu in split_av1(packet):
        if obu.kind == AV1_METADATA:
            kind, place = read_leb128(obu.payload, 0)
            if kind == OBU_MASTERING:
                mastering = MasteringDisplay.from_av1_payload(obu.payload[place:])
            elif kind == OBU_LIGHT:
                light = ContentLight.from_payload(obu.payload[place:])
    return StaticMetadata(mastering, light)


def read_packet(codec: str, packet: bytes) -> StaticMetadata:
    """`read_hevc_sei` or `read_av1_metadata` by codec, "hevc" or "av1"."""
    return read_hevc_sei(packet) if codec == "hevc" else read_av1_metadata(packet)


def _sei_nal(kind: int, payload: bytes) -> bytes:
    return PREFIX_SEI_HEADER + add_emulation_prevention(bytes([kind, len(payload)]) + payload + b"\x80")


def _metadata_obu(kind: int, payload: bytes) -> bytes:
    return make_obu(AV1_METADATA, leb128(kind) + payload + b"\x80")


def _sei_messages(rbsp: bytes) -> dict[int, bytes]:
    """Payloads by type (ITU-T H.265 7.3.5); type and size are sums of bytes that end with one below 255."""
    messages: dict[int, bytes] = {}
    place = 0
    while place + 2 <= len(rbsp) and rbsp[place:] != b"\x80":
        header = []
        for _ in range(2):
            value = 0
            while place < len(rbsp) and rbsp[place] == 255:
                value, place = value + 255, place + 1
            if place == len(rbsp):
                raise ConversionError(f"HEVC SEI of {len(rbsp)} bytes ends within a message header.")
            value, place = value + rbsp[place], place + 1
            header.append(value)
        kind, size = header
        if place + size > len(rbsp):
            raise ConversionError(f"HEVC SEI of {len(rbsp)} bytes: message {kind} claims {size} bytes.")
        messages[kind] = rbsp[place : place + size]
        place += size
    return messages
