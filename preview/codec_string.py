"""What MediaSource.isTypeSupported wants to know of a stream (RFC 6381), read from its initialisation segment."""

from __future__ import annotations

from pipeline import moov
from pipeline.bitstream_tags import SignalTags, av1_tags
from pipeline.errors import ConversionError

SAMPLE_ENTRY_FIELDS = 78
"""Bytes of a VisualSampleEntry between its header and its boxes (ISO/IEC 14496-12 12.1.3)."""


def codec_string(init: bytes) -> str:
    """Such as "av01.0.04M.10.0.112.09.16.09.0" or "hvc1.2.4.L93.90". Raises ConversionError when the video is neither AV1 nor HEVC.

    AV1: profile, level and tier, bit depth, monochrome, subsampling with siting, then primaries, transfer, matrix and range of ITU-T
    H.273 (AV1 Codec ISO Media File Format Binding, clause 5). HEVC: profile, compatibility, tier and level, constraints (ISO/IEC
    14496-15 annex E.3).
    """
    for kind, box in _sample_entry_boxes(init):
        if kind == b"av1C":
            return _av1(box)
        if kind == b"hvcC":
            return _hevc(box)
    raise ConversionError("The initialisation segment holds neither AV1 nor HEVC.")


def _sample_entry_boxes(init: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, content) of the boxes in the first sample entry of the first track."""
    top = next((box for box in moov.boxes(init, 0, len(init)) if box.kind == b"moov"), None)
    table = moov.inside(init, top, b"trak", b"mdia", b"minf", b"stbl", b"stsd") if top else None
    entry = next(moov.boxes(init, table.body + 8, table.end), None) if table else None
    if entry is None:
        return []
    inner = moov.boxes(init, entry.body + SAMPLE_ENTRY_FIELDS, entry.end)
    return [(box.kind, init[box.body : box.end]) for box in inner]


def _av1(record: bytes) -> str:
    """av1C: marker and version, profile (3 bits) and level (5), then tier, two bits of depth, monochrome, subsampling and siting."""
    profile, level, flags = record[1] >> 5, record[1] & 31, record[2]
    tier = "MH"[flags >> 7]
    depth = (8, 10, 12)[(flags >> 6 & 1) + (flags >> 5 & 1)]
    across, down, siting = flags >> 3 & 1, flags >> 2 & 1, flags & 3
    tags = av1_tags(record, b"") or SignalTags(None, None, None, None, None)
    colour = [f"{value or 2:02d}" for value in (tags.primaries, tags.transfer, tags.matrix)]
    parts = ["av01", str(profile), f"{level:02d}{tier}", f"{depth:02d}", str(flags >> 4 & 1)]
    return ".".join(
        [*parts, f"{across}{down}{siting if across and down else 0}", *colour, str(int(bool(tags.full_range)))]
    )


def _hevc(record: bytes) -> str:
    """hvcC: version, profile space (2 bits), tier (1) and profile (5), 32 compatibility flags, 48 constraint flags, level."""
    space, tier, profile = record[1] >> 6, record[1] >> 5 & 1, record[1] & 31
    compatible = int(f"{int.from_bytes(record[2:6], 'big'):032b}"[::-1], 2)  # the first flag is the lowest bit
    constraints = [f"{byte:X}" for byte in record[6:12].rstrip(b"\0")]
    parts = ["hvc1", f"{['', 'A', 'B', 'C'][space]}{profile}", f"{compatible:X}", f"{'LH'[tier]}{record[12]}"]
    return ".".join([*parts, *constraints])
