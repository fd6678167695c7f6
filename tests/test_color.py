"""pipeline.color against FFmpeg's scale filter, published values of the standards, and itself the other way round."""

from __future__ import annotations

from fractions import Fraction

import av
import av.filter
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import chroma, color, dither, transfer
from pipeline.color import ColorSpec, OutputSpec, PixelLayout
from pipeline.errors import InputError

PQ = OutputSpec("pq", 203.0, 1000.0)
HLG = OutputSpec("hlg", 203.0, 1000.0)
PQ_422 = OutputSpec("pq", 203.0, 1000.0, "422")
FLAGS = "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp"
FFMPEG_RANGES = {"limited": "tv", "full": "pc"}


def spec(
    matrix: str = "bt709",
    range_name: str = "limited",
    transfer: str = "linear",
    primaries: str = "bt709",
    location: str = "left",
) -> ColorSpec:
    return ColorSpec(matrix, range_name, transfer, primaries, location)


def sdr(
    height: int, width: int, layout: PixelLayout, seed: int = 0, low: int = 16, high: int = 235
) -> list[np.ndarray]:
    """Structured planes: waves of several frequencies, a hard edge and a line, in every plane; chroma kept moderate."""
    rng = np.random.default_rng(seed)
    across, down = chroma.SUBSAMPLING[layout.chroma]
    unit = 1 << (layout.bit_depth - 8)
    planes = []
    for index in range(1 if layout.chroma == "gray" else 3):
        h, w = (height, width) if index == 0 else (-(-height // down), -(-width // across))
        y, x = np.mgrid[0:h, 0:w].astype(np.float64)
        a, b, c = rng.uniform(0.1, 0.7, 3)
        wave = np.sin(a * x + b * y) * np.cos(c * x - a * y)
        wave[:, w // 2 :] *= 0.4
        wave[h // 3, :] = 0.9
        plane = (low + high) / 2 + wave * (high - low) / 2 if index == 0 else 128 + 45 * wave
        planes.append(np.round(plane * unit).astype(np.uint8 if layout.bit_depth == 8 else np.uint16))
    return planes


def tensors(planes: list[np.ndarray]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(plane)[None] for plane in planes)


def frame_of(planes: list[np.ndarray], pixel_format: str) -> av.VideoFrame:
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], pixel_format)
    for plane, target in zip(planes, frame.planes, strict=True):
        rows = np.zeros((target.height, target.line_size // plane.itemsize), plane.dtype)
        rows[:, : plane.shape[1]] = plane
        target.update(rows.tobytes())
    return frame


def planes_of(frame: av.VideoFrame, kind: type) -> list[np.ndarray]:
    out = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // np.dtype(kind).itemsize)
        out.append(rows[:, : plane.width].copy())
    return out


def ffmpeg_scale(frame: av.VideoFrame, options: str, pixel_format: str) -> av.VideoFrame:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25), name="in"
    )
    scale = graph.add("scale", options)
    form = graph.add("format", pixel_format)
    sink = graph.add("buffersink")
    source.link_to(scale)
    scale.link_to(form)
    form.link_to(sink)
    graph.configure()
    frame.pts = 0
    graph.push(frame)
    return graph.pull()


def ffmpeg_rgb(planes: list[np.ndarray], pixel_format: str, how: ColorSpec) -> np.ndarray:
    """R, G, B signals as FFmpeg sees them, (3, H, W) in 0 to 1, clipped.

    swscale stretches the chroma of odd sizes (its step is ceil(W/2)/W, not 1/2), so luma is padded here to what the chroma planes
    cover, and the padding cut off after. Its 16-bit full range has white at 255 * 256.
    """
    height, width = planes[0].shape
    options = (
        f"in_color_matrix={how.matrix}:in_range={FFMPEG_RANGES[how.range]}:out_range=pc:"
        f"in_chroma_loc={how.chroma_location}:flags={FLAGS}"
    )
    planes = [np.pad(planes[0], ((0, -height % 4), (0, -width % 4)), mode="edge"), *planes[1:]]
    across, down = planes[0].shape[1] // planes[1].shape[1], planes[0].shape[0] // planes[1].shape[0]
    covered = planes[0][: planes[1].shape[0] * down, : planes[1].shape[1] * across]
    g, b, r = planes_of(ffmpeg_scale(frame_of([covered, *planes[1:]], pixel_format), options, "gbrp16le"), np.uint16)
    return np.stack([r, g, b])[:, :height, :width].clip(0, 65280) / 65280


FORMATS = {
    ("420", 8): "yuv420p",
    ("422", 8): "yuv422p",
    ("444", 8): "yuv444p",
    ("440", 8): "yuv440p",
    ("411", 8): "yuv411p",
    ("410", 8): "yuv410p",
    ("420", 10): "yuv420p10le",
    ("422", 12): "yuv422p12le",
    ("444", 16): "yuv444p16le",
}


def worst_code(planes: list[np.ndarray], layout: PixelLayout, how: ColorSpec) -> float:
    ours = color.unpack(tensors(planes), layout, how)[0].clamp(0, 1).numpy()
    theirs = ffmpeg_rgb(planes, FORMATS[layout.chroma, layout.bit_depth], how)
    return float(np.abs(ours - theirs).max() * 255)


@pytest.mark.parametrize("location", ["left", "center", "topleft", "top", "bottomleft", "bottom"])
@pytest.mark.parametrize("size", [(48, 64), (47, 63), (33, 50)])
def test_siting_agrees_with_ffmpeg(location: str, size: tuple[int, int]) -> None:
    layout = PixelLayout("420", 8)
    for seed in range(3):
        assert worst_code(sdr(*size, layout, seed), layout, spec(location=location)) < 0.05


@pytest.mark.parametrize("matrix", ["bt709", "bt601", "bt2020"])
@pytest.mark.parametrize("range_name", ["limited", "full"])
def test_matrix_and_range_agree_with_ffmpeg(matrix: str, range_name: str) -> None:
    layout = PixelLayout("420", 8)
    planes = sdr(40, 56, layout, 5)
    assert worst_code(planes, layout, spec(matrix, range_name)) < 0.05


@pytest.mark.parametrize(("chroma_name", "bits"), list(FORMATS))
@pytest.mark.parametrize("size", [(32, 48), (31, 45)])
def test_layouts_and_depths_agree_with_ffmpeg(chroma_name: str, bits: int, size: tuple[int, int]) -> None:
    layout = PixelLayout(chroma_name, bits)
    location = "topleft" if chroma_name in ("411", "410", "440") else "left"
    assert worst_code(sdr(*size, layout, 7), layout, spec(location=location)) < 0.05


def test_gray_and_rgb_planes() -> None:
    gray = sdr(9, 11, PixelLayout("gray", 8))
    light = color.unpack(tensors(gray), PixelLayout("gray", 8), spec())[0].numpy()
    assert np.allclose(light, (gray[0].astype(np.float64) - 16) / 219, atol=1e-6)
    g, b, r = (np.random.default_rng(i).integers(0, 65536, (5, 7)).astype(np.uint16) for i in range(3))
    light = color.unpack(tensors([g, b, r]), PixelLayout("444", 16), spec("rgb", "full", "srgb"))[0]
    expected = transfer.srgb(torch.from_numpy(np.stack([r, g, b]) / 65535))
    assert torch.allclose(light.double(), expected, atol=1e-6)


def test_codes_beyond_nominal_range_are_kept_as_light() -> None:
    y = torch.tensor([[[0, 16, 235, 254]]], dtype=torch.uint8)
    light = color.unpack((y,), PixelLayout("gray", 8), spec(transfer="bt1886"))[0, 0, 0].double()
    expected = [-((16 / 219) ** 2.4), 0, 1, (238 / 219) ** 2.4]
    assert torch.allclose(light, torch.tensor(expected, dtype=torch.float64), atol=2e-6)


def test_strong_chroma_gives_negative_light() -> None:
    planes = tuple(torch.full((1, 4, 4), code, dtype=torch.uint8) for code in (60, 230, 40))
    light = color.unpack(planes, PixelLayout("444", 8), spec(transfer="bt1886"))
    assert light.min() < -0.01
    red = (60 - 16) / 219 + 1.5748 * (40 - 128) / 224
    assert light[0, 0, 0, 0].item() == pytest.approx(-(abs(red) ** 2.4), rel=1e-5)


@given(
    st.sampled_from([name for name in chroma.SUBSAMPLING if name != "gray"]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(["left", "center", "topleft", "top", "bottomleft", "bottom"]),
    st.integers(8, 16),
    st.integers(0, 2**31),
)
@settings(max_examples=80, deadline=None)
def test_any_size_interpolates_between_sample_places(
    name: str, height: int, width: int, location: str, bits: int, seed: int
) -> None:
    """Chroma against numpy's linear interpolation, in double precision, for every layout, site and size down to one pixel."""
    rng = np.random.default_rng(seed)
    across, down = chroma.SUBSAMPLING[name]
    sizes = [(height, width)] + 2 * [(-(-height // down), -(-width // across))]
    planes = [rng.integers(0, 1 << bits, size).astype(np.uint8 if bits == 8 else np.uint16) for size in sizes]
    layout, how = PixelLayout(name, bits), spec("bt709", "full", location=location)
    light = color.unpack(tensors(planes), layout, how)[0].double().numpy()
    fx = {"left": 0, "center": 0.5, "top": 0.5, "topleft": 0, "bottomleft": 0, "bottom": 0.5}[location]
    fy = {"left": 0.5, "center": 0.5, "top": 0, "topleft": 0, "bottomleft": 1, "bottom": 1}[location]

    def full_size(plane: np.ndarray) -> np.ndarray:
        xs = np.arange(plane.shape[1]) * across + fx * (across - 1)
        ys = np.arange(plane.shape[0]) * down + fy * (down - 1)
        rows = np.stack([np.interp(np.arange(width), xs, row) for row in plane.astype(np.float64)])
        return np.stack([np.interp(np.arange(height), ys, column) for column in rows.T], axis=1)

    top = (1 << bits) - 1
    y, cb, cr = planes[0] / top, *((full_size(p) - (1 << (bits - 1))) / top for p in planes[1:])
    expected = np.minimum(np.stack([y + 1.5748 * cr, y - 0.187324 * cb - 0.468124 * cr, y + 1.8556 * cb]), 1.0)
    assert np.abs(light - expected).max() < 3e-6


def test_wrong_names_and_shapes_are_refused() -> None:
    planes = tensors(sdr(4, 4, PixelLayout("420", 8)))
    for bad in (
        spec(matrix="bt470"),
        spec("bt709", "tv"),
        spec(transfer="gamma"),
        spec(primaries="p3"),
        spec(location="x"),
    ):
        with pytest.raises(InputError, match="legal are"):
            color.unpack(planes, PixelLayout("420", 8), bad)
    with pytest.raises(InputError, match="8 to 16"):
        color.unpack(planes, PixelLayout("420", 7), spec())
    with pytest.raises(InputError, match="needs chroma layout 444"):
        color.unpack(planes, PixelLayout("420", 8), spec("rgb"))
    with pytest.raises(ValueError, match="does not fit"):
        color.unpack((planes[0], planes[0], planes[0]), PixelLayout("420", 8), spec())
    with pytest.raises(InputError, match="legal are pq, hlg"):
        color.pack(torch.zeros(1, 3, 2, 2), OutputSpec("st2084", 203, 1000), torch.arange(1))
    with pytest.raises(InputError, match="legal are"):
        color.coded_signal(torch.zeros(1, 3, 2, 2), "pq")


def test_primaries_against_published_matrices() -> None:
    to_2020 = np.array(color.primaries_matrix("bt709", "bt2020"))
    published = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]  # BT.2087-0, M2
    assert np.abs(to_2020 - published).max() < 6e-5
    back = np.array(color.primaries_matrix("bt2020", "bt709"))
    published = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]  # BT.2407-0, 2.2
    assert np.abs(back - published).max() < 6e-5
    assert np.abs(to_2020 @ back - np.eye(3)).max() < 1e-14
    for source in color.PRIMARIES:
        matrix = np.array(color.primaries_matrix(source, "bt709"))
        assert np.abs(matrix.sum(axis=1) - 1).max() < 1e-14
        light = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(1))
        codes = (light * 65535).round().to(torch.int32).to(torch.uint16)
        planes = (codes[:, 1], codes[:, 2], codes[:, 0])
        how = spec("rgb", "full", "linear", source)
        ours = color.unpack(planes, PixelLayout("444", 16), how)[0].double().numpy()
        expected = np.einsum("ij,jyx->iyx", matrix, codes[0].double().numpy() / 65535)
        assert np.abs(ours - expected).max() < 1e-6
    light = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(2)) * 1000
    expected = torch.einsum("ij,njyx->niyx", torch.tensor(back), light.double())
    assert torch.allclose(color.bt2020_to_bt709(light).double(), expected, rtol=1e-5, atol=1e-3)


def test_transfers_against_published_values() -> None:
    assert transfer.pq_inverse_eotf(203.0) == pytest.approx(0.5807, abs=5e-5)  # BT.2408 Table 1: 58 %
    assert transfer.pq_inverse_eotf(100.0) == pytest.approx(0.5081, abs=5e-5)
    assert transfer.pq_inverse_eotf(1000.0) == pytest.approx(0.7518, abs=5e-5)
    assert transfer.pq_inverse_eotf(10000.0) == pytest.approx(1.0, abs=1e-12)
    assert transfer.pq_eotf(0.5) == pytest.approx(92.2457, abs=1e-3)
    assert transfer.pq_eotf(0.0) == 0.0
    assert transfer.hlg_oetf(1 / 12) == pytest.approx(0.5, abs=1e-9)
    assert transfer.hlg_oetf(1.0) == pytest.approx(1.0, abs=1e-6)
    assert transfer.hlg_inverse_oetf(0.75) == pytest.approx(0.265, abs=1e-3)  # BT.2408: 26.5 % scene light
    assert transfer.hlg_ootf(transfer.hlg_inverse_oetf(0.75)) == pytest.approx(203.0, abs=0.5)
    assert transfer.bt1886(0.5) == pytest.approx(0.18946457, abs=1e-8)
    assert transfer.srgb(0.5) == pytest.approx(0.21404114, abs=1e-8)
    for forward, inverse, top in (
        (transfer.pq_eotf, transfer.pq_inverse_eotf, 1),
        (transfer.hlg_inverse_oetf, transfer.hlg_oetf, 1),
        (transfer.bt1886, transfer.bt1886_inverse, 1.1),
        (transfer.srgb, transfer.srgb_inverse, 1.1),
    ):
        signal = torch.linspace(0 if top == 1 else -top, top, 2001, dtype=torch.float64)
        assert torch.allclose(inverse(forward(signal)), signal, atol=2e-6)


def test_tables_are_as_exact_as_they_say() -> None:
    axis = torch.linspace(0, 1, 50001, dtype=torch.float64)
    encoders = [(transfer.PQ_ENCODE, transfer.pq_inverse_eotf, 10000), (transfer.HLG_OETF, transfer.hlg_oetf, 1)]
    encoders += [(curve, getattr(transfer, f"{name}_inverse"), 1) for name, curve in transfer.ENCODE.items()]
    for curve, exact, top in encoders:
        light = (axis**4 * top).float()
        assert (curve.apply_(light.clone()).double() - exact(light.double())).abs().max() * 876 < 0.001
    for name, curve in transfer.DECODE.items():
        signal = axis.float()
        assert (curve.apply_(signal.clone()).double() - getattr(transfer, name)(signal.double())).abs().max() < 5e-7
    signal = axis.float()
    exact = transfer.pq_eotf(signal.double())
    table = transfer.PQ_DECODE.apply_(signal.clone()).double()
    assert ((table - exact).abs() / exact)[exact > 0.01].max() < 2e-5
    rgb = torch.rand(3, 500, generator=torch.Generator().manual_seed(0)).double() ** 2
    r, g, b = (channel.clone() for channel in rgb.float())
    transfer.hlg_decode_(r, g, b)
    scene = transfer.hlg_inverse_oetf(rgb)
    y = (scene * torch.tensor([0.2627, 0.6780, 0.0593], dtype=torch.float64)[:, None]).sum(0)
    assert torch.allclose(torch.stack([r, g, b]).double(), 1000 * scene * y**0.2, rtol=1e-4, atol=1e-3)
    transfer.hlg_encode_(r, g, b)
    assert (torch.stack([r, g, b]).double() - rgb).abs().max() * 876 < 0.02


def test_edge_values_pass_the_tables() -> None:
    light = torch.tensor([float("nan"), float("inf"), float("-inf"), -1.0, 2.0])
    coded = color.coded_signal(light.view(1, 1, 1, 5), "bt1886").flatten()
    assert coded[0].isnan() and coded[1:].tolist() == [1, 0, 0, 1]
    signal = light.repeat(3, 2, 2)[None, :, :, :]
    y, _, _ = color.pack(signal, PQ, torch.arange(1))
    assert y.to(torch.int32).min() >= 63 and y.to(torch.int32).max() <= 941


def test_coded_signal_undoes_unpack() -> None:
    layout = PixelLayout("444", 8)
    y = torch.arange(16, 236, dtype=torch.uint8).view(1, 1, 220)
    neutral = torch.full_like(y, 128)
    for name in ("bt1886", "srgb", "linear"):
        light = color.unpack((y, neutral, neutral), layout, spec(transfer=name))
        kept = light.clone()
        coded = color.coded_signal(light, name)
        assert torch.equal(light, kept)
        assert torch.allclose(coded * 219 + 16, y[:, None].float().expand(1, 3, 1, 220), atol=2e-3)


def smooth_light(height: int, width: int, frames: int = 1, top: float = 1.0) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    planes = [(0.5 + 0.4 * torch.sin(4 * x + p + 3 * y)) * torch.tensor(top) for p in range(3)]
    return torch.stack(planes)[None].repeat(frames, 1, 1, 1) ** 2


@pytest.mark.parametrize("out", [PQ, HLG, PQ_422])
@pytest.mark.parametrize("seed", [0, 1])
def test_pack_agrees_with_ffmpeg(out: OutputSpec, seed: int) -> None:
    """Signals by the exact formulas in double precision; Y'CbCr and 4:2:0 or 4:2:2 at the top-left site by FFmpeg, in 16 bits."""
    planes = sdr(48, 64, PixelLayout("420", 8), seed)
    light = color.unpack(tensors(planes), PixelLayout("420", 8), spec(transfer="bt1886"))
    matrix = torch.tensor(color.primaries_matrix("bt709", "bt2020"), dtype=torch.float64)
    nits = (203 * torch.einsum("ij,jyx->iyx", matrix, light[0].double())).clamp(min=0)
    if out.transfer == "pq":
        signal = transfer.pq_inverse_eotf(nits)
    else:
        y = (nits * torch.tensor([0.2627, 0.6780, 0.0593], dtype=torch.float64)[:, None, None]).sum(0) / 1000
        signal = transfer.hlg_oetf(nits / 1000 * y.clamp(min=1e-9) ** (-1 / 6))
    r, g, b = (signal * 65280).round().numpy().astype(np.uint16)
    options = f"in_range=pc:out_range=tv:out_color_matrix=bt2020:out_chroma_loc=topleft:sws_dither=none:flags={FLAGS}"
    theirs = planes_of(ffmpeg_scale(frame_of([g, b, r], "gbrp16le"), options, f"yuv{out.chroma}p16le"), np.uint16)
    many = [color.pack(light, out, torch.tensor([number])) for number in range(32)]
    for index, plane in enumerate(theirs):
        expected = torch.from_numpy(plane.astype(np.float64) / 64)
        ours = torch.stack([frame[index][0].double() for frame in many])
        assert (ours - expected).abs().max() < 1.1  # dithered rounding is less than one code off
        assert (ours.mean(0) - expected).abs().mean() < 0.1


def test_white_black_and_gray_levels() -> None:
    for code, nits in ((16, 0.0), (235, 203.0)):
        y = torch.full((1, 8, 8), code, dtype=torch.uint8)
        light = color.unpack((y,), PixelLayout("gray", 8), spec(transfer="bt1886"))
        for out in (PQ, HLG):
            packed = color.pack(light, out, torch.arange(1))
            back = color.unpack_hdr(*packed, out.transfer)
            assert back.mean().item() == pytest.approx(nits, rel=0.01, abs=1e-6)
            assert all(int(code) == 512 for plane in packed[1:] for code in plane.to(torch.int32).unique())
    white = color.pack(torch.ones(1, 3, 64, 64), HLG, torch.arange(1))[0].double()
    assert white.mean().item() == pytest.approx(64 + 876 * 0.75, abs=0.2)
    white = color.pack(torch.ones(1, 3, 64, 64), PQ, torch.arange(1))[0].double()
    assert white.mean().item() == pytest.approx(64 + 876 * transfer.pq_inverse_eotf(203.0), abs=0.01)
    bright = color.pack(torch.full((1, 3, 8, 8), 60.0), PQ, torch.arange(1))
    assert color.unpack_hdr(*bright, "pq").max().item() == pytest.approx(1000, rel=0.015)


@pytest.mark.parametrize("out", [PQ, HLG])
@pytest.mark.parametrize("chroma_codes", [0, 12])
def test_round_trip_stays_within_one_code(out: OutputSpec, chroma_codes: int) -> None:
    """SDR codes -> HDR -> SDR codes, in the domain of the SDR file itself: Y' of every pixel, and Cb, Cr of the samples of 4:2:0
    (the restored chroma filtered back to the left site; dither of Y', Cb and Cr meet there, so one sample in a thousand may be 2 off). R', G', B' of a pixel carry the dither of Y' and up to twice that of chroma,
    so they are held to one code as the mean over frames. Colours stay clear of the edge of BT.709, where pack clips.
    """
    height, width = 64, 128
    layout = PixelLayout("420", 8)
    x = np.tile(np.linspace(16 + 4 * chroma_codes, 235 - chroma_codes, width), (height, 1))
    cy, cx = np.mgrid[0 : height // 2, 0 : width // 2]
    waves = (128 + chroma_codes * np.sin(cy / 12), 128 + chroma_codes * np.cos(cy / 17 + cx / 30))
    planes = tensors([np.round(plane).astype(np.uint8) for plane in (x, *waves)])
    light = color.unpack(planes, layout, spec(transfer="bt1886"))
    sdr_signal = color.unpack(planes, layout, spec())
    total = torch.zeros_like(sdr_signal)
    for number in range(16):
        packed = color.pack(light, out, torch.tensor([number]))
        back = color.bt2020_to_bt709(color.unpack_hdr(*packed, out.transfer)) / 203
        signal = transfer.bt1886_inverse(back)
        total += signal / 16
        r, g, b = signal[0]
        y = 0.2126 * r + 0.7152 * g + 0.0722 * b
        assert ((y * 219 + 16).round() - planes[0][0].float()).abs().max() <= 1
        for plane, source in ((planes[1], (b - y) / 1.8556), (planes[2], (r - y) / 1.5748)):
            samples = chroma.halve_across(source)
            codes = 128 + 224 * (samples[0::2] + samples[1::2]) / 2
            off = (codes.round() - plane[0].float()).abs()
            assert off.max() <= 2 and (off > 1).float().mean() <= 0.001
    assert (total - sdr_signal).abs().max() * 219 < 1
    assert (total - sdr_signal).pow(2).mean().sqrt() * 219 < 0.25


def test_bits_do_not_depend_on_batch_or_threads() -> None:
    layout = PixelLayout("420", 8)
    height, width = 120, 557  # several blocks a frame, and planes above torch's grain of 32768 elements
    frames = [sdr(height, width, layout, seed) for seed in range(2)]
    batch = tuple(torch.from_numpy(np.stack([f[i] for f in frames])) for i in range(3))
    numbers = torch.tensor([5, 900])
    how = spec(transfer="bt1886", primaries="bt601-525")
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            light = color.unpack(batch, layout, how)
            alone = torch.cat([color.unpack(tuple(p[i : i + 1] for p in batch), layout, how) for i in range(2)])
            assert torch.equal(light, alone)
            for out in (PQ, HLG):
                together = color.pack(light, out, numbers)
                single = [color.pack(light[i : i + 1], out, numbers[i : i + 1]) for i in range(2)]
                for plane in range(3):
                    assert torch.equal(together[plane], torch.cat([s[plane] for s in single]))
                results.append((count, out.transfer, light, color.coded_signal(light, "srgb"), *together))
                results.append((count, out.transfer + " back", color.unpack_hdr(*together, out.transfer)))
    finally:
        torch.set_num_threads(threads)
    per_count = len(results) // 2
    for first, other in zip(results, results[per_count:], strict=False):
        assert all(torch.equal(a, b) for a, b in zip(first[2:], other[2:], strict=True))


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    light = smooth_light(50, 64)
    whole = color.pack(light, PQ, torch.arange(1))
    light_of = color.unpack_hdr(*whole, "pq")
    monkeypatch.setattr(color, "_BLOCK_PIXELS", 64 * 6)
    assert all(torch.equal(a, b) for a, b in zip(whole, color.pack(light, PQ, torch.arange(1)), strict=True))
    assert torch.equal(light_of, color.unpack_hdr(*whole, "pq"))


def test_inputs_are_not_written_to() -> None:
    planes = tensors(sdr(6, 8, PixelLayout("420", 8)))
    kept = [plane.clone() for plane in planes]
    light = color.unpack(planes, PixelLayout("420", 8), spec(transfer="bt1886"))
    assert all(torch.equal(a, b) for a, b in zip(planes, kept, strict=True))
    before = light.clone()
    packed = color.pack(light, HLG, torch.arange(1))
    assert torch.equal(light, before)
    before = [plane.clone() for plane in packed]
    nits = color.unpack_hdr(*packed, "hlg")
    color.bt2020_to_bt709(nits)
    assert all(torch.equal(a, b) for a, b in zip(packed, before, strict=True))


def test_odd_sizes_are_padded_by_repeating_the_edge() -> None:
    light = smooth_light(7, 9)
    y, u, v = color.pack(light, PQ, torch.arange(1))
    assert y.shape == (1, 8, 10) and u.shape == v.shape == (1, 4, 5)
    padded = torch.cat((light, light[:, :, -1:]), dim=2)
    padded = torch.cat((padded, padded[..., -1:]), dim=3)
    expected = color.pack(padded, PQ, torch.arange(1))
    assert all(torch.equal(a, b) for a, b in zip((y, u, v), expected, strict=True))


def test_dither_is_fair_and_moves_with_the_frame() -> None:
    tile = dither.blue_noise()
    assert tile.unique().numel() == 4096 and tile.min() > 1e-4 and tile.max() < 1 - 1e-4
    power = torch.fft.fft2((tile < 0.5).float() - 0.5).abs() ** 2
    frequency = torch.fft.fftfreq(64)
    radius = (frequency[:, None] ** 2 + frequency[None] ** 2).sqrt()
    assert power[radius < 0.1].mean() < 0.05 * power[radius > 0.3].mean()
    flat = torch.full((64, 64), 100.25)
    frames = [dither.round_(flat.clone(), 0, number, 0, 64) for number in range(3)]
    assert all(frame.mean() == 100.25 for frame in frames)
    assert not torch.equal(frames[0], frames[1]) and not torch.equal(frames[1], frames[2])
    assert not torch.equal(frames[0], dither.round_(flat.clone(), 0, 0, 1, 64))
    assert torch.equal(frames[1][20:], dither.round_(flat[20:].clone(), 20, 1, 0, 64))


def test_a_slow_ramp_keeps_more_steps_than_ten_bits() -> None:
    ramp = torch.linspace(0.5, 0.51, 512).expand(1, 3, 64, 512).contiguous()
    y = color.pack(ramp, PQ, torch.arange(1))[0][0].double()
    signal = transfer.pq_inverse_eotf(ramp[0, 0, 0].double() * 203) * 876 + 64
    blurred = y.mean(0).view(-1, 16).mean(1)
    assert (blurred - signal.view(-1, 16).mean(1)).abs().max() < 0.1


@pytest.mark.parametrize("name", ["420", "422", "444", "440", "gray"])
def test_a_picture_of_many_row_blocks_is_its_parts(name: str) -> None:
    """Tall enough for several blocks of rows: the lower half alone gives the same light, away from the cut."""
    across, down = chroma.SUBSAMPLING[name] if name != "gray" else (1, 1)
    generator = torch.Generator().manual_seed(5)
    sizes = [(600, 512)] + ([] if name == "gray" else [(600 // down, 512 // across)] * 2)
    planes = [torch.randint(16, 236, size, dtype=torch.uint8, generator=generator) for size in sizes]
    layout, spec = PixelLayout(name, 8), ColorSpec("bt709", "limited", "bt1886", "bt709", "topleft")
    whole = color.unpack(tuple(plane[None] for plane in planes), layout, spec)
    lower = color.unpack(tuple(plane[None, plane.shape[0] // 2 :] for plane in planes), layout, spec)
    assert torch.equal(whole[:, :, 304:], lower[:, :, 4:])
