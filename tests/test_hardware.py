"""What runs on hardware and what does not: the choice says why, and NVDEC that does not open gives way to software unasked."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch

from configs.schema import load_config
from pipeline import hardware
from pipeline.batching import DeviceMemoryError
from pipeline.color import PixelLayout
from pipeline.decode import DecodedFrame, DecodeReport, decode_span
from pipeline.encoder_choice import SOFTWARE, EncoderChoice, resolve_encoder, trial_encoder
from pipeline.errors import InputError
from pipeline.hardware import GPU, HOST, choose_decoder, encoder_memory, encoder_used, p010_planes, split_planes
from pipeline.index import build_index
from pipeline.plan import cut_spans
from pipeline.planes import frame_planes
from pipeline.priority import usual_priority
from tests.clips import make_clip, picture

EIGHT = PixelLayout("420", 8)


@pytest.mark.parametrize(
    ("wanted", "device", "codec", "layout", "size", "deinterlace", "reason"),
    [
        ("software", "cuda", "h264", EIGHT, (64, 48), False, "input.decoder=software"),
        ("nvdec", "cpu", "h264", EIGHT, (64, 48), False, "frames are wanted on the CPU"),
        ("nvdec", "cuda", "h264", EIGHT, (64, 48), True, "deinterlacing works on the CPU"),
        ("nvdec", "cuda", "h264", PixelLayout("422", 8), (64, 48), False, "422 of 8 bits"),
        ("nvdec", "cuda", "h264", PixelLayout("420", 12), (64, 48), False, "420 of 12 bits"),
        ("nvdec", "cuda", "h264", EIGHT, (65, 48), False, "65x48"),
        ("nvdec", "cuda", "prores", EIGHT, (64, 48), False, "no NVDEC for prores"),
        ("nvdec", "cuda", "no such decoder", EIGHT, (64, 48), False, "no NVDEC for no such decoder"),
    ],
)
def test_software_decodes_what_nvdec_cannot_and_the_reason_is_printed(
    wanted: str, device: str, codec: str, layout: PixelLayout, size: tuple[int, int], deinterlace: bool, reason: str
) -> None:
    choice = choose_decoder(wanted, device, codec, layout, size, deinterlace)
    assert choice.taken == "software"
    assert reason in str(choice)


def test_nvdec_is_chosen_where_it_opens_and_not_where_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(hardware, "_touch_gpu", lambda: None)
    monkeypatch.setattr(hardware.av.CodecContext, "create", lambda codec, mode, accel: opened.append((codec, mode)))
    assert choose_decoder("nvdec", "cuda", "hevc", EIGHT, (64, 48), False).taken == "nvdec"
    assert opened == [("hevc", "r")]

    def refuse(*_: object) -> None:
        raise av.error.PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(hardware.av.CodecContext, "create", refuse)
    choice = choose_decoder("nvdec", "cuda", "hevc", EIGHT, (64, 48), False)
    assert choice.taken == "software" and "does not open" in choice.reason and "not permitted" in choice.reason


def test_a_machine_without_a_gpu_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    choice = choose_decoder("nvdec", "cuda", "h264", EIGHT, (64, 48), False)
    assert choice.taken == "software" and "NVDEC does not open" in str(choice)


@pytest.mark.parametrize("name", ["nv12", "p010le"])
def test_planes_of_gpu_frames_are_split_as_those_of_the_same_software_frames(name: str) -> None:
    frame = picture(3, 64, 48).reformat(format=name)
    luma, chroma = (torch.from_dlpack(plane.__dlpack__()) for plane in frame.planes)
    assert hardware.software_format(frame) == name
    for ours, theirs in zip(split_planes(luma, chroma, hardware.SHIFTS[name]), frame_planes(frame), strict=True):
        assert ours.dtype == theirs.dtype and ours.is_contiguous()
        assert torch.equal(ours, theirs)


def decoded(clip: Path, decoder: str, number: int = 0) -> tuple[list[DecodedFrame], DecodeReport]:
    index, report = build_index(clip, 0, None), DecodeReport()
    spans = cut_spans(index, target_seconds=0.5, min_seconds=0.25, max_seconds=1, lead_in=0, lead_out=0)
    frames = decode_span(clip, 0, index, spans[number], deinterlace=False, decoder=decoder, report=report)
    return list(frames), report


def same(ours: list[DecodedFrame], theirs: list[DecodedFrame]) -> bool:
    return [frame.pts for frame in ours] == [frame.pts for frame in theirs] and all(
        torch.equal(one.cpu(), other)
        for left, right in zip(ours, theirs, strict=True)
        for one, other in zip(left.planes, right.planes, strict=True)
    )


def test_nvdec_that_does_not_open_gives_way_to_software(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise RuntimeError("no driver")

    clip = make_clip(tmp_path / "a.mp4")
    monkeypatch.setattr(hardware, "open_on_gpu", refuse)
    wanted, plain = decoded(clip, "software")
    ours, report = decoded(clip, "nvdec")
    assert same(ours, wanted)
    assert "no driver" in report.no_nvdec and plain.no_nvdec == ""


def test_a_stream_that_nvdec_refuses_from_the_first_packet_is_decoded_by_software(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unsupported profile: the container opens, every packet is refused. So with another codec's stream in its place."""
    clip = make_clip(tmp_path / "a.mp4")
    deaf = make_clip(tmp_path / "deaf.mkv", "mpeg4", bframes=0)
    monkeypatch.setattr(hardware, "open_on_gpu", lambda path: av.open(str(deaf)))
    monkeypatch.setattr(hardware, "gpu_planes", frame_planes)
    monkeypatch.setattr("pipeline.decode.read_packets", refused_first(deaf))
    ours, report = decoded(clip, "nvdec", 1)
    assert same(ours, decoded(clip, "software", 1)[0])
    assert "gives no frame" in report.no_nvdec
    assert report.damaged_packets == [] and report.repeated_pts == []


def refused_first(deaf: Path) -> object:
    """read_packets, whose packets are rubbish for one container."""
    from pipeline.packets import read_packets

    def read(path: Path, container: av.container.InputContainer, stream: object, *rest: object) -> object:
        if container.name != str(deaf):
            yield from read_packets(path, container, stream, *rest)
            return
        for number in range(5):
            packet = av.Packet(b"\xff" * 40)
            packet.pts = packet.dts = number
            yield number, packet

    return read


def test_frames_of_the_gpu_come_out_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "a.mp4")
    monkeypatch.setattr(hardware, "open_on_gpu", lambda path: av.open(str(path)))
    monkeypatch.setattr(hardware, "gpu_planes", frame_planes)
    ours, report = decoded(clip, "nvdec", 1)
    assert same(ours, decoded(clip, "software", 1)[0])
    assert report.no_nvdec == ""


def test_the_encoder_is_named_in_the_same_words() -> None:
    text = str(encoder_used(resolve_encoder(load_config().output, "cpu")))
    assert text.startswith("encoder: libx265 (software) (output.encoder=auto")


@pytest.mark.parametrize("size", [(64, 48), (66, 50), (2, 2), (642, 36)])
def test_p010_is_the_one_that_ffmpeg_makes_and_lies_in_one_piece(size: tuple[int, int]) -> None:
    width, height = size
    chance = torch.Generator().manual_seed(width)
    sizes = [(height, width), *[(height // 2, width // 2)] * 2]
    y, u, v = (torch.randint(0, 1024, one, generator=chance).to(torch.uint16) for one in sizes)
    theirs = av.VideoFrame.from_dlpack((y, u, v), format="yuv420p10le").reformat(format="p010le")
    luma, chroma = p010_planes(y, u, v)
    ours = av.VideoFrame.from_dlpack((luma, chroma), format="p010le")
    for one, other in zip(ours.planes, theirs.planes, strict=True):
        assert torch.equal(*(torch.from_dlpack(plane.__dlpack__()).view(torch.int16) for plane in (one, other)))
    pitch = ours.planes[0].line_size
    assert pitch == ours.planes[1].line_size and pitch % 256 == 0 and pitch >= 2 * width
    assert chroma.data_ptr() - luma.data_ptr() == pitch * height


NVENC = EncoderChoice("hevc", "hevc_nvenc", 17, "p5", {}, "a test")


def pretend_nvenc(monkeypatch: pytest.MonkeyPatch, make: object) -> None:
    """Software in NVENC's place, and the host's memory in the GPU's. make: the three planes -> the two that are handed over."""
    hardware._gpu_memory_trouble.cache_clear()
    monkeypatch.setattr(hardware, "_touch_gpu", lambda: None)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(
        hardware, "trial_encoder", lambda encoder, on_gpu: trial_encoder(SOFTWARE[encoder.split("_")[0]])
    )
    monkeypatch.setattr(
        hardware, "gpu_frame", lambda *planes: av.VideoFrame.from_dlpack(make(*planes), format="p010le")
    )


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_frames_stay_on_the_gpu_where_a_test_picture_comes_back(monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    pretend_nvenc(monkeypatch, p010_planes)
    with usual_priority():
        choice = encoder_memory(replace(NVENC, encoder=f"{codec}_nvenc"))
    assert choice.taken == GPU and "gave a test picture back" in str(choice)
    hardware._gpu_memory_trouble.cache_clear()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda y, u, v: p010_planes(y, v, u), "its U comes back"),
        (lambda y, u, v: p010_planes(y.flip(1), u, v), "its Y comes back"),
        (lambda y, u, v: p010_planes(y, u, torch.full_like(v, 64)), "its V comes back"),
        (lambda y, u, v: p010_planes(y[:-2].contiguous(), u[:-1], v[:-1])[0], "two-plane|2-plane"),
        (lambda y, u, v: torch.empty(0, device="cuda:63"), "."),
    ],
)
def test_frames_go_by_the_host_where_it_does_not(monkeypatch: pytest.MonkeyPatch, make: object, says: str) -> None:
    pretend_nvenc(monkeypatch, make)
    choice = encoder_memory(NVENC)
    assert choice.taken == HOST and "does not take them from the GPU: " in choice.reason
    assert re.search(says, choice.reason) and "\n" not in choice.reason
    hardware._gpu_memory_trouble.cache_clear()


def test_a_software_encoder_gets_frames_of_the_host() -> None:
    choice = encoder_memory(resolve_encoder(load_config().output, "cpu"))
    assert str(choice) == "frames to the encoder: host memory (libx265 runs on the CPU)"


def test_a_gpu_without_memory_for_the_encoders_frame_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nmore")

    nothing = SimpleNamespace(memory=None, stream=None, context=None)
    monkeypatch.setattr(hardware, "_surfaces", lambda device: nothing)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "use_mem_pool", lambda pool: contextlib.nullcontext())
    monkeypatch.setattr(hardware, "p010_planes", refuse)
    with pytest.raises(DeviceMemoryError, match=r"no memory for a frame of the encoder \(CUDA out of memory\.\); use"):
        hardware.gpu_frame(*hardware._test_picture())


def test_the_key_is_checked() -> None:
    assert load_config(None, None, ["input.decoder=nvdec"]).input.decoder == "nvdec"
    with pytest.raises(InputError, match=r"input\.decoder=gpu.*software, nvdec"):
        load_config(None, None, ["input.decoder=gpu"])


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("libx264", "yuv420p"), ("libx265", "yuv420p"), ("libx265", "yuv420p10le")]
)
def test_gpu_decodes_the_pixels_of_the_software_decoder(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    clip = make_clip(tmp_path / "a.mp4", codec, width=256, height=144, pix_fmt=pix_fmt)
    ours, report = decoded(clip, "nvdec")
    wanted, _ = decoded(clip, "software")
    assert same(ours, wanted)
    assert report.no_nvdec or all(plane.is_cuda for frame in ours for plane in frame.planes)
