"""ProRes and FFV1 outputs: what ffprobe and mediainfo see, lossless planes, the same bytes, and what is refused."""

from __future__ import annotations

import hashlib
import subprocess
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch

from configs.schema import load_config
from pipeline import encode, span_job, span_parts
from pipeline.boxes import CleanAperture
from pipeline.color import OutputSpec, pack
from pipeline.convert import convert
from pipeline.encode import SpanEncoder, check_span
from pipeline.encoder_choice import EncoderChoice, resolve_encoder
from pipeline.errors import ConversionError, InputError
from pipeline.prepare import choose_container
from pipeline.verify import verify
from tests import oracles
from tests.clips import make_clip
from workers.jobs import find_jobs

WORDS = ["model=neutral", "temporal.radius=0", "span.target_seconds=0.6", "span.min_seconds=0.3"]
PTS = [0, 3003, 3500, 9009, 12012, 12013]
TAGS = {"color_space": "bt2020nc", "color_primaries": "bt2020", "color_range": "tv"}


def choose(codec: str, preset: str | None = None) -> EncoderChoice:
    asked = {"transfer": "pq", "encoder": "auto", "crf": None, "container": "auto"}
    return resolve_encoder(SimpleNamespace(codec=codec, preset=preset, **asked), "cpu")


def planes(codec: str, count: int, height: int, width: int) -> list[tuple[torch.Tensor, ...]]:
    """Packed frames of noise and structure, in the layout that the codec takes."""
    chance = torch.Generator().manual_seed(3)
    coarse = torch.rand((count, 3, height // 8 + 2, width // 8 + 2), generator=chance)
    light = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear") ** 3 * 3
    packed = pack(light, OutputSpec("pq", 203.0, 1000.0, choose(codec).chroma), torch.arange(count))
    return list(zip(*packed, strict=True))


def write(path: Path, choice: EncoderChoice, frames: list[tuple[torch.Tensor, ...]], *, threads: int = 1) -> Path:
    height, width = frames[0][0].shape
    shape = {"width": width, "height": height, "time_base": Fraction(1, 90000), "rate": Fraction(30)}
    with SpanEncoder(path, choice, **shape, sample_aspect_ratio=None, transfer="pq", threads=threads) as encoder:
        for (y, u, v), pts in zip(frames, PTS, strict=False):
            encoder.write(y, u, v, pts, 400)
    return path


def decoded(path: Path) -> list[list[torch.Tensor]]:
    with av.open(str(path)) as file:
        return [[torch.from_dlpack(plane).clone() for plane in frame.planes] for frame in file.decode(video=0)]


@pytest.mark.parametrize("size", [(2, 2), (14, 40), (16, 16), (50, 66), (96, 128)])
def test_ffv1_gives_every_plane_back_bit_for_bit(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = planes("ffv1", 4, *size)
    path = write(tmp_path / "span.mp4", choose("ffv1"), frames, threads=3)
    check_span(path, PTS[:4], [float(y.float().mean()) for y, _, _ in frames])
    for theirs, ours in zip(decoded(path), frames, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(theirs, ours, strict=True))
    with av.open(str(path)) as file:
        assert all(packet.is_keyframe for packet in file.demux(video=0) if packet.size)


def test_a_lossless_output_holds_what_the_encoder_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the engine's planes to the joined file, bit for bit; and they are those that HEVC gets."""
    given: list[list[torch.Tensor]] = []

    class Recording(SpanEncoder):
        def write(self, y: torch.Tensor, u: torch.Tensor, v: torch.Tensor, pts: int, duration: int) -> None:
            given.append([plane.clone() for plane in (y, u, v)])
            super().write(y, u, v, pts, duration)

    monkeypatch.setattr(span_parts, "SpanEncoder", Recording)
    source = make_clip(tmp_path / "a.mp4", frames=24, width=97, height=63, pix_fmt="yuv444p")
    for codec, name in (("ffv1", "o.mkv"), ("hevc", "o.mp4")):
        convert(source, tmp_path / name, load_config("dashcam", None, [*WORDS, f"output.codec={codec}"]))
    found = decoded(tmp_path / "o.mkv")
    assert len(found) == 24 and len(given) == 48
    for theirs, ours, hevc in zip(found, given[:24], given[24:], strict=True):
        assert all(torch.equal(*pair) for pair in zip(theirs, ours, strict=True))
        assert all(torch.equal(*pair) for pair in zip(ours, hevc, strict=True))


def test_a_flipped_bit_in_ffv1_is_noticed(tmp_path: Path) -> None:
    """Every slice carries a checksum: FFmpeg tells of it, and so does `verify`, which says where."""
    source = make_clip(tmp_path / "a.mp4", frames=12, width=96, height=64)
    output = tmp_path / "o.mkv"
    convert(source, output, load_config("dashcam", None, [*WORDS, "output.codec=ffv1"]))
    with av.open(str(output)) as file:
        packet = [bytes(packet) for packet in file.demux(video=0) if packet.size][7]
    data = bytearray(output.read_bytes())
    data[data.find(packet) + len(packet) // 2] ^= 1
    damaged = tmp_path / "damaged.mkv"
    damaged.write_bytes(data)
    for path, words in ((output, None), (damaged, "slice CRC mismatch")):
        command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:v", "-f", "null", "-"]
        said = subprocess.run(command, capture_output=True, text=True).stderr
        assert said == "" if words is None else words in said
    assert verify(source, output, full=True).ok
    found = next(check for check in verify(source, damaged, full=True).checks if check.name == "decode")
    assert not found.ok and found.detail.startswith("frame 7 (0.280 s) is damaged (slice CRC mismatch")


@pytest.mark.parametrize("preset", ["hq", "422"])
def test_prores_is_close_in_all_planes(tmp_path: Path, preset: str) -> None:
    """Within a code of 8 bits, that is 4 of 10, on average; every plane in its place."""
    frames = planes("prores", 4, 96, 128)
    path = write(tmp_path / "span.mov", choose("prores", preset), frames)
    check_span(path, PTS[:4], [float(y.float().mean()) for y, _, _ in frames])
    for theirs, ours in zip(decoded(path), frames, strict=True):
        for one, other in zip(theirs, ours, strict=True):
            assert one.shape == other.shape
            assert float((one.float() - other.float()).abs().mean()) < 4
    facts = oracles.ffprobe(path, "-show_streams")["streams"][0]
    assert facts["profile"] == {"hq": "HQ", "422": "Standard"}[preset]
    assert facts["codec_tag_string"] == {"hq": "apch", "422": "apcn"}[preset]


@pytest.mark.parametrize("codec", ["prores", "ffv1"])
def test_bytes_do_not_depend_on_threads(tmp_path: Path, codec: str) -> None:
    frames = planes(codec, 6, 190, 256)
    made = [write(tmp_path / f"{threads}.span", choose(codec), frames, threads=threads) for threads in (1, 2, 4)]
    assert len({hashlib.md5(path.read_bytes()).hexdigest() for path in made}) == 1


@pytest.mark.parametrize(("codec", "container"), [("prores", "mov"), ("prores", "mkv"), ("ffv1", "mkv")])
@pytest.mark.parametrize("transfer", ["pq", "hlg"])
@pytest.mark.parametrize("size", [(96, 64), (97, 63)])
def test_a_whole_conversion(tmp_path: Path, codec: str, container: str, transfer: str, size: tuple[int, int]) -> None:
    """Tags, static metadata, times, sound and shape, by ffprobe and mediainfo; and `verify` finds nothing to say."""
    odd = size[0] % 2
    source = make_clip(
        tmp_path / "a.mp4",
        pix_fmt="yuv444p" if odd else "yuv420p",
        frames=24,
        width=size[0],
        height=size[1],
        audio=True,
        sample_aspect_ratio=Fraction(4, 3),
    )
    output = tmp_path / f"o.{container}"
    words = [*WORDS, f"output.codec={codec}", f"output.transfer={transfer}"]
    report = convert(source, output, load_config("dashcam", None, words))
    found = verify(source, output, full=True)
    assert found.ok, [check for check in found.checks if not check.ok]
    stream = oracles.ffprobe(output, "-select_streams", "v:0", "-show_streams")["streams"][0]
    assert {name: stream.get(name) for name in TAGS} == TAGS
    assert stream["color_transfer"] == {"pq": "smpte2084", "hlg": "arib-std-b67"}[transfer]
    assert stream["pix_fmt"] == ("yuv422p10le" if codec == "prores" else "yuv420p10le")
    if container == "mov":
        assert stream["sample_aspect_ratio"] == "4:3"
    else:
        assert any("the shape 4/3" in warning for warning in report.warnings)
    if codec == "ffv1":
        assert stream["chroma_location"] == "topleft"
    coded = [side + side % 2 for side in size]
    assert [stream["width"], stream["height"]] == coded
    seen = oracles.mediainfo(output)
    assert seen["Format"] == {"prores": "ProRes", "ffv1": "FFV1"}[codec]
    assert seen["transfer_characteristics"] == {"pq": "PQ", "hlg": "HLG"}[transfer]
    assert seen["colour_primaries"] == "BT.2020"
    kinds = {side["side_data_type"]: side for side in stream.get("side_data_list", [])}
    if transfer == "pq":
        assert kinds["Content light level metadata"]["max_content"] == report.max_cll_nits
        assert Fraction(kinds["Mastering display metadata"]["max_luminance"]) == 1000
        assert int(seen["MaxCLL"].split()[0]) == report.max_cll_nits
        assert int(seen["MaxFALL"].split()[0]) == report.max_fall_nits
    else:
        assert not {"Content light level metadata", "Mastering display metadata"} & kinds.keys()
    if odd:
        head = output.read_bytes()
        if container == "mkv":  # PixelCropRight and PixelCropBottom, one byte each (RFC 9559, 5.1.4.1.28)
            assert b"\x54\xdd\x81\x01" in head and b"\x54\xaa\x81\x01" in head
        else:
            assert CleanAperture.top_left(size, (98, 64)).payload() in head
    times = oracles.frame_times(source)
    tick = Fraction(1, 2000) if container == "mkv" else 0
    pairs = zip(oracles.frame_times(output), times, strict=True)
    assert all(abs(ours - theirs) <= tick for ours, theirs in pairs)
    ours, theirs = oracles.packets(output, 1), oracles.packets(source, 1)
    assert [digest for _, digest in ours] == [digest for _, digest in theirs]


@pytest.mark.parametrize(
    ("codec", "name"), [pytest.param("prores", "o.mov", marks=pytest.mark.long), ("ffv1", "o.mkv")]
)
def test_threads_and_a_stop_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, name: str
) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=40, width=96, height=64, gop=13)
    config = load_config("dashcam", None, [*WORDS, f"output.codec={codec}"])
    outputs = [tmp_path / str(threads) / name for threads in (1, 4)]
    for threads, output in zip((1, 4), outputs, strict=True):
        convert(source, output, config, threads=threads)
    stopped = tmp_path / "stopped" / name
    calls = []

    def dying(*args: object, **options: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        encode.check_span(*args, **options)

    monkeypatch.setattr(span_job, "check_span", dying)
    with pytest.raises(KeyboardInterrupt):
        convert(source, stopped, config)
    monkeypatch.undo()
    report = convert(source, stopped, config)
    assert report.spans_reused == 1
    assert len(set(oracles.digest([*outputs, stopped]))) == 1


@pytest.mark.parametrize(
    ("codec", "name", "says"),
    [
        ("prores", "o.mp4", "legal endings: .mov, .mkv"),
        ("ffv1", "o.mp4", "legal endings: .mkv"),
        ("ffv1", "o.mov", "legal endings: .mkv"),
        ("av1", "o.mov", "legal endings: .mp4, .mkv"),
    ],
)
def test_containers_that_do_not_hold_a_codec_are_refused(codec: str, name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        choose_container(Path(name), "auto", codec)
    with pytest.raises(InputError, match=r"legal values of output\.container"):
        resolve_encoder(
            SimpleNamespace(
                transfer="pq", codec=codec, encoder="auto", crf=None, preset=None, container=Path(name).suffix[1:]
            ),
            "cpu",
        )


@pytest.mark.parametrize(("codec", "legal"), [("prores", "hq, 422"), ("ffv1", "lossless")])
def test_settings_of_other_encoders_are_refused(codec: str, legal: str) -> None:
    with pytest.raises(InputError, match=f"legal values: {legal}"):
        choose(codec, "veryfast")
    asked = {"transfer": "pq", "encoder": "auto", "preset": None, "container": "auto"}
    with pytest.raises(InputError, match="null"):
        resolve_encoder(SimpleNamespace(codec=codec, crf=10, **asked), "cpu")
    with pytest.raises(InputError, match=f"legal values: auto, {choose(codec).encoder}"):
        resolve_encoder(SimpleNamespace(codec=codec, crf=None, **asked | {"encoder": "libx265"}), "cpu")


@pytest.mark.parametrize(("codec", "suffix"), [("hevc", ".mp4"), ("prores", ".mov"), ("ffv1", ".mkv")])
def test_outputs_in_a_folder_get_the_codecs_own_container(tmp_path: Path, codec: str, suffix: str) -> None:
    for name in ("a.mp4", "b.mov"):
        (tmp_path / name).touch()
    jobs, _ = find_jobs([str(tmp_path)], tmp_path / "out", "auto", "none", codec)
    assert sorted(job.output.name for job in jobs) == [f"a{suffix}", f"b{suffix}"]


def test_a_span_of_another_ffv1_is_not_joined(tmp_path: Path) -> None:
    """The header of the joined file is made anew; it must be the one that the spans were written with."""
    from pipeline.boxes import complete_header, template_stream

    path = tmp_path / "span.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        stream.options = {"level": "3", "slices": "4"}
        out.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p10le")))
        out.mux(stream.encode(None))
    with av.open(str(path)) as spans, av.open(str(tmp_path / "o.mkv"), "w") as out:
        coded = spans.streams.video[0]
        holder, template = template_stream(coded, None, None, None, "mkv")
        made = out.add_stream_from_template(template, opaque=False)
        with pytest.raises(ConversionError, match="set up otherwise"):
            complete_header(made, coded)
        holder.close()
