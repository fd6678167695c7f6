"""Codec delay: telling a Matroska file that the start of an audio track (encoder priming) is not to be heard.

mp4 hides it with an edit list, Matroska with the element CodecDelay (RFC 9559, 5.1.4.1.25), which FFmpeg writes from a codec
parameter that PyAV cannot set. So a small Matroska file is made in memory, the element is put into its header over a track name
of the same length, and the track is opened again: FFmpeg then has the parameter.
"""

from __future__ import annotations

import io
import struct

import av
from av.audio.stream import AudioStream
from av.container import Flags, InputContainer

from pipeline.errors import ConversionError

NAME_ELEMENT = b"\x53\x6e\x88"
CODEC_DELAY_ELEMENT = b"\x56\xaa\x88"
PLACEHOLDER = "CODECDLY"


def delayed_template(
    stream: AudioStream, packet: av.Packet, hidden_seconds: float
) -> tuple[InputContainer, AudioStream]:
    """A stream like `stream` whose first `hidden_seconds` are declared as not to be heard.

    packet: any packet of the stream (a Matroska file without one does not open)
    Use the result as a template and close the container after the output is closed.
    Raises ConversionError when the codec is none that Matroska holds.
    """
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="matroska", options={"write_crc32": "0"}) as out:
            out.flags |= Flags.bitexact.value
            made = out.add_stream_from_template(stream, opaque=True)
            made.metadata.clear()
            made.metadata["title"] = PLACEHOLDER
            sample = av.Packet(bytes(packet))
            sample.pts = sample.dts = 0
            sample.time_base, sample.stream = stream.time_base, made
            out.mux_one(sample)
        delay = struct.pack(">Q", round(hidden_seconds * 1_000_000_000))
        marked = NAME_ELEMENT + PLACEHOLDER.encode()
        holder = av.open(io.BytesIO(buffer.getvalue().replace(marked, CODEC_DELAY_ELEMENT + delay, 1)))
    except (av.FFmpegError, ValueError) as error:
        raise ConversionError(f"stream {stream.index}: Matroska does not take this audio ({error}).") from error
    return holder, holder.streams.audio[0]
