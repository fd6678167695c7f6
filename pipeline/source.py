"""Opening a source file: local files only, and one clear sentence for each way in which a file can be no video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Stream

from pipeline.errors import InputError
from pipeline.heartbeat import beat

CONTAINERS = {
    "mov,mp4,m4a,3gp,3g2,mj2": "mp4 / mov",
    "matroska,webm": "mkv / webm",
    "avi": "avi",
    "mpegts": "ts",
    "mpeg": "mpg",
    "flv": "flv",
    "asf": "wmv",
    "mxf": "mxf",
    "nut": "nut",
    "ivf": "ivf",
    "h264": "raw .h264",
    "hevc": "raw .hevc",
    "m4v": "raw .m4v",
    "mpegvideo": "raw .m1v / .m2v",
    "mjpeg": "raw .mjpeg",
    "obu": "raw .obu",
}
"""Containers that are read: FFmpeg's demuxer name -> what people call it."""

RAW_CONTAINERS = frozenset({"h264", "hevc", "m4v", "mpegvideo", "mjpeg", "obu"})
"""Bare bitstreams: no clock of their own, so the frame rate has to be given."""

PLAYLISTS = frozenset({"hls", "dash", "concat", "sdp", "rtsp", "imf", "webm_dash_manifest"})

SEGMENT_ID = b"\x18\x53\x80\x67"

MAX_SIDE = 16384
"""Largest width and height accepted, in pixels (the limit of H.265 level 7.2 and AV1 level 7 encoders)."""


def open_source(path: Path) -> InputContainer:
    """Open a local media file for reading. Close it (use `with`).

    Only FFmpeg's `file` protocol is allowed, so a playlist cannot make us read from the network.
    Raises InputError: missing, a folder, empty, unreadable, not a video, an mp4 without its index (moov).
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such file.")
    if path.is_dir():
        raise InputError(f"{path}: this is a folder, not a video file.")
    if not path.is_file():
        raise InputError(f"{path}: this is not a regular file; copy the video to a disk first.")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes).")
    beat()
    try:
        return av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read this file.") from error
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path}: {_why_unreadable(path)}") from error


def demux(container: InputContainer, *streams: Stream) -> Iterator[av.Packet]:
    """All packets of some streams, or of all, in the file's order.

    Raises InputError at a packet of a stream that the header does not name (FLV and MPEG-TS may begin one on the way, or damage looks
    like it): PyAV has no place for it. av.FFmpegError as PyAV does.
    """
    try:
        for packet in container.demux(*streams):
            beat()
            yield packet
    except IndexError as error:
        path = container.name.removeprefix("file:")
        raise InputError(
            f"{path}: a stream begins on the way that the file's header does not name, or the file is damaged there; write it anew first, "
            "for example: ffmpeg -i FILE -map 0 -c copy FILE.mkv"
        ) from error


def check_container(path: Path, container: InputContainer) -> None:
    """Raise InputError for a playlist or for a container that is not in CONTAINERS."""
    name = container.format.name
    if name in PLAYLISTS or any(part in PLAYLISTS for part in name.split(",")):
        raise InputError(f"{path}: this is a playlist ({name}), not a video; give the files that it names.")
    if name == "tty":
        raise InputError(f"{path}: this is a text file, not a video.")
    if name not in CONTAINERS:
        legal = ", ".join(CONTAINERS.values())
        raise InputError(f"{path}: container '{name}' is not supported; legal are {legal}.")


def decoder_options(context: av.VideoCodecContext) -> dict[str, str]:
    """Options for the decoder of a stream, the same wherever we decode.

    H.264 that does not say how far it reorders: wait for the full picture buffer instead of guessing, as a guess that is too
    small loses frames (ITU-T H.264 clause C.4.5.3); FFmpeg does so at strict=1.
    """
    return {"strict": "1"} if context.codec.canonical_name == "h264" else {}


def _why_unreadable(path: Path) -> str:
    """Plain reason why FFmpeg could not open the file, from the first bytes and the boxes of the file itself."""
    with path.open("rb") as file:
        head = file.read(4096)
        boxes = _top_boxes(path) if head[4:8] in {b"ftyp", b"mdat", b"free", b"wide", b"skip", b"moov"} else []
    if boxes and "moov" not in boxes:
        return (
            "the file is truncated: this mp4/mov has no 'moov' box (the index that is written last), so no frame of it "
            "can be located; recover it with the camera's own repair function or copy it again."
        )
    if boxes:
        return "the mp4/mov index ('moov' box) is damaged or cut off; copy the file again."
    if not head.strip(b"\x00"):
        return "the file begins with zeros and is no video; copy it again from the camera."
    if b"\x00" not in head and sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in head) > 0.95 * len(head):
        return "this is a text file, not a video."
    return "FFmpeg recognises no video in this file; it is damaged or of another kind."


def _top_boxes(path: Path) -> list[str]:
    """Names of the complete top-level boxes of an ISO base media file (ISO/IEC 14496-12 clause 4.2)."""
    names: list[str] = []
    size = path.stat().st_size
    at = 0
    with path.open("rb") as file:
        while at + 8 <= size and len(names) < 10_000:
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1 and len(head) == 16:
                length = int.from_bytes(head[8:16], "big")
            elif length == 0:
                length = size - at
            if length < 8:
                break
            if at + length <= size or head[4:8] == b"moov":
                names.append(head[4:8].decode("latin-1"))
            else:
                names.append("cut:" + head[4:8].decode("latin-1"))
            at += length
    return names


def ends_too_early(path: Path) -> bool:
    """Does an mp4, mov or Matroska file end within its last box or Segment? False for other kinds. FFmpeg reads some of them."""
    with path.open("rb") as file:
        head = file.read(8)
    if head[4:8] != b"ftyp":
        return segment_is_cut(path)
    at, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            at = at + length if length >= 8 else size
    return at != size


def segment_is_cut(path: Path) -> bool:
    """Does a Matroska file end before its Segment does (RFC 8794 clause 6, RFC 9559 clause 5.1)? False where its size is not said."""
    with path.open("rb") as file:
        head = file.read(4096)
    at = 0
    while at + 12 <= len(head):
        id_bytes = 9 - head[at].bit_length()
        size_at = at + id_bytes
        size_bytes = 9 - head[size_at].bit_length()
        if id_bytes > 4 or size_bytes > 8 or size_at + size_bytes > len(head):
            return False
        size = int.from_bytes(head[size_at : size_at + size_bytes], "big") & ((1 << 7 * size_bytes) - 1)
        known = size != (1 << 7 * size_bytes) - 1
        if head[at:size_at] == SEGMENT_ID:
            return known and size_at + size_bytes + size > path.stat().st_size
        at = size_at + size_bytes + size
    return False
