"""Live sources: a camera, or a stream of RTSP or HTTP(S). Only the newest frame is kept; a connection that breaks is made anew.

Each connection is a process of its own (preview/live_reader.py), so that closing is quick whatever the peer or the driver does.
"""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urlsplit

import av
import numpy as np

from pipeline.color import ColorSpec, PixelLayout
from pipeline.decode import DecodedFrame
from pipeline.errors import InputError
from pipeline.planes import frame_planes
from pipeline.probe import chroma_location_words
from pipeline.source import MAX_SIDE
from pipeline.source_color import (
    LAYOUTS,
    MATRIX_NAMES,
    PRIMARIES_NAMES,
    RANGE_NAMES,
    TRANSFER_NAMES,
    hdr_reason,
    resolve_color,
)
from preview import live_reader

CAMERA = re.compile(r"/dev/(video\d+|v4l/by-(id|path)/[^/]+)")
STREAM = re.compile(r"(rtsps?|https?)://", re.IGNORECASE)
FIRST_PICTURE_SECONDS = live_reader.OPEN_SECONDS + 10.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
END_SECONDS = 1.0
RATES = Fraction(1), Fraction(240)
USUAL_RATE = Fraction(30)


def is_live(address: str) -> bool:
    """Is this a camera (/dev/videoN) or an rtsp://, rtsps://, http:// or https:// address?"""
    return bool(CAMERA.fullmatch(address) or STREAM.match(address))


def shown(address: str) -> str:
    """The address as people may see it: without user name, password and query."""
    if CAMERA.fullmatch(address):
        return address
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def open_live(address: str, overrides: dict[str, str | None] | None = None) -> LiveSource:
    """Connect, and wait for the first picture (seconds). Close it when done.

    overrides: colour settings that win over the stream's tags, as for `pipeline.probe.read_color`
    Raises InputError: no such address, no answer, no video, a pixel format or size that is not supported, HDR already.
    """
    if not is_live(address):
        raise InputError(f"{address}: not a live source; legal: /dev/videoN, rtsp://, rtsps://, http://, https://.")
    if CAMERA.fullmatch(address):
        _check_camera(Path(address))
    elif not urlsplit(address).hostname:
        raise InputError(f"{shown(address)}: the address names no host.")
    source = LiveSource(address, overrides or {})
    try:
        source.wait_for_stream(FIRST_PICTURE_SECONDS)
    except BaseException:
        source.close()
        raise
    return source


@dataclass(frozen=True)
class LiveFrame(DecodedFrame):
    """A frame of a live source. pts: its number among all that were read, those dropped included.

    came: when the decoder gave it, by time.monotonic(): what latency is counted from
    """

    came: float = 0.0


class LiveSource:
    """An open live source; make it with `open_live`. Any number of threads may ask it: a camera cannot be opened twice, so share it.

    width, height: in pixels; layout, color: as of a file; color_reasons: why these, for each field
    rate: frames a second that the stream claims, 30 where it claims none
    note: "" while frames come, else one sentence: what is wrong, and when it is tried again
    stale: what comes has another size or pixel format by now and is not shown; close it and open it anew
    """

    width: int
    height: int
    layout: PixelLayout
    color: ColorSpec
    color_reasons: dict[str, str]
    rate: Fraction

    def __init__(self, address: str, overrides: dict[str, str | None]) -> None:
        self._address, self._name, self._overrides = address, shown(address), overrides
        self.note, self.stale = "", False
        self._changed = threading.Condition()
        self._shape: tuple | None = None
        self._trouble: Exception | None = None
        self._newest: LiveFrame | None = None
        self._read = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"live {self._name}", daemon=True)
        self._thread.start()

    def wait_for_stream(self, seconds: float) -> None:
        """Until it is known what the stream is. Raises InputError when the first connection tells why that will not be."""
        with self._changed:
            self._changed.wait_for(lambda: self._shape is not None or self._trouble is not None, seconds)
            if self._trouble is not None:
                raise self._trouble
            if self._shape is None:
                raise InputError(f"{self._name}: no picture came within {seconds:g} s.")

    def newest(self, after: int = -1, wait_seconds: float = 0.0) -> LiveFrame | None:
        """The newest frame if its number is larger than `after`, else None once wait_seconds have passed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._is_after(after), wait_seconds)
            return self._newest if self._is_after(after) else None

    def close(self) -> None:
        """End the reading; takes a second at most. A second call does nothing."""
        with self._changed:
            self._closed = True
            self._newest = None
            self._changed.notify_all()
            if self._process is not None:
                self._process.kill()
        self._thread.join(END_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_after(self, number: int) -> bool:
        return self._newest is not None and self._newest.pts > number

    def _run(self) -> None:
        """The thread: one connection after another. The pause between two doubles as long as no frame comes."""
        pause = FIRST_PAUSE_SECONDS
        while not self._closed:
            before = self._read
            why = self._connection()
            pause = FIRST_PAUSE_SECONDS if self._read > before else min(2 * pause, LONGEST_PAUSE_SECONDS)
            with self._changed:
                if self._shape is None:  # the first connection came to nothing: that is open_live's to tell
                    self._trouble = self._trouble or InputError(f"{self._name}: {why}.")
                    self._changed.notify_all()
                    return
                self.note = f"{self._name}: {why}; connecting again in {pause:g} s."
                self._changed.wait_for(lambda: self._closed, pause)

    def _connection(self) -> str:
        """One process, from its start to its end. Returns why it ended, as the middle of a sentence."""
        command = [sys.executable, "-I", live_reader.__file__, self._address]
        with self._changed:
            if self._closed:
                return "closed"
            process = self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        first = self._read
        try:
            while (message := _read_message(process.stdout)) is not None:
                head, planes = message
                if head["is"] == "end":
                    return head["text"]
                if head["is"] == "stream":
                    if (trouble := self._meet(head)) is not None:
                        return trouble
                else:
                    self._take(first, head, planes)
            return "its reader ended without a word"
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()

    def _meet(self, head: dict[str, Any]) -> str | None:
        """What a new connection brings: None when it is what it was, else why it cannot be used."""
        shape = head["width"], head["height"], head["format"]
        if self._shape is not None:
            self.stale = shape != self._shape
            if self.stale:
                return f"it is {shape[0]}x{shape[1]} {shape[2]} now and was {self._shape[0]}x{self._shape[1]} {self._shape[2]}, open it anew"
            return None
        try:
            self._learn(head)
        except InputError as error:
            self._trouble = error
            return str(error)
        with self._changed:
            self._shape = shape
            self._changed.notify_all()
        return None

    def _learn(self, head: dict[str, Any]) -> None:
        """Size, layout and colours, by the rules of files. Raises InputError."""
        width, height, name = head["width"], head["height"], head["format"]
        if name not in LAYOUTS:
            raise InputError(f"{self._name}: pixel format '{name}' is not supported; legal are {', '.join(LAYOUTS)}.")
        if not 0 < max(width, height) <= MAX_SIDE:
            raise InputError(f"{self._name}: it is {width}x{height}; at most {MAX_SIDE} pixels a side are supported.")
        tags = {
            "primaries_tag": PRIMARIES_NAMES.get(head["primaries"]),
            "transfer_tag": TRANSFER_NAMES.get(head["transfer"]),
            "matrix_tag": MATRIX_NAMES.get(head["matrix"]),
        }
        layout = LAYOUTS[name]
        hdr = hdr_reason(tags["transfer_tag"], tags["primaries_tag"], "", layout.bit_depth, tags["matrix_tag"])
        if hdr is not None:
            raise InputError(f"{self._name}: it is HDR already: {hdr}.")
        color, reasons = resolve_color(
            name=self._name,
            codec=head["codec"],
            pix_fmt=name,
            height=height,
            range_tag=RANGE_NAMES.get(head["range"]),
            chroma_location_tag=chroma_location_words(head["description"]).get(head["index"]),
            overrides=self._overrides,
            **tags,
        )
        rate = Fraction(head["rate"]) if head["rate"] else USUAL_RATE
        self.width, self.height, self.layout = width, height, layout
        self.color, self.color_reasons = color, reasons
        self.rate = rate if RATES[0] <= rate <= RATES[1] else USUAL_RATE

    def _take(self, first: int, head: dict[str, Any], planes: list[bytes]) -> None:
        """A frame has come; one of another shape is left out, and said."""
        number = first + head["number"]
        shape = head["width"], head["height"], head["format"]
        with self._changed:
            self._read = number + 1
            self.stale = shape != self._shape
            if self.stale:
                self.note = f"{self._name}: its pictures are {shape[0]}x{shape[1]} {shape[2]} now; open it anew."
                return
            if not self._closed:
                self._newest = LiveFrame(number, frame_planes(_frame(head, planes)), False, head["came"])
                self.note = ""
                self._changed.notify_all()


def _check_camera(path: Path) -> None:
    """Raises InputError when there is no such device; whether it is a camera is found out when it is opened."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        here = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
        raise InputError(f"{path}: there is no such camera; cameras here: {here}.") from error
    if not stat.S_ISCHR(found.st_mode):
        raise InputError(f"{path}: this is no device.")


def _read_message(pipe: IO[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """One message of preview/live_reader.py; None when the pipe ends."""
    size = pipe.read(4)
    if len(size) < 4:
        return None
    text = pipe.read(int.from_bytes(size, "big"))
    try:
        head = json.loads(text)
    except ValueError:
        return None  # cut off when the reader was killed
    planes = [pipe.read(count) for count in head.get("bytes", ())]
    if any(len(plane) != count for plane, count in zip(planes, head.get("bytes", ()), strict=True)):
        return None
    return head, planes


def _frame(head: dict[str, Any], planes: list[bytes]) -> av.VideoFrame:
    """The picture as a frame of FFmpeg's again; rows may be padded to another length than the sender's."""
    frame = av.VideoFrame(head["width"], head["height"], head["format"])
    for plane, line_bytes, data in zip(frame.planes, head["lines"], planes, strict=True):
        rows = np.frombuffer(data, np.uint8).reshape(-1, line_bytes)
        ours = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        width = min(line_bytes, plane.line_size)
        ours[: len(rows), :width] = rows[: len(ours), :width]
    return frame
