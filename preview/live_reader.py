"""Live reader: a small process that reads one camera or stream and hands over its newest frame, again and again.

A process, since neither a camera's driver nor a peer that hangs can be interrupted otherwise: whoever wants no more kills it. It also keeps
what comes from a network out of the server. Runs as a script with nothing but PyAV: `python live_reader.py ADDRESS`; the other end is
preview/live.py. Standard input is a pipe that only that end holds: when it closes, the process ends.

Standard output: messages of a 4-byte big-endian length, so many bytes of JSON, and the bytes of the planes that it tells of.
`stream`: what the stream is, once; `frame`: a picture; `end`: why there are no more, once.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import suppress
from typing import IO, Any

import av
from av.error import FFmpegError

OPEN_SECONDS = 10.0
READ_SECONDS = 15.0
"""Without a frame for so long, the connection counts as lost. HLS may well be silent for a segment of ten seconds."""
SOCKET_SECONDS = 8.0
PROBE_BYTES, PROBE_SECONDS = 1 << 20, 2.0
LONGEST_PAUSE_SECONDS = 10.0

STREAM_FORMATS = "hls,mpegts,mov,mp4,matroska,webm,flv,mpjpeg,mjpeg,avi,h264,hevc,asf,ogg,aac,mp3,ac3,webvtt"
"""Containers that are taken from a network, and what HLS wraps."""
UNPACKED = {
    "yuyv422": "yuv422p", "uyvy422": "yuv422p", "yvyu422": "yuv422p",
    "bgr24": "gbrp", "rgb0": "gbrp", "bgr0": "gbrp", "0rgb": "gbrp", "0bgr": "gbrp",
}  # fmt: skip
"""Cameras' formats with all components in one plane -> the same codes in planes of their own."""


def open_address(address: str) -> av.container.InputContainer:
    """Connect. Only the protocols that the address names may be used, whatever a playlist or a redirect says."""
    micro = str(int(SOCKET_SECONDS * 1e6))
    quick = {"probesize": str(PROBE_BYTES), "analyzeduration": str(int(PROBE_SECONDS * 1e6))}
    if address.startswith("/dev/"):
        return av.open(address, format="v4l2", timeout=(OPEN_SECONDS, READ_SECONDS))
    if address.lower().startswith(("rtsp:", "rtsps:")):
        options = {
            "protocol_whitelist": "rtsp,rtsps,rtp,tcp,tls",
            "rtsp_transport": "tcp",
            "allowed_media_types": "video",
            "timeout": micro,
        }
    else:
        options = {
            "protocol_whitelist": "http,https,tls,tcp,crypto",
            "format_whitelist": STREAM_FORMATS,
            "rw_timeout": micro,
        }
    return av.open(address, options=options | quick, timeout=(OPEN_SECONDS, READ_SECONDS), metadata_errors="replace")


class Newest:
    """The newest frame that nobody has taken; an older one is dropped for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: tuple[int, float, av.VideoFrame] | None = None
        self._ended = False

    def put(self, number: int, frame: av.VideoFrame) -> None:
        """number: how many came before it."""
        with self._changed:
            self._frame = number, time.monotonic(), frame
            self._changed.notify()

    def end(self) -> None:
        """No more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def take(self) -> tuple[int, float, av.VideoFrame] | None:
        """Wait for one: (number, when it came by the monotonic clock, frame). None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended)
            taken, self._frame = self._frame, None
            return taken


def say(pipe: IO[bytes], message: dict[str, Any], planes: tuple[memoryview, ...] = ()) -> None:
    """Write one message."""
    head = json.dumps(message).encode()
    pipe.write(len(head).to_bytes(4, "big") + head)
    for plane in planes:
        pipe.write(plane)
    pipe.flush()


def facts(container: av.container.InputContainer, stream: av.VideoStream, frame: av.VideoFrame) -> dict[str, Any]:
    """What the stream is, tags as numbers of ITU-T H.273: of the first frame, else of the header."""
    context, rate = stream.codec_context, stream.average_rate or stream.guessed_rate or stream.base_rate
    av.logging.set_libav_level(av.logging.VERBOSE)
    av.logging.set_level(av.logging.VERBOSE)
    try:
        description = container.dumps_format()
    finally:
        av.logging.set_level(None)
        av.logging.set_libav_level(av.logging.ERROR)
    return {
        "is": "stream",
        "codec": context.codec.canonical_name,
        "index": stream.index,
        "width": frame.width,
        "height": frame.height,
        "format": frame.format.name,
        "primaries": int(frame.color_primaries) or int(context.color_primaries),
        "transfer": int(frame.color_trc) or int(context.color_trc),
        "matrix": int(frame.colorspace) or int(context.colorspace),
        "range": int(frame.color_range) or int(context.color_range),
        "rate": str(rate) if rate else "",
        "description": description,
    }


def write_frames(pipe: IO[bytes], newest: Newest) -> None:
    """The thread that hands frames over, as fast as they are taken."""
    with suppress(BrokenPipeError):
        while (taken := newest.take()) is not None:
            number, came, frame = taken
            head = {
                "is": "frame",
                "number": number,
                "came": came,
                "format": frame.format.name,
                "width": frame.width,
                "height": frame.height,
                "lines": [plane.line_size for plane in frame.planes],
                "bytes": [plane.buffer_size for plane in frame.planes],
            }
            say(pipe, head, tuple(memoryview(plane) for plane in frame.planes))


class Pace:
    """A recording on a server comes as fast as the network gives it, and a playlist in bursts: both are shown at their own speed."""

    def __init__(self, container: av.container.InputContainer) -> None:
        self._needed = container.duration is not None or container.format.name in ("hls", "dash")
        self._start: tuple[float, float] | None = None

    def wait(self, frame: av.VideoFrame) -> None:
        """Until the frame is due; a jump in its times begins a new count."""
        if not self._needed or frame.time is None:
            return
        now = time.monotonic()
        if self._start is None or not -1 < self._start[0] + frame.time - self._start[1] - now < LONGEST_PAUSE_SECONDS:
            self._start = now, frame.time
        time.sleep(max(0.0, self._start[0] + frame.time - self._start[1] - now))


def read(address: str, pipe: IO[bytes]) -> str:
    """Read until it ends. Returns why it did, as the middle of a sentence."""
    newest, writer, number = Newest(), None, 0
    try:
        with open_address(address) as container:
            moving = [stream for stream in container.streams.video if stream.codec_context is not None]
            if not moving:
                return "there is no video in it that FFmpeg can decode"
            stream, pace = moving[0], Pace(container)
            stream.codec_context.thread_type = "SLICE"  # threads over frames would each keep one back
            for packet in container.demux(stream):
                for frame in decoded(stream.codec_context, packet):
                    pace.wait(frame)
                    if frame.format.name in UNPACKED:
                        frame = frame.reformat(format=UNPACKED[frame.format.name])
                    if writer is None:
                        say(pipe, facts(container, stream, frame))
                        writer = threading.Thread(target=write_frames, args=(pipe, newest))
                        writer.start()
                    newest.put(number, frame)
                    number += 1
            return "it has ended" if number else "not one picture of it could be decoded"
    except FFmpegError as error:
        return reason(error)
    finally:
        newest.end()
        if writer is not None:
            writer.join()


def decoded(context: av.VideoCodecContext, packet: av.Packet) -> list[av.VideoFrame]:
    """The frames of a packet; a damaged one gives none, and damaged frames are left out."""
    try:
        return [frame for frame in context.decode(packet if packet.size else None) if not frame.is_corrupt]
    except (av.error.InvalidDataError, av.error.EOFError):
        return []


def reason(error: FFmpegError) -> str:
    """Why it does not go on, in plain words."""
    told: list[tuple[type, str]] = [
        (av.error.HTTPUnauthorizedError, "it asks for a user name and a password: http://NAME:PASSWORD@HOST/..."),
        (av.error.HTTPForbiddenError, "the server refuses (403)"),
        (av.error.HTTPNotFoundError, "the server knows no such address (404)"),
        (av.error.HTTPError, "the server answers with an error"),
        (av.error.ConnectionRefusedError, "nobody listens there (connection refused)"),
        (av.error.ConnectionResetError, "the connection broke off"),
        (av.error.TimeoutError, f"nothing came for {SOCKET_SECONDS:g} s"),
        (av.error.ExitError, f"no answer within {OPEN_SECONDS:g} s, or no picture for {READ_SECONDS:g} s"),
        (av.error.FileNotFoundError, "there is no such device"),
        (av.error.PermissionError, "no permission to open it; on most systems cameras are for members of the group video"),
        (av.error.InvalidDataError, "what comes from there is no video that FFmpeg knows"),
        (av.error.EOFError, "it ended before a picture came"),
    ]  # fmt: skip
    for kind, text in told:
        if isinstance(error, kind):
            return text
    return f"FFmpeg says: {error.strerror}"


def end_with(pipe: IO[bytes]) -> None:
    """End this process when the other end is gone, in whatever state it is."""
    pipe.read()
    os._exit(0)


def main(address: str) -> None:
    """Read, and tell why it ended."""
    threading.Thread(target=end_with, args=(sys.stdin.buffer,), daemon=True).start()
    av.logging.set_libav_level(av.logging.ERROR)
    with suppress(BrokenPipeError):
        text = read(address, sys.stdout.buffer)
        say(sys.stdout.buffer, {"is": "end", "text": text})


if __name__ == "__main__":
    main(sys.argv[1])
