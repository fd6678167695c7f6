"""Nits: the frames of a video, HDR or SDR, as light."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from pipeline import transfer
from pipeline.color import bt2020_to_bt709, unpack
from pipeline.errors import InputError
from pipeline.heartbeat import beat
from pipeline.planes import frame_planes
from pipeline.probe import StreamInfo, hdr_reason, probe, read_color
from pipeline.source import open_source
from pipeline.source_color import LAYOUTS

Array = np.ndarray
HDR_TRANSFERS = ("smpte2084", "arib-std-b67")


def read_nits(path: Path, white_nits: float = 203.0) -> Iterator[Array]:
    """Frames of a video's first stream as light in nits (H,W,3) float32, BT.709 primaries (colours outside them are negative).

    PQ and HLG (on the 1000-nit display) as tagged; untagged chroma is taken as top-left, as BT.2100 has it. Any other video is SDR:
    what a reference display (BT.1886) shows, its white at `white_nits`; untagged colours are read by the rules of `convert`.
    Raises InputError for what is no readable video, and for another kind of HDR.
    """
    stream = probe(path).video_streams[0]
    hdr = stream.transfer_tag in HDR_TRANSFERS
    reason = hdr_reason(stream)
    if reason and not hdr:
        raise InputError(f"{path}: {reason}; scoring reads PQ, HLG and SDR.")
    if hdr and stream.chroma_location_tag is None:
        stream = replace(stream, chroma_location_tag="topleft")
    spec, _ = read_color(stream, {"transfer": "linear" if hdr else "bt1886"})
    if hdr and spec.primaries != "bt2020":
        raise InputError(
            f"{path}: its transfer is {stream.transfer_tag} but its primaries are {spec.primaries}, not BT.2020."
        )
    for frame in _frames(path, stream):
        layout = LAYOUTS.get(frame.format.name)
        if layout is None:
            raise InputError(f"{path}: pixels of {frame.format.name} cannot be read; legal are {', '.join(LAYOUTS)}.")
        planes = tuple(plane[None] for plane in frame_planes(frame))
        if not hdr:
            yield (unpack(planes, layout, spec)[0] * white_nits).permute(1, 2, 0).numpy()
            continue
        signal = unpack(
            planes, layout, replace(spec, primaries="bt709")
        )  # codes have no light yet: leave the primaries be
        if stream.transfer_tag == "smpte2084":
            for channel in signal[0]:
                transfer.PQ_DECODE.apply_(channel)
        else:
            transfer.hlg_decode_(signal[0, 0], signal[0, 1], signal[0, 2])
        yield bt2020_to_bt709(signal)[0].permute(1, 2, 0).numpy()


def count_frames(path: Path) -> int:
    """Number of frames of a video's first stream, by decoding it. InputError as `read_nits`."""
    return sum(1 for _ in _frames(path, probe(path).video_streams[0]))


def _frames(path: Path, stream: StreamInfo) -> Iterator[av.VideoFrame]:
    with open_source(path) as container:
        try:
            for frame in container.decode(container.streams[stream.index]):
                beat()
                yield frame
        except av.FFmpegError as error:
            raise InputError(f"{path}: it cannot be decoded to its end ({error.strerror}).") from error
