"""Damaged bytes for every reader of ours, in process. By hand, for longer: python -m tests.parser_attack [COUNT] [READER...]

A reader may return, or raise one of the errors that its callers catch. Anything else, such as an IndexError, is a bug.
"""

from __future__ import annotations

import io
import random
import re
import resource
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import av

from pipeline import boxes, moov
from pipeline.bitstream_tags import av1_tags, hevc_parameter_units, hevc_tags, nal_units, obus, prores_tags
from pipeline.container_tags import read_container_tags
from pipeline.errors import SunvisorError
from pipeline.hdr10 import ContentLight, MasteringDisplay, insert_av1, insert_hevc, read_av1_metadata, read_hevc_sei
from pipeline.hdr10 import av1_obus as metadata_obus
from pipeline.hdr10 import hevc_nals as metadata_nals
from pipeline.nal import read_leb128, remove_emulation_prevention, split_av1, split_hevc
from pipeline.telemetry.found import find_boxes
from pipeline.telemetry.gpmf import gpmf_fixes
from pipeline.telemetry.keep import plan_boxes
from pipeline.telemetry.manifest import Entry, manifest_path, write_manifest
from pipeline.telemetry.nmea import lines_of, nmea_fixes
from pipeline.telemetry.novatek import novatek_fix
from pipeline.telemetry.positions import positions
from pipeline.verify_boxes import box_checks, manifest_checks
from tests.camera_boxes import (
    BLACKVUE,
    BLACKVUE_TEXT,
    GOPRO,
    add_to_moov,
    box,
    gps9_packet,
    klv,
    novatek_block,
    with_loose_blocks,
    with_novatek,
)
from tests.clips import make_clip
from tests.mutations import mutate

LIGHT = (
    MasteringDisplay(1000.0, 0.005, (0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.3127, 0.329)),
    ContentLight(900, 90),
)
BOX_NAME = re.compile(rb"[A-Za-z\xa9][A-Za-z0-9 ]{3}")
SLOW_SECONDS = 2.0
"""Of CPU time for one example; they take a few milliseconds."""


@dataclass(frozen=True)
class Reader:
    """seeds: healthy bytes; read: what is attacked; raises: what its callers catch"""

    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]
    raises: tuple[type[Exception], ...] = (SunvisorError,)


def make_readers(folder: Path) -> dict[str, Reader]:
    """Every reader by name, with small healthy files made in `folder`, where each example of a file is written too."""
    plain = make_clip(folder / "plain.mp4", frames=4, audio=True, metadata={"location": "+52.5+013.4/"})
    hevc, colours = _headers(make_clip(folder / "hevc.mp4", "libx265", frames=4))
    av1, _ = _headers(make_clip(folder / "av1.mp4", "libsvtav1", frames=4))
    tagged = {"color_primaries": 9, "color_trc": 16, "colorspace": 9}
    matroska = make_clip(folder / "tags.mkv", "libx265", frames=4, pix_fmt="yuv420p10le", tags=tagged).read_bytes()
    patched = boxes.append_to_sample_entry(
        boxes.read_moov(folder / "hevc.mp4"),
        boxes.make_box("mdcv", LIGHT[0].payload())
        + boxes.make_box("clli", LIGHT[1].payload())
        + boxes.make_box("clap", boxes.CleanAperture.top_left((62, 46), (64, 48)).payload()),
    )
    chapters = box(b"tref", box(b"chap", struct.pack(">2I", 1, 2)))
    vendors = add_to_moov(plain.read_bytes(), GOPRO, udta=BLACKVUE, track_udta=GOPRO) + BLACKVUE
    cameras = (
        vendors,
        with_novatek(plain, [novatek_block(number) for number in range(4)], wrong=2),
        with_loose_blocks(plain, [novatek_block(1), novatek_block(2)]),
        _in_first_track(plain.read_bytes(), chapters),
    )
    gps5 = klv(b"SCAL", b"l", 4, struct.pack(">5i", *[10**7] * 2, 1000, 1000, 100)) + klv(
        b"GPSF", b"L", 4, struct.pack(">I", 3)
    )
    gps5 += klv(b"GPSU", b"U", 16, b"240506070809.500") + klv(b"GPS5", b"l", 20, struct.pack(">10i", *[515083333] * 10))
    gps5 = klv(b"DEVC", b"\0", 1, klv(b"STRM", b"\0", 1, gps5))
    lit_hevc = insert_hevc(hevc[1], metadata_nals(*LIGHT))
    lit_av1 = insert_av1(av1[1], metadata_obus(*LIGHT))
    samples = tuple(boxes.make_box("ftyp", b"isom\0\0\0\0") + data for data in (patched, colours))
    files = _Files(folder)
    return {
        "novatek": Reader((novatek_block(1), novatek_block(2, base=16)), novatek_fix, ()),
        "gpmf": Reader((gps5, gps9_packet()), lambda data: list(gpmf_fixes([(data, 1.0)])), ()),
        "nmea": Reader((BLACKVUE_TEXT,), lambda data: list(nmea_fixes(lines_of(_halves(data)))), ()),
        "camera files": Reader(cameras, files.camera),
        "moov": Reader(cameras[:1] + cameras[3:], lambda data: moov.track_tags(io.BytesIO(data))),
        "verify boxes": Reader(cameras, files.verify),
        "manifest": Reader((files.manifest,), files.judge_manifest),
        "sample entries": Reader(samples, lambda data: [boxes.read_boxes(data, track) for track in (0, 1)]),
        "moov of boxes": Reader(samples, files.moov_of_boxes),
        "container tags": Reader((*samples, matroska), files.container_tags),
        "HEVC units": Reader((lit_hevc,), lambda data: (split_hevc(data), read_hevc_sei(data))),
        "AV1 units": Reader(
            (lit_av1,), lambda data: (list(split_av1(data)), read_av1_metadata(data), read_leb128(data, 0))
        ),
        "emulation prevention": Reader((lit_hevc,), remove_emulation_prevention, ()),
        "HEVC tags": Reader(
            (*hevc, hevc[1] + hevc[1]), lambda data: (hevc_tags(data, hevc[1]), hevc_tags(b"", data)), (ValueError,)
        ),
        "HEVC record": Reader(hevc[:1], lambda data: (hevc_parameter_units(data), list(nal_units(data))), ()),
        "AV1 tags": Reader(
            av1, lambda data: (list(obus(data)), av1_tags(data, b""), av1_tags(b"", data)), (ValueError,)
        ),
        "ProRes tags": Reader((b"\0\0\1\0icpf" + bytes(60),), lambda data: prores_tags(b"", data), ()),
    }


def attack(name: str, reader: Reader, count: int) -> list[str]:
    """What went wrong with `count` examples, each always the same, in words."""
    wrong = []
    for number in range(count):
        data = example(reader.seeds, random.Random(f"{name} {number}"))
        began = time.process_time()
        try:
            reader.read(data)
        except reader.raises:
            pass
        except Exception:  # noqa: BLE001 - this is what is looked for
            wrong.append(f"{name} {number}: {traceback.format_exc(limit=-3)}")
        if (spent := time.process_time() - began) > SLOW_SECONDS:
            wrong.append(f"{name} {number}: {spent:.1f} s for {len(data)} bytes")
    return wrong


def example(seeds: tuple[bytes, ...], chance: random.Random) -> bytes:
    """A healthy seed with damage, mostly; noise, or a seed in which a piece is one byte again and again, now and then."""
    seed, other = chance.choice(seeds), chance.choice(seeds)
    kind = chance.random()
    if kind < 0.05:
        return chance.randbytes(chance.choice((0, 1, 3, 8, 16, 40, 300)))
    if kind < 0.15:
        at, fill = chance.randrange(len(seed) + 1), bytes([chance.choice((0, 1, 0x40, 0x80, 0xFF))])
        return seed[:at] + fill * chance.choice((1, 2, 3, 7, 100, 70_000)) + seed[at:]
    if kind < 0.25:
        return seed[: chance.randrange(len(seed) + 1)]
    if len(seed) >= 64 and kind < 0.7:
        return mutate(seed, other, chance)
    data = bytearray(seed)
    if kind < 0.9 and (names := [found.start() for found in BOX_NAME.finditer(seed) if found.start() >= 4]):
        at = chance.choice(names) - 4
        size = int.from_bytes(data[at : at + 4], "big") + chance.choice((-9, -8, -4, -1, 1, 2, 8))
        data[at : at + 4] = (size & 0xFFFFFFFF).to_bytes(4, "big")
        return bytes(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        data[chance.randrange(len(data))] = chance.choice((0, 1, 2, 7, 8, 127, 128, 254, 255, chance.randrange(256)))
    return bytes(data)


def _halves(data: bytes) -> Iterable[bytes]:
    return data[: len(data) // 2], data[len(data) // 2 :]


def _headers(path: Path) -> tuple[tuple[bytes, bytes], bytes]:
    """((extradata, first packet), moov box) of a clip."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packet = next(packet for packet in container.demux(stream) if packet.size)
        return (bytes(stream.codec_context.extradata), bytes(packet)), boxes.read_moov(path)


def _in_first_track(data: bytes, extra: bytes) -> bytes:
    """The file with boxes in its first track, whose moov is last."""
    whole = bytearray(data)
    with io.BytesIO(data) as file:
        found = moov.read_moov(file)
    assert found is not None
    inner = bytearray(found[1])
    track = moov.tracks(inner)[0]
    moov.resize(inner, [next(moov.boxes(inner, 0, len(inner))), track], track.end, extra)
    whole[found[0] :] = inner
    return bytes(whole)


class _Files:
    """Readers that want a file."""

    def __init__(self, folder: Path) -> None:
        self._path, self._output = folder / "example.mp4", folder / "output.mp4"
        self._output.write_bytes(add_to_moov((folder / "plain.mp4").read_bytes(), GOPRO))
        found = find_boxes(self._output)
        beside = folder / "output.telemetry.bin"
        beside.write_bytes(BLACKVUE)
        entries = [Entry("box", one.name, one.what, "kept", "output", "it fits", one.size, one.sha256) for one in found]
        entries.append(Entry("box", "file/free", "", "moved", beside.name, "", len(BLACKVUE), "0" * 64, 0))
        entries.append(Entry("file", "a.srt", "companion file", "copied", "output.srt", "", 3, "0" * 64))
        self.manifest = write_manifest(self._path, self._output, entries).read_bytes()

    def camera(self, data: bytes) -> None:
        self._path.write_bytes(data)
        found = find_boxes(self._path)
        assert all(start >= 0 and start + size <= len(data) for one in found for start, size in one.spans)
        for container in ("mp4", "mkv"):
            plan_boxes(found, container, {one.track for one in found if one.track is not None})
        for _, fixes in positions(self._path, found, (), {}):
            assert all(abs(fix.latitude) <= 90 and abs(fix.longitude) <= 180 for fix in fixes)
        assert all(one.name for one in found)

    def verify(self, data: bytes) -> None:
        self._path.write_bytes(data)
        box_checks(self._path, self._output)
        box_checks(self._output, self._path)

    def judge_manifest(self, data: bytes) -> None:
        manifest_path(self._output).write_bytes(data)
        manifest_checks(self._output)
        box_checks(self._output, self._output)

    def moov_of_boxes(self, data: bytes) -> None:
        self._path.write_bytes(data)
        boxes.read_moov(self._path)

    def container_tags(self, data: bytes) -> None:
        self._path.write_bytes(data)
        for track in (0, 1, 2):
            read_container_tags(self._path, track, track)


def main(words: list[str]) -> int:
    """The number of readers that failed."""
    count = int(words[0]) if words else 20_000
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, reader in make_readers(Path(folder)).items():
            if words[1:] and name not in words[1:]:
                continue
            began = time.process_time()
            wrong = attack(name, reader, count)
            failed += bool(wrong)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            seconds = time.process_time() - began
            sys.stdout.write(f"{name}: {count} examples, {len(wrong)} wrong, {seconds:.1f} s, peak {peak:.0f} MB\n")
            sys.stdout.write("".join(f"  {text}\n" for text in wrong[:4]))
            sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
