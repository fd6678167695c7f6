"""Boxes by name: which every muxer writes anew, which are padding, and what is known of those that cameras add."""

from __future__ import annotations

PADDING = frozenset({b"free", b"skip", b"wide"})
STANDARD = {
    "file": frozenset({b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"sidx", b"styp", b"ssix", b"prft", b"pdin"}),
    "moov": frozenset({b"mvhd", b"trak", b"udta", b"iods", b"mvex"}),
    "trak": frozenset({b"tkhd", b"edts", b"mdia", b"tref", b"udta", b"tapt"}),
}
"""Where -> boxes of the structure itself (ISO/IEC 14496-12; tapt: QuickTime's picture sizes), which the output has of its own."""

MARK_KINDS = (b"free", b"GPS ")
"""Box type and first letters of the content of a Novatek GPS block."""

TEXT_BOXES = frozenset(
    {"\xa9xyz", "\xa9nam", "\xa9day", "\xa9mak", "\xa9mod", "\xa9swr", "\xa9cmt", "\xa9inf", "\xa9fmt", "loci"}
)
"""User data that FFmpeg reads as tags, so that Matroska has its text too."""

KNOWN = {
    b"FIRM": "GoPro: firmware version",
    b"LENS": "GoPro: lens serial number",
    b"CAME": "GoPro: camera serial number",
    b"SETT": "GoPro: settings",
    b"MUID": "GoPro: media id",
    b"HMMT": "GoPro: highlight marks",
    b"GPMF": "GoPro: telemetry of the whole file",
    b"BCID": "GoPro: chapter id",
    b"GUMI": "GoPro: media id",
    b"AMBA": "Ambarella: encoder settings",
    b"gps ": "vendor's GPS data",
    b"gps0": "vendor's GPS data",
    b"gsen": "vendor's accelerometer data",
    b"gsea": "vendor's accelerometer data",
    b"3gf ": "vendor's accelerometer data",
    b"uuid": "a box known by a 16-byte id",
    b"meta": "metadata",
    b"loci": "place (3GPP)",
    b"\xa9xyz": "place",
    b"\xa9nam": "title",
    b"\xa9day": "date",
    b"\xa9mak": "make of the camera",
    b"\xa9mod": "model of the camera",
    b"\xa9swr": "software of the camera",
    b"\xa9cmt": "comment",
    b"\xa9inf": "information",
    b"\xa9fmt": "format",
    b"thum": "thumbnail of the SDR picture",
    b"PICT": "preview picture of the SDR video",
    b"pnot": "QuickTime: which picture is the preview",
}
XMP_ID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
BLACKVUE_PARTS = frozenset({b"gps ", b"3gf ", b"sttm", b"thum", b"cprt", b"ptnm", b"ptrh"})
INSTA360_MARK = b"8db42d694ccc418790edff439fe026bf"


def words_for(kind: bytes, start: bytes) -> str:
    """What a box is, by its four letters and the first 64 bytes of its content; for bytes that are no box (kind empty), by the last 64."""
    if not kind:
        return "Insta360: camera data after the last box" if INSTA360_MARK in start else "bytes that are no box"
    if kind in PADDING:
        if start[:4] == MARK_KINDS[1]:
            return "Novatek: a GPS block"
        if start[4:8] in BLACKVUE_PARTS:
            return "BlackVue: positions, acceleration, thumbnail and the like"
        return "bytes in a box that players pass over"
    if kind == b"uuid" and start[:16] == XMP_ID:
        return "XMP metadata"
    return KNOWN.get(kind, "a box that Sunvisor has no name for")
