"""Keyframes that are none: H.264 recovery points from which the picture only becomes right after some frames."""

from __future__ import annotations

from collections.abc import Iterator

_IDR, _SEI = 5, 6
_RECOVERY_POINT = 6
_SLICE = 1


def is_clean_start(codec: str, data: memoryview) -> bool:
    """False for an H.264 packet that is a recovery point with recovery_frame_cnt > 0 (gradual intra refresh).

    Containers and FFmpeg mark those as keyframes too, but decoding from them gives damaged frames until the refresh is
    through (ITU-T H.264 clause D.2.8). Other codecs: always True. data: bytes of one packet flagged as keyframe, with NAL
    lengths of 4 bytes (mp4, mkv) or start codes (ts, raw).
    """
    if codec != "h264":
        return True
    for nal in _nals(data):
        kind = nal[0] & 31
        if kind == _IDR:
            return True
        if kind == _SEI:
            count = _recovery_frames(nal)
            if count is not None:
                return count == 0
        if kind == _SLICE:
            return True
    return True


def _nals(data: memoryview) -> Iterator[memoryview]:
    """The NAL units of a packet, without start code or length; stops at the first one that makes no sense."""
    head = bytes(data[:4])
    if head[:3] == b"\0\0\1" or head == b"\0\0\0\1":
        raw = bytes(data[:4096])  # SEI and slice header come first; no need to search megabytes of slices
        at = raw.find(b"\0\0\1")
        while at >= 0 and at + 3 < len(raw):
            following = raw.find(b"\0\0\1", at + 3)
            yield memoryview(raw)[at + 3 : following if following >= 0 else len(raw)]
            at = following
        return
    at = 0
    while at + 5 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if length == 0 or at + 4 + length > len(data):
            return
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


def _recovery_frames(nal: memoryview) -> int | None:
    """recovery_frame_cnt of the recovery point message in an SEI NAL unit; None when it has none."""
    payload = bytes(nal[1:]).replace(b"\0\0\3", b"\0\0")
    at = 0
    while at + 2 <= len(payload) and payload[at] != 0x80:
        kind = size = 0
        while at < len(payload) and payload[at] == 0xFF:
            kind, at = kind + 255, at + 1
        if at >= len(payload):
            return None
        kind, at = kind + payload[at], at + 1
        while at < len(payload) and payload[at] == 0xFF:
            size, at = size + 255, at + 1
        if at >= len(payload):
            return None
        size, at = size + payload[at], at + 1
        if kind == _RECOVERY_POINT:
            return _exp_golomb(payload[at : at + size])
        at += size
    return None


def _exp_golomb(data: bytes) -> int | None:
    """The first ue(v) of the bytes (ITU-T H.264 clause 9.1)."""
    bits = "".join(f"{byte:08b}" for byte in data[:8])
    zeros = len(bits) - len(bits.lstrip("0"))
    if 2 * zeros + 1 > len(bits):
        return None
    return int(bits[zeros : 2 * zeros + 1], 2) - 1
