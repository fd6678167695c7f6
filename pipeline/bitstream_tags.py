"""The colour tags inside an HEVC, AV1 or ProRes bitstream, read from its headers, so that they can be held against the container's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

CHROMA_LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")
"""chroma_sample_loc_type 0 to 5 (ITU-T H.265 figure E.1)."""

AV1_CHROMA_LOCATIONS = {1: "left", 2: "topleft"}
"""chroma_sample_position (AV1 specification, 6.4.2): CSP_VERTICAL, CSP_COLOCATED."""

HEVC_SPS = 33
AV1_SEQUENCE_HEADER = 1
MAX_HEADER_BYTES = 8192
"""A sequence header takes some hundred bytes, and about 4,000 with every table that it may have; each bit read costs time by its length."""
PRORES_FRAME = b"icpf"
PRORES_COLOURS = 18
"""Bytes from that word, which stands after the frame's size, to the code of its primaries."""


@dataclass(frozen=True)
class SignalTags:
    """Colour tags as numbers of ITU-T H.273; None where the tag is absent."""

    primaries: int | None
    transfer: int | None
    matrix: int | None
    full_range: bool | None
    chroma_location: str | None


class BitReader:
    """Bits of a byte string, most significant first. Reading past the end, or past MAX_HEADER_BYTES, raises ValueError."""

    def __init__(self, data: bytes) -> None:
        data = data[:MAX_HEADER_BYTES]
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def u(self, bits: int) -> int:
        """Unsigned integer of that many bits."""
        if bits > self._left:
            raise ValueError("the sequence header is cut short")
        self._left -= bits
        return (self._value >> self._left) & ((1 << bits) - 1)

    def ue(self) -> int:
        """Exp-Golomb code ue(v) (H.265 9.2); AV1's uvlc() is the same for values below 2**32 - 1."""
        zeros = 0
        while not self.u(1):
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)


def hevc_tags(extradata: bytes, packet: bytes) -> SignalTags | None:
    """Tags of the VUI of the last sequence parameter set in a keyframe packet, else in hvcC. None when there is none.

    packet: with 4-byte lengths when extradata is an hvcC record, else Annex B
    """
    units = [*hevc_parameter_units(extradata), *nal_units(packet)]
    sets = [unit for unit in units if len(unit) > 2 and unit[0] >> 1 & 63 == HEVC_SPS]
    return _sps_tags(sets[-1]) if sets else None


def av1_tags(extradata: bytes, packet: bytes) -> SignalTags | None:
    """Tags of the last sequence header OBU in a keyframe packet, else in av1C. None when there is none."""
    headers = [body for kind, body in obus(extradata[4:]) if kind == AV1_SEQUENCE_HEADER]
    headers += [body for kind, body in obus(packet) if kind == AV1_SEQUENCE_HEADER]
    return _sequence_header_tags(headers[-1]) if headers else None


def prores_tags(extradata: bytes, packet: bytes) -> SignalTags | None:
    """Tags of a ProRes frame header (SMPTE RDD 36, 5.1.1); None when the packet is no frame. It says nothing of range and siting.

    extradata: not looked at
    """
    at = packet.find(PRORES_FRAME, 0, 8)
    if at not in (0, 4) or len(packet) < at + PRORES_COLOURS + 7:
        return None
    known = [number or None for number in packet[at + PRORES_COLOURS :][:3]]
    return SignalTags(*known, None, None)


def nal_units(data: bytes) -> Iterator[bytes]:
    """NAL units of H.264 or HEVC data, framed by start codes (Annex B) or by 4-byte lengths."""
    if data[:3] == b"\x00\x00\x01" or data[:4] == b"\x00\x00\x00\x01":
        for piece in data.split(b"\x00\x00\x01")[1:]:
            yield piece.rstrip(b"\x00")
        return
    at = 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


def hevc_parameter_units(record: bytes) -> list[bytes]:
    """Parameter sets and SEI of an HEVCDecoderConfigurationRecord (ISO/IEC 14496-15 clause 8.3.3.1), or of Annex B extradata."""
    if record[:1] != b"\x01":
        return list(nal_units(record))
    units = []
    at = 23
    for _ in range(record[22] if len(record) > 22 else 0):
        count = int.from_bytes(record[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            if at + 2 > len(record):
                return units
            length = int.from_bytes(record[at : at + 2], "big")
            units.append(record[at + 2 : at + 2 + length])
            at += 2 + length
    return units


def obus(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of AV1 OBUs with size fields (AV1 specification, 5.3)."""
    at = 0
    while at < len(data):
        head = data[at]
        at += 2 if head & 4 else 1
        size, shift = len(data) - at, 0
        if head & 2:
            size = 0
            while at < len(data):
                byte = data[at]
                at += 1
                size |= (byte & 127) << shift
                shift += 7
                if not byte & 128:
                    break
        yield head >> 3 & 15, data[at : at + size]
        at += size


def _sps_tags(unit: bytes) -> SignalTags:
    """Walk a sequence parameter set (H.265 7.3.2.2) to its VUI (E.2.1)."""
    r = BitReader(unit[2:].replace(b"\x00\x00\x03", b"\x00\x00"))
    r.u(4)
    sub_layers = r.u(3)
    r.u(1)
    _skip_profile_tier_level(r, sub_layers)
    r.ue()
    if r.ue() == 3:  # chroma_format_idc
        r.u(1)
    r.ue(), r.ue()  # width, height
    if r.u(1):  # conformance window
        [r.ue() for _ in range(4)]
    r.ue(), r.ue()  # bit depths
    poc_bits = r.ue() + 4
    for _ in range(sub_layers + 1 if r.u(1) else 1):
        r.ue(), r.ue(), r.ue()
    [r.ue() for _ in range(6)]  # block sizes and depths
    if r.u(1) and r.u(1):
        _skip_scaling_lists(r)
    r.u(2)  # amp, sao
    if r.u(1):  # pcm
        r.u(8), r.ue(), r.ue(), r.u(1)
    _skip_reference_sets(r)
    if r.u(1):  # long-term references
        for _ in range(r.ue()):
            r.u(poc_bits + 1)
    r.u(2)  # temporal mvp, strong intra smoothing
    if not r.u(1):
        return SignalTags(None, None, None, None, None)
    if r.u(1) and r.u(8) == 255:  # aspect ratio
        r.u(32)
    if r.u(1):  # overscan
        r.u(1)
    primaries = transfer = matrix = full = None
    if r.u(1):  # video signal type
        r.u(3)
        full = bool(r.u(1))
        if r.u(1):
            primaries, transfer, matrix = r.u(8), r.u(8), r.u(8)
    location = None
    if r.u(1):
        kind = r.ue()
        location = CHROMA_LOCATIONS[kind] if kind < len(CHROMA_LOCATIONS) else None
    return SignalTags(primaries, transfer, matrix, full, location)


def _skip_profile_tier_level(r: BitReader, sub_layers: int) -> None:
    r.u(88), r.u(8)
    present = [(r.u(1), r.u(1)) for _ in range(sub_layers)]
    if sub_layers:
        r.u(2 * (8 - sub_layers))
    for profile, level in present:
        r.u(88 * profile + 8 * level)


def _skip_scaling_lists(r: BitReader) -> None:
    for size in range(4):
        for _ in range(0, 6, 3 if size == 3 else 1):
            if not r.u(1):
                r.ue()
            else:
                [r.ue() for _ in range((1 if size > 1 else 0) + min(64, 1 << (4 + 2 * size)))]


def _skip_reference_sets(r: BitReader) -> None:
    """Short-term reference picture sets (H.265 7.3.7); only how many pictures each has matters for the next."""
    sizes: list[int] = []
    for number in range(r.ue()):
        if number and r.u(1):  # predicted from the set before
            r.u(1), r.ue()
            kept = 0
            for _ in range(sizes[-1] + 1):
                if r.u(1) or r.u(1):
                    kept += 1
            sizes.append(kept)
        else:
            pictures = r.ue() + r.ue()
            for _ in range(pictures):
                r.ue(), r.u(1)
            sizes.append(pictures)


def _sequence_header_tags(body: bytes) -> SignalTags:
    """Walk an AV1 sequence header (AV1 specification, 5.5) to its color_config."""
    r = BitReader(body)
    profile = r.u(3)
    r.u(1)
    reduced = r.u(1)
    if reduced:
        r.u(5)
    else:
        _skip_operating_points(r)
    width_bits, height_bits = r.u(4) + 1, r.u(4) + 1
    r.u(width_bits), r.u(height_bits)
    if not reduced and r.u(1):
        r.u(7)
    r.u(3)
    if not reduced:
        r.u(4)
        order_hint = r.u(1)
        if order_hint:
            r.u(2)
        screen = 2 if r.u(1) else r.u(1)
        if screen and not r.u(1):
            r.u(1)
        if order_hint:
            r.u(3)
    r.u(3)
    high = r.u(1)
    if profile == 2 and high:
        r.u(1)
    mono = 0 if profile == 1 else r.u(1)
    primaries = transfer = matrix = None
    if r.u(1):
        primaries, transfer, matrix = r.u(8), r.u(8), r.u(8)
    full = bool(r.u(1))
    if mono or profile != 0:
        return SignalTags(primaries, transfer, matrix, full, None)
    return SignalTags(primaries, transfer, matrix, full, AV1_CHROMA_LOCATIONS.get(r.u(2)))


def _skip_operating_points(r: BitReader) -> None:
    delay_bits = 0
    if r.u(1):  # timing info
        r.u(64)
        if r.u(1):
            r.ue()
        if r.u(1):  # decoder model
            delay_bits = r.u(5) + 1
            r.u(42)
    display_delay = r.u(1)
    for _ in range(r.u(5) + 1):
        r.u(12)
        if r.u(5) > 7:
            r.u(1)
        if delay_bits and r.u(1):
            r.u(2 * delay_bits + 1)
        if display_delay and r.u(1):
            r.u(4)
