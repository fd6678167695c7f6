"""Does the output say what it is? Colour tags and HDR10 metadata, in the bitstream and in the container, and whether they agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
from av.stream import Discard

from pipeline.bitstream_tags import SignalTags, av1_tags, hevc_parameter_units, hevc_tags, prores_tags
from pipeline.container_tags import ContainerTags, read_container_tags
from pipeline.errors import ConversionError
from pipeline.hdr10 import IN_PACKETS, ContentLight, MasteringDisplay, StaticMetadata, read_hevc_sei, read_packet
from pipeline.heartbeat import beat
from pipeline.nal import join_hevc
from pipeline.verify_packets import open_video
from pipeline.verify_report import Check

BT2020_PRIMARIES = BT2020_NCL_MATRIX = 9
TRANSFERS = {"pq": 16, "hlg": 18}
TRANSFER_NAMES = {1: "BT.709", 6: "BT.601", 13: "sRGB", 16: "PQ", 18: "HLG"}
SAMPLE_ENTRIES = {"hevc": ("hvc1",), "av1": ("av01",), "prores": ("apch", "apcn"), "ffv1": ("FFV1",)}
CODECS = tuple(SAMPLE_ENTRIES)
READERS = {"hevc": hevc_tags, "av1": av1_tags, "prores": prores_tags}
"""Codec -> what reads the colours in its packets; FFV1 has none there."""


@dataclass(frozen=True)
class OutputTags:
    """Everything that the output says of one of its HDR video tracks, unjudged.

    codec: FFmpeg's name; those of READERS have bitstream tags here, and those of IN_PACKETS metadata
    keyframes: (seconds, tags, metadata) of every keyframe packet
    in_header: metadata in the decoder configuration (hvcC), which decoders may take instead of the keyframes'
    problem: the first packet that could not be parsed, in words
    """

    codec: str
    container: ContainerTags | None
    keyframes: list[tuple[float, SignalTags | None, StaticMetadata]]
    in_header: StaticMetadata
    problem: str | None

    @property
    def transfer(self) -> str | None:
        """ "pq" or "hlg", as the container or else the first keyframe says; None when neither calls it HDR."""
        names = {number: name for name, number in TRANSFERS.items()}
        stated = [self.container.signal] if self.container else []
        stated += [tags for _, tags, _ in self.keyframes[:1] if tags]
        return next((names[tags.transfer] for tags in stated if tags.transfer in names), None)


def read_tags(path: Path, stream_index: int) -> OutputTags:
    """Read the tags of one video stream from its container and from every keyframe.

    Raises InputError when the file cannot be opened.
    """
    keyframes: list[tuple[float, SignalTags | None, StaticMetadata]] = []
    problem = None
    in_header = StaticMetadata(None, None)
    with open_video(path, "output") as container:
        stream = container.streams[stream_index]
        codec = stream.codec_context.codec.canonical_name
        extradata = bytes(stream.codec_context.extradata or b"")
        track_id = stream.id
        for other in container.streams:
            other.discard = Discard.nonkey if other is stream else Discard.all
        try:
            if codec == "hevc":
                in_header = read_hevc_sei(join_hevc(hevc_parameter_units(extradata)))
            for packet in container.demux(stream) if codec in READERS else ():
                beat()
                if not packet.size or not packet.is_keyframe:
                    continue
                payload, seconds = bytes(packet), float((packet.pts or 0) * packet.time_base)
                found = read_packet(codec, payload) if codec in IN_PACKETS else StaticMetadata(None, None)
                keyframes.append((seconds, READERS[codec](extradata, payload), found))
        except (av.FFmpegError, ConversionError, ValueError) as error:
            last = f"after the keyframe at {keyframes[-1][0]:.3f} s" if keyframes else "at the first keyframe"
            problem = f"reading the bitstream stops {last}: {error}"
    try:
        stated = read_container_tags(path, stream_index, track_id)
    except ConversionError as error:
        stated, problem = None, problem or f"the container's tags cannot be read: {error}"
    return OutputTags(codec, stated, keyframes, in_header, problem)


def check_tags(
    tags: OutputTags, *, transfer: str, peak_nits: float | None, recorded: tuple[int, int] | None, prefix: str = ""
) -> list[Check]:
    """Judge the tags.

    transfer: "pq" or "hlg", what the output is meant to be
    peak_nits, recorded: mastering peak and (MaxCLL, MaxFALL) from the provenance, None when there is none
    """
    checks = [_container_check(tags, transfer, prefix), _bitstream_check(tags, transfer, prefix)]
    if transfer == "pq":
        checks.append(_pq_metadata(tags, peak_nits, recorded, prefix))
    else:
        checks.append(_hlg_metadata(tags, prefix))
    return checks


def _wrong(tags: SignalTags, transfer: str, where: str, *, must_state_siting: bool) -> list[str]:
    wrong = []
    if tags.primaries != BT2020_PRIMARIES:
        wrong.append(f"primaries are {tags.primaries} instead of 9 (BT.2020)")
    if tags.transfer != TRANSFERS[transfer]:
        name = TRANSFER_NAMES.get(tags.transfer or 2, "another")
        wrong.append(
            f"transfer is {tags.transfer} ({name}) instead of {TRANSFERS[transfer]} ({TRANSFER_NAMES[TRANSFERS[transfer]]})"
        )
    if tags.matrix != BT2020_NCL_MATRIX:
        wrong.append(f"matrix is {tags.matrix} instead of 9 (BT.2020 non-constant luminance)")
    if tags.full_range:
        wrong.append("range is full instead of limited")
    elif tags.full_range is None and must_state_siting:
        wrong.append("range is not stated")
    if tags.chroma_location != "topleft" and (must_state_siting or tags.chroma_location is not None):
        wrong.append(f"chroma location is {tags.chroma_location or 'not stated'} instead of topleft")
    return [f"{where}: {text}" for text in wrong]


def _container_check(tags: OutputTags, transfer: str, prefix: str) -> Check:
    name = f"{prefix}container tags"
    stated = tags.container
    if stated is None:
        return Check(name, False, "the file is no readable mp4, mov or Matroska file, so it states no colours.")
    wrong = _wrong(stated.signal, transfer, "the container", must_state_siting=False)
    wanted = SAMPLE_ENTRIES.get(tags.codec)
    if stated.codec_tag and wanted and stated.codec_tag not in wanted:
        legal = " or ".join(wanted)
        wrong.append(f"the sample entry is {stated.codec_tag} instead of {legal}, which some players refuse")
    if wrong:
        return Check(name, False, "; ".join(wrong) + ".")
    entry = f", sample entry {stated.codec_tag}" if stated.codec_tag else ""
    unsaid = "" if stated.signal.full_range is not None else " (this container has no place for the range)"
    return Check(
        name,
        True,
        f"BT.2020 primaries and matrix, {TRANSFER_NAMES[TRANSFERS[transfer]]}, limited range{unsaid}{entry}.",
    )


def _bitstream_check(tags: OutputTags, transfer: str, prefix: str) -> Check:
    name = f"{prefix}bitstream tags"
    if tags.codec not in CODECS:
        return Check(name, False, f"the codec is {tags.codec}; legal: {', '.join(CODECS)}.")
    if tags.codec not in READERS:
        return Check(name, True, f"{tags.codec} states no colours in its packets; the container does.")
    if tags.problem:
        return Check(name, False, f"{tags.problem}.")
    if not tags.keyframes:
        return Check(name, False, "there is no keyframe, so nothing states the colours.")
    more = ", limited range, top-left chroma" if tags.codec in IN_PACKETS else ""
    for seconds, stated, _ in tags.keyframes:
        where = f"keyframe at {seconds:.3f} s"
        if stated is None:
            return Check(name, False, f"{where}: no sequence header, so nothing states the colours.")
        wrong = _wrong(stated, transfer, where, must_state_siting=tags.codec in IN_PACKETS)
        if wrong:
            return Check(name, False, "; ".join(wrong) + ".")
    return Check(
        name,
        True,
        f"BT.2020 primaries and matrix, {TRANSFER_NAMES[TRANSFERS[transfer]]}{more} at {len(tags.keyframes)} keyframes.",
    )


def _pq_metadata(tags: OutputTags, peak_nits: float | None, recorded: tuple[int, int] | None, prefix: str) -> Check:
    name = f"{prefix}HDR10 metadata"
    stated = tags.container
    if stated is None or stated.mastering is None or stated.light is None:
        lost = "mastering display" if stated is None or stated.mastering is None else "MaxCLL/MaxFALL"
        return Check(name, False, f"the container states no {lost}.")
    if peak_nits is not None and not stated.mastering.matches(MasteringDisplay(peak_nits)):
        return Check(
            name,
            False,
            f"the container's mastering display is {_say(stated.mastering)}, not P3-D65 up to {peak_nits:g} nits.",
        )
    if recorded is not None and stated.light != (wanted := ContentLight(*(max(1, value) for value in recorded))):
        return Check(name, False, f"the container states {_say(stated.light)}, the provenance recorded {_say(wanted)}.")
    if tags.codec not in IN_PACKETS:
        return Check(
            name,
            True,
            f"{_say(stated.mastering)}, {_say(stated.light)}: in the container, as {tags.codec} has no place for it.",
        )
    places = [(f"the keyframe at {seconds:.3f} s", found) for seconds, _, found in tags.keyframes]
    if not places:
        return Check(name, False, "there is no keyframe that could carry the metadata.")
    header = tags.in_header
    if header.mastering or header.light:
        filled = StaticMetadata(header.mastering or stated.mastering, header.light or stated.light)
        places.append(("the decoder configuration (hvcC)", filled))
    for where, found in places:
        if found.mastering is None:
            return Check(name, False, f"{where} carries no mastering display.")
        if found.light is None:
            return Check(name, False, f"{where} carries no MaxCLL/MaxFALL.")
        if not found.mastering.matches(stated.mastering):
            return Check(name, False, f"{where} says {_say(found.mastering)}, the container {_say(stated.mastering)}.")
        if found.light != stated.light:
            return Check(name, False, f"{where} says {_say(found.light)}, the container {_say(stated.light)}.")
    return Check(
        name,
        True,
        f"{_say(stated.mastering)}, {_say(stated.light)}: the same in the container and at {len(tags.keyframes)} keyframes.",
    )


def _hlg_metadata(tags: OutputTags, prefix: str) -> Check:
    name = f"{prefix}HDR10 metadata"
    at = [f"keyframe at {seconds:.3f} s" for seconds, _, found in tags.keyframes if found.mastering]
    if tags.container and tags.container.mastering:
        at.insert(0, "container")
    if at:
        return Check(name, False, f"HLG carries no mastering display, but the {at[0]} does.")
    return Check(name, True, "HLG: no mastering display, as it should be.")


def _say(value: MasteringDisplay | ContentLight) -> str:
    if isinstance(value, ContentLight):
        return f"MaxCLL {value.max_cll_nits}, MaxFALL {value.max_fall_nits}"
    return f"mastering display {value.min_nits:g} to {value.peak_nits:g} nits"
