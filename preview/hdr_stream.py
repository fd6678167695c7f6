"""HDR stream: frames that are played, as pieces of 10-bit video for the browser. Encoded beside the lanes; what does not fit in is left out."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction

from pipeline.errors import SunvisorError
from preview.hdr_video import EncoderStalled, Fragment, HdrVideo
from preview.outbox import Outbox
from preview.pictures import Made
from preview.stills import cores

WAITING_FRAMES = 2


class HdrStream:
    """codec: "av1" or "hevc"; rate: of the source; on_error: told why there is no more video, once; nothing is sent after that"""

    def __init__(self, outbox: Outbox, codec: str, rate: Fraction, on_error: Callable[[str], None]) -> None:
        self.codec = codec
        self._outbox, self._rate, self._on_error = outbox, rate, on_error
        self._frames: queue.Queue[tuple[Made, float] | None] = queue.Queue(WAITING_FRAMES)
        self._video: HdrVideo | None = None
        self._shape: tuple = ()
        self._numbers: list[int] = []
        self._seconds = -1.0
        self._whole = True
        self._finishing: bool | None = None  # known once it is closed
        self._thread = threading.Thread(target=self._run, name="hdr video", daemon=True)
        self._thread.start()

    def write(self, made: Made, seconds: float) -> None:
        """A frame that is shown; left out when those before are still being encoded."""
        try:
            self._frames.put_nowait((made, seconds))
        except queue.Full:
            return

    def close(self, *, finish: bool = False) -> None:
        """End the encoder. finish: send the frames that are still on their way in it; else they are lost"""
        self._finishing = finish
        while self._thread.is_alive():
            try:
                self._frames.put(None, timeout=0.05)
            except queue.Full:
                continue
            self._thread.join()

    def _run(self) -> None:
        ended = False
        try:
            while (item := self._frames.get()) is not None:
                if self._finishing is not False:
                    self._try(*item)
            ended = True
            if self._finishing and self._whole and self._video is not None:
                with suppress(EncoderStalled):
                    self._send(self._video.codec_string, self._video.close())
        except Exception as error:  # noqa: BLE001 - told
            self._on_error(str(error) if isinstance(error, SunvisorError) else f"{type(error).__name__}: {error}")
            self._abandon()
            while not ended:
                ended = self._frames.get() is None
        finally:
            self._abandon()

    def _try(self, made: Made, seconds: float) -> None:
        """Encode it; when the encoder stalls, what was on its way in it is left out, and the next frame begins a new run."""
        try:
            self._encode(made, seconds)
        except EncoderStalled:
            self._abandon()

    def _encode(self, made: Made, seconds: float) -> None:
        """A new run of video where the picture's size or its transfer is another, time goes back, or a piece was left out.

        It begins once the client has room for it: an encoder for each frame that is thrown away would make a slow machine slower.
        """
        shape = (made.width, made.height, made.out)
        if self._video is None or shape != self._shape or seconds <= self._seconds or not self._whole:
            self._abandon()
            if not self._outbox.has_room_for_video():
                return
            self._shape, self._whole, self._numbers = shape, True, []
            self._video = HdrVideo(
                made.width,
                made.height,
                self._rate,
                made.out.transfer,
                self.codec,
                peak_nits=made.out.peak_nits,
                threads=max(1, cores() // 2),
            )
        self._seconds = seconds
        self._numbers.append(made.number)
        self._send(self._video.codec_string, self._video.write(made.packed, seconds))

    def _send(self, codec: str, pieces: list[Fragment]) -> None:
        for piece in pieces:
            header = {"codec": codec, "init": piece.init, "seconds": piece.seconds}
            header["first_frame"] = self._numbers[piece.first_frame]
            header["duration_seconds"] = piece.duration_seconds
            self._whole &= self._outbox.fragment(header, piece.data)

    def _abandon(self) -> None:
        if self._video is not None:
            self._video.abandon()
            self._video = None
