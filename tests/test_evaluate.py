"""`evaluate`: closed forms, independent oracles, every kind of input, and errors that say what to mend."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

import run_pipeline
from datasets.images import LARGEST_HALF, read_light, read_stored
from evaluation.colorvideovdp import DISPLAY, ColorVideoVDP
from evaluation.drives import read_truth
from evaluation.evaluate import Request, evaluate
from evaluation.hdrvdp import HdrVdp
from evaluation.metrics import pu21
from evaluation.nits import count_frames, read_nits
from evaluation.operators import KIM_KAUTZ_DISPLAY_NITS, kim_kautz, reinhard
from evaluation.progress import Bar
from evaluation.psnr import Viewing, fitted_scale, measure, psnr, structural_similarity
from evaluation.tables import PUBLISHED, spread
from evaluation.tonemap import compress
from pipeline.color import OutputSpec, bt2020_to_bt709, pack, unpack_hdr
from pipeline.errors import ConversionError, InputError

BENCH = Path(os.environ.get("SUNVISOR_BENCH", Path(__file__).parents[2] / "shared" / "bench")) / "score.py"
BT2020, PQ, HLG, NCL = 9, 16, 18, 9


def scene(height: int = 48, width: int = 64, seed: int = 3, top: float = 3.5) -> np.ndarray:
    """Smooth light from 0.02 up, brighter to the right."""
    rng = np.random.default_rng(seed)
    field = cv2.GaussianBlur(rng.standard_normal((height, width, 3)), (0, 0), 4)
    ramp = np.linspace(-4.0, 1.4, width)[None, :, None]
    return np.exp2(ramp + 1.5 * field).clip(0.02, top).astype(np.float32)


def write_hdr(path: Path, light: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(light[..., ::-1], np.float32))
    return path


def write_png(path: Path, codes: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(codes[..., ::-1]))
    return path


def rows_of(text: str) -> list[dict[str, str]]:
    """Rows of a CSV whose head lines begin with #."""
    return list(csv.DictReader(io.StringIO("".join(x for x in text.splitlines(True) if not x.startswith("#")))))


# --- the measures


def test_a_constant_error_has_a_known_psnr() -> None:
    truth, result = np.full((16, 16, 3), 0.5), np.full((16, 16, 3), 0.6)
    values = measure(result, truth, Viewing(mu=5000.0, unit_nits=200.0, limit_nits=1000.0))
    assert values["psnr_l"] == pytest.approx(20.0)
    curve = [math.log(1 + 5000 * math.tanh(x)) / math.log(5001) for x in (0.5, 0.6)]
    assert values["psnr_mu"] == pytest.approx(-20 * math.log10(curve[1] - curve[0]))
    codes = [float(pu21(np.array(nits))) for nits in (100.0, 120.0, 1000.0)]
    assert values["psnr_pu21"] == pytest.approx(20 * math.log10(codes[2] / (codes[1] - codes[0])))
    constant = 0.01 * codes[2]  # SSIM of two flat pictures is its luminance term alone
    wanted = (2 * codes[0] * codes[1] + constant**2) / (codes[0] ** 2 + codes[1] ** 2 + constant**2)
    assert values["ssim_pu21"] == pytest.approx(wanted, rel=1e-9)


def test_equal_pictures_are_told_apart_from_nothing_and_negative_light_is_none() -> None:
    light = scene()
    values = measure(light, light, Viewing())
    assert values.pop("ssim_pu21") == pytest.approx(1.0) and all(math.isinf(value) for value in values.values())
    assert math.isinf(psnr(np.zeros(3), np.zeros(3), 1.0))
    assert measure(light * [1, 1, -1], light * [1, 1, 0], Viewing())["psnr_l"] == math.inf
    assert math.isnan(measure(light[:10], light[:10], Viewing())["ssim_pu21"])


def test_ssim_is_the_textbook_one() -> None:
    """Wang et al. 2004 with OpenCV's Gaussian as the independent filter."""
    rng = np.random.default_rng(1)
    a = rng.uniform(0, 300, (30, 34, 3))
    b = a + rng.normal(0, 30, a.shape)

    def blur(x: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(x, (11, 11), 1.5)[5:-5, 5:-5]

    c1, c2 = (0.01 * 400.0) ** 2, (0.03 * 400.0) ** 2
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    index = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    assert structural_similarity(a, b, 400.0) == pytest.approx(index.mean(), abs=1e-6)


def test_the_papers_curve() -> None:
    assert compress(np.array(0.0)) == 0 and compress(np.array(50.0)) == pytest.approx(1.0)
    assert compress(np.array(0.3), 10.0) == pytest.approx(math.log(1 + 10 * math.tanh(0.3)) / math.log(11))
    light = np.linspace(-2, 4, 101, dtype=np.float32)
    for mu in (10.0, 5000.0):
        code = compress(light, mu)
        assert (np.diff(code) > 0).all() and np.allclose(code, -compress(-light, mu)) and code.dtype == np.float32
        assert np.allclose(code, compress(torch.from_numpy(light), mu).numpy(), atol=1e-6)
    zero = torch.zeros(3, requires_grad=True)
    compress(zero).sum().backward()
    assert torch.allclose(zero.grad, torch.full((3,), 10 / math.log(11)))
    with pytest.raises(ValueError, match="mu is 0"):
        compress(light, 0.0)


def test_reinhard_by_hand() -> None:
    """Two greys, 1 and 4: their log average is 2, so with key 0.18 they are scaled to 0.09 and 0.36, and 0.36 is white."""
    light = np.ones((2, 2, 3))
    light[:, 1] = 4.0
    shown = reinhard(light)
    assert np.allclose(shown[:, 1], 1.0, atol=1e-6)
    assert np.allclose(shown[:, 0], 0.09 * (1 + 0.09 / 0.36**2) / 1.09, atol=1e-5)
    picture = scene()
    assert np.allclose(reinhard(picture), reinhard(picture * 50), atol=1e-4)
    assert reinhard(np.zeros((4, 4, 3))).max() == 0


def test_kim_kautz_pixel_by_pixel() -> None:
    light = scene(12, 16).astype(np.float64)
    luminance = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in light.reshape(-1, 3)]
    logs = [math.log(y + 1e-6) for y in luminance]
    mean, span = sum(logs) / len(logs), max(logs) - min(logs)
    k1 = math.log(KIM_KAUTZ_DISPLAY_NITS[1] / KIM_KAUTZ_DISPLAY_NITS[0]) / span
    shown = []
    for value in logs:
        weight = math.exp(-((value - mean) ** 2) / (2 * (span / 3) ** 2))
        shown.append(math.exp(0.5 * ((1 - k1) * weight + k1) * (value - mean) + mean))
    low, high = np.percentile(shown, [1, 99])
    wanted = [min(max((value - low) / (high - low), 0.0), 1.0) for value in shown]
    scaled = light.reshape(-1, 3) * (np.array(wanted) / np.array(luminance))[:, None]
    assert np.allclose(kim_kautz(light).reshape(-1, 3), np.clip(scaled, 0, 1), atol=1e-9)
    assert np.allclose(kim_kautz(np.full((4, 4, 3), 7.0)), 0.5)


def test_alignment_finds_one_factor() -> None:
    light = scene()
    assert fitted_scale(light * 0.25, light) == pytest.approx(4.0, rel=1e-5)
    assert fitted_scale(np.zeros_like(light), light) == 1.0


def test_mean_and_standard_deviation() -> None:
    assert spread([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, math.sqrt(7 / 3)))
    assert spread([5.0, math.nan]) == (5.0, None) and spread([1.0, math.inf]) == (math.inf, None)
    assert math.isnan(spread([math.nan])[0])


# --- pictures


def test_every_kind_of_picture_is_read_as_light(tmp_path: Path) -> None:
    light = scene(8, 10)
    np.save(tmp_path / "a.npy", light)
    assert np.array_equal(read_light(tmp_path / "a.npy"), light)
    assert np.allclose(read_light(write_hdr(tmp_path / "a.hdr", light)), light, rtol=0.02, atol=0.02)
    assert np.array_equal(read_light(write_hdr(tmp_path / "a.exr", light)), light)
    codes = np.random.default_rng(2).integers(0, 65536, (8, 10, 3), dtype=np.uint16)
    assert np.array_equal(
        read_light(write_png(tmp_path / "a.png", codes)), codes.astype(np.float32) / np.float32(65535)
    )
    eight = write_png(tmp_path / "b.png", np.full((4, 4, 3), (255, 128, 0), np.uint8))
    assert np.allclose(read_light(eight)[0, 0], [1.0, ((128 / 255 + 0.055) / 1.055) ** 2.4, 0.0], atol=1e-6)
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((4, 5), 128, np.uint8))
    assert read_light(tmp_path / "grey.png").shape == (4, 5, 3)
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((4, 5, 4), 7, np.uint16))
    assert read_stored(tmp_path / "alpha.png").shape == (4, 5, 3)
    np.save(tmp_path / "sun.npy", np.array([[[np.inf, 1.0, -0.5]]], np.float32))
    assert read_light(tmp_path / "sun.npy").tolist() == [[[LARGEST_HALF, 1.0, -0.5]]]


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    def refused(name: str, words: str) -> None:
        with pytest.raises(InputError, match=words) as told:
            read_light(tmp_path / name)
        assert str(tmp_path / name) in str(told.value)

    for name in ("bad.hdr", "bad.exr", "bad.png", "bad.npy"):
        (tmp_path / name).write_bytes(b"not a picture at all")
        refused(name, "decoded|NumPy")
    (tmp_path / "empty.png").write_bytes(b"")
    refused("empty.png", "decoded")
    refused("none.exr", "no such file")
    refused("words.txt", "legal suffixes")
    (tmp_path / "folder.hdr").mkdir()
    refused("folder.hdr", "a folder")
    np.save(tmp_path / "nan.npy", np.full((2, 2, 3), np.nan, np.float32))
    refused("nan.npy", "not numbers")
    np.save(tmp_path / "flat.npy", np.zeros((5, 2, 2, 3), np.float32))
    refused("flat.npy", "shape")
    np.save(tmp_path / "int.npy", np.zeros((2, 2, 3), np.int64))
    refused("int.npy", "int64")


def test_two_pictures_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    light = np.full((48, 64, 3), 0.5, np.float32)
    write_hdr(tmp_path / "t.hdr", light)
    np.save(tmp_path / "r.npy", light + np.float32(0.01))
    out = tmp_path / "eval"
    code = run_pipeline.main(["evaluate", str(tmp_path / "r.npy"), str(tmp_path / "t.hdr"), "--output", str(out)])
    told = capsys.readouterr().out
    assert code == 0 and "| PSNR-L |" in told and "| 40.00 |" in told and "ColorVideoVDP JOD" in told
    assert "mu = 5000" in told and "1.0 = 203 nits" in told and "published, other data: VDS" in told
    assert "33.61 ± 4.66" in told and (out / "evaluation.md").read_text("utf-8") in told
    head = (out / "summary.csv").read_text("utf-8")
    assert "# PSNR-mu: log(1 + mu tanh(I)) / log(1 + mu), mu = 5000, peak 1\n" in head
    rows = rows_of(head)
    assert float(rows[0]["psnr_l_mean"]) == pytest.approx(40.0, abs=0.01) and rows[0]["psnr_l_std"] == ""
    assert len(rows) == 1 + len(PUBLISHED) and rows[8]["hdrvdp2_mean"] == "61.11"
    assert float(rows_of((out / "pictures.csv").read_text("utf-8"))[0]["jod"]) > 9


def test_folders_of_pictures_are_matched_by_name(tmp_path: Path) -> None:
    for number in range(3):
        truth = scene(seed=number)
        write_hdr(tmp_path / "truth" / f"p{number}.hdr", truth)
        (tmp_path / "mine" / "deep").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "mine" / "deep" / f"p{number}_result.npy", truth * np.float32(1.1))
    request = Request(result=tmp_path / "mine", truth=tmp_path / "truth", jod=False)
    report = evaluate(request)
    assert [row.name for row in report.rows] == ["p0", "p1", "p2"]
    mean, deviation = spread([row.values["psnr_l"] for row in report.rows])
    assert f"{mean:.2f} ± {deviation:.2f}" in report.markdown()
    aligned = evaluate(Request(result=tmp_path / "mine", truth=tmp_path / "truth", jod=False, align=True))
    assert aligned.rows[0].values["psnr_l"] > report.rows[0].values["psnr_l"] + 15
    (tmp_path / "mine" / "deep" / "p1_result.npy").unlink()
    with pytest.raises(InputError, match=r"no result for p1 \(1 of 3 missing\)"):
        evaluate(request)
    np.save(tmp_path / "mine" / "p0_other.npy", truth)
    with pytest.raises(InputError, match="several results for p0"):
        evaluate(request)


def test_pictures_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    a, b = write_hdr(tmp_path / "a.hdr", scene()), write_hdr(tmp_path / "b.hdr", scene(32, 40))
    with pytest.raises(InputError, match="the result is 64 x 48 pixels, the truth 40 x 32"):
        evaluate(Request(result=a, truth=b, jod=False))
    with pytest.raises(InputError, match="no such file"):
        evaluate(Request(result=tmp_path / "no.hdr", truth=a, jod=False))
    with pytest.raises(InputError, match="one is a folder"):
        evaluate(Request(result=tmp_path, truth=a, jod=False))
    with pytest.raises(InputError, match="no pictures in it"):
        (tmp_path / "empty").mkdir()
        evaluate(Request(result=tmp_path / "empty", truth=tmp_path / "empty", jod=False))


def test_peak_normalisation_divides_both_by_the_truths_peak(tmp_path: Path) -> None:
    truth = scene(top=4.0)
    np.save(tmp_path / "t.npy", truth)
    np.save(tmp_path / "r.npy", truth * np.float32(0.9))
    report = evaluate(Request(result=tmp_path / "r.npy", truth=tmp_path / "t.npy", normalise="peak", jod=False))
    wanted = psnr(truth / truth.max() * 0.9, truth / truth.max(), 1.0)
    assert report.rows[0].values["psnr_l"] == pytest.approx(wanted, abs=1e-3)
    assert report.parameters["light"].startswith("1.0 = 1000 nits")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "name RESULT and TRUTH"),
        ({"vds": Path("a"), "cityscapes": Path("b")}, "both given"),
        ({"vds": Path("a")}, "--model NAME"),
        ({"vds": Path("a"), "model": "neutral", "results": Path("b")}, "--model NAME"),
        ({"vds": Path("a"), "model": "neutral", "result": Path("b")}, "no RESULT"),
        ({"result": Path("a"), "truth": Path("b"), "model": "x"}, "belong to"),
        ({"normalise": "sum"}, "legal are none, peak"),
        ({"cityscapes": Path("a"), "model": "x", "normalise": "peak"}, "65535"),
        ({"mu": 0.0}, "--mu 0.0"),
        ({"unit_nits": 0.0}, "--white-nits 0.0"),
    ],
)
def test_options_that_contradict_are_refused(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        evaluate(Request(**options))


# --- data sets


def make_vds(folder: Path, count: int, height: int = 24, width: int = 32) -> list[np.ndarray]:
    lights = []
    for number in range(1, count + 1):
        light = scene(height, width, seed=number, top=2.0)
        signal = np.clip(light, 0, 1)
        signal = np.where(signal <= 0.0031308, 12.92 * signal, 1.055 * signal ** (1 / 2.4) - 0.055)
        write_png(
            folder / "test_set" / f"t{number}" / f"t{number}_0EV_true.png", np.round(signal * 255).astype(np.uint8)
        )
        lights.append(read_light(write_hdr(folder / "test_hdr_set" / f"t{number}" / f"t{number}.hdr", light)))
    return lights


def test_vds_through_a_network(tmp_path: Path) -> None:
    """The neutral checkpoint returns the SDR picture, so the error is what clipping took (and the rounding of 8 bits)."""
    lights = make_vds(tmp_path, 2)
    report = evaluate(Request(vds=tmp_path, model="neutral", device="cpu", jod=False))
    assert [row.name for row in report.rows] == ["t1", "t2"] and report.method == "neutral"
    for row, light in zip(report.rows, lights, strict=True):
        assert row.values["psnr_l"] == pytest.approx(psnr(np.minimum(light, 1), light, 1.0), abs=0.3)
    assert "sha256" in report.parameters["result"] and report.parameters["light"].startswith("1.0 = 1000 nits")
    assert "published, other data" in report.markdown(), "two of 48 pictures are not the data set"
    with pytest.raises(InputError, match="no such checkpoint"):
        evaluate(Request(vds=tmp_path, model="nobody", jod=False))


def test_the_whole_vds_test_set_stands_beside_published_rows_as_the_same_data(tmp_path: Path) -> None:
    lights = make_vds(tmp_path / "vds", 48, 4, 4)
    (tmp_path / "mine").mkdir()
    for number, light in enumerate(lights, 1):
        np.save(tmp_path / "mine" / f"t{number}.npy", light + np.float32(0.1))
    report = evaluate(Request(vds=tmp_path / "vds", results=tmp_path / "mine", jod=False))
    assert len(report.rows) == 48 and all(row.values["psnr_l"] == pytest.approx(20.0, abs=1e-3) for row in report.rows)
    told = report.markdown()
    assert "published, same data set: VDS" in told and "other data" not in told
    assert "published, same data set: VDS divided by peaks, which its authors call incorrect" in told


def test_cityscapes_is_divided_by_its_full_scale(tmp_path: Path) -> None:
    name = "aachen_000000_000019"
    codes = np.full((24, 32, 3), 32768, np.uint16)
    write_png(tmp_path / f"leftImg8bit/val/aachen/{name}_leftImg8bit.png", np.full((24, 32, 3), 99, np.uint8))
    write_png(tmp_path / f"leftImg16bit/val/aachen/{name}_leftImg16bit.png", codes)
    write_png(tmp_path / f"mine/{name}_leftImg8bit.png", np.full((24, 32, 3), 26214, np.uint16))
    report = evaluate(Request(cityscapes=tmp_path, results=tmp_path / "mine", jod=False))
    assert report.rows[0].name == name and report.data == "Cityscapes val"
    assert report.rows[0].values["psnr_l"] == pytest.approx(-20 * math.log10((32768 - 26214) / 65535))
    through = evaluate(Request(cityscapes=tmp_path, model="neutral", device="cpu", jod=False))
    assert through.rows[0].values["psnr_l"] == pytest.approx(
        -20 * math.log10(32768 / 65535 - ((99 / 255 + 0.055) / 1.055) ** 2.4), abs=0.01
    )
    with pytest.raises(InputError, match="test"):
        evaluate(Request(cityscapes=tmp_path, split="test", model="neutral", jod=False))


# --- ColorVideoVDP and HDR-VDP


def test_jod_is_the_packages_own() -> None:
    import pycvvdp

    truth = np.stack([scene(seed=number) * 203 for number in range(3)])
    result = np.minimum(truth, 203.0)
    metric = pycvvdp.cvvdp(display_name=DISPLAY, heatmap=None, device=torch.device("cpu"), quiet=True)
    vdp = ColorVideoVDP()
    wanted = float(metric.predict(result, truth, dim_order="FHWC", frames_per_second=30.0)[0])
    assert vdp.video(iter(zip(result, truth, strict=True)), 3, 30.0) == pytest.approx(wanted, abs=1e-4) and wanted < 9.9
    single = float(metric.predict(result[0], truth[0], dim_order="HWC")[0])
    assert vdp.picture(result[0], truth[0]) == pytest.approx(single, abs=1e-4)
    with pytest.raises(InputError, match="ends after 2 frames"):
        vdp.video(iter(zip(result[:2], truth[:2], strict=True)), 3, 30.0)


def test_a_missing_cvvdp_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycvvdp", None)
    with pytest.raises(InputError, match=r"pip install cvvdp.*--no-jod"):
        ColorVideoVDP()


def fake_octave(folder: Path, body: str, name: str = "octave-cli") -> None:
    """A program of that name: `script` is the .m file it was given, `words` what came before."""
    program = folder / name
    folder.mkdir(exist_ok=True)
    program.write_text(
        f"#!{sys.executable}\nimport pathlib, re, sys, struct\nwords, script = sys.argv[1:-1], sys.argv[-1]\n{body}\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


READ_BOTH = """
text = pathlib.Path(script).read_text()
test, reference = (pathlib.Path(p).read_bytes() for p in re.findall(r"load_picture\\('(.*)'\\)", text))
a, b = (struct.unpack(f"<{len(d) // 4}f", d) for d in (test, reference))
print("warning: this and that")
print("sunvisor_q %.9g" % (a[1] - b[1] + len(a)))
"""


@pytest.fixture
def toolboxes(tmp_path: Path) -> tuple[Path, Path]:
    folders = tmp_path / "hdrvdp-2.2.2", tmp_path / "it's hdrvdp-3"
    for folder, entry in zip(folders, ("hdrvdp.m", "hdrvdp3.m"), strict=True):
        folder.mkdir()
        (folder / entry).write_text("% the user's")
    return folders


def test_octave_is_given_both_pictures_and_its_answer_is_read(
    tmp_path: Path, toolboxes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_octave(tmp_path / "bin", READ_BOTH)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    box = HdrVdp(2, toolboxes[0])
    result, truth = np.full((2, 4, 3), 8.0, np.float32), np.full((2, 4, 3), 5.5, np.float32)
    result[0, 0, 1] = 9.0  # the second number of the file: green of the first pixel
    assert box(result, truth) == 3.5 + 24
    np.save(tmp_path / "r.npy", result / 203)
    np.save(tmp_path / "t.npy", truth / 203)
    request = Request(tmp_path / "r.npy", tmp_path / "t.npy", hdrvdp2=toolboxes[0], hdrvdp3=toolboxes[1], jod=False)
    report = evaluate(request)
    assert report.rows[0].values["hdrvdp2"] == report.rows[0].values["hdrvdp3"] == pytest.approx(27.5, abs=1e-4)
    assert "27.50" in report.markdown() and "through GNU Octave" in report.parameters["HDR-VDP-3"]


def test_the_script_calls_each_toolbox_as_its_help_says(
    tmp_path: Path, toolboxes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_octave(tmp_path / "bin", "print('sunvisor_q 1')", "octave")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    picture = np.ones((3, 5, 3), np.float32)
    for version, call in (
        (2, "hdrvdp(test, reference, 'rgb-bt.709', 42.5, {})"),
        (3, "hdrvdp3('quality', test, reference, 'rgb-bt.709', 42.5, {})"),
    ):
        box = HdrVdp(version, toolboxes[version - 2], 42.5)
        assert box(picture, picture) == 1.0
        text = box.write_script(tmp_path, picture, picture).read_text("utf-8")
        assert call in text and "[3 5 3]), [3 2 1]" in text
        assert f"addpath('{str(toolboxes[version - 2]).replace(chr(39), chr(39) * 2)}')" in text


@pytest.mark.parametrize(
    "body", ["sys.stderr.write('error: no image package\\n'); sys.exit(1)", "print('hello')", "print('sunvisor_q ')"]
)
def test_an_octave_that_fails_is_quoted(
    tmp_path: Path, toolboxes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    fake_octave(tmp_path / "bin", body)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ConversionError, match=r"HDR-VDP-3 failed on street .*(no image package|hello|sunvisor_q)"):
        HdrVdp(3, toolboxes[1])(np.ones((2, 2, 3)), np.ones((2, 2, 3)), "street")


def test_missing_octave_and_wrong_folders_are_said(
    tmp_path: Path, toolboxes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="HDR-VDP-2 needs GNU Octave"):
        HdrVdp(2, toolboxes[0])
    with pytest.raises(InputError, match="no such folder"):
        HdrVdp(2, tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no hdrvdp3\.m"):
        HdrVdp(3, toolboxes[0])


# --- videos


def write_video(path: Path, frames: list[np.ndarray], transfer: str) -> Path:
    """Light (H,W,3), SDR white = 1.0, as a lossless 10-bit BT.2020 video."""
    out = OutputSpec(transfer, 203.0, 1000.0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.time_base = "yuv420p10le", Fraction(1, 24)
        context = stream.codec_context
        context.color_primaries, context.colorspace, context.color_range = BT2020, NCL, 1
        context.color_trc = PQ if transfer == "pq" else HLG
        for number, light in enumerate(frames):
            planes = pack(torch.from_numpy(light).permute(2, 0, 1)[None], out, torch.tensor([number]))
            frame = av.VideoFrame(stream.width, stream.height, "yuv420p10le")
            for plane, codes in zip(frame.planes, planes, strict=True):
                rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
                rows[:, : plane.width] = codes[0].numpy()
                plane.update(rows.tobytes())
            frame.pts, frame.time_base = number, Fraction(1, 24)
            frame.color_primaries, frame.colorspace, frame.color_range = BT2020, NCL, 1
            frame.color_trc = context.color_trc
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def planes_of(path: Path) -> Iterator[tuple[torch.Tensor, ...]]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            arrays = [np.frombuffer(p, np.uint16).reshape(p.height, -1)[:, : p.width].copy() for p in frame.planes]
            yield tuple(torch.from_numpy(array)[None] for array in arrays)


def make_drive(path: Path, frames: list[np.ndarray], **more: np.ndarray) -> Path:
    count = len(frames)
    pose = {"yaw": np.linspace(0, 0.03, count), "pitch": np.full(count, -0.05), "roll": np.linspace(0, 0.01, count)}
    np.savez(path, hdr=np.stack(frames).astype(np.float16), fov=np.float32(90), gain=np.ones(count), **(pose | more))
    return path


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_hdr_video_is_read_as_the_pipeline_unpacks_it(tmp_path: Path, transfer: str) -> None:
    path = write_video(tmp_path / "v.mkv", [scene(seed=n) for n in range(2)], transfer)
    for nits, planes in zip(read_nits(path), planes_of(path), strict=True):
        wanted = bt2020_to_bt709(unpack_hdr(*planes, transfer))[0].permute(1, 2, 0).numpy()
        assert np.allclose(nits, wanted, rtol=1e-5, atol=1e-4)
    assert count_frames(path) == 2


def test_a_drive_and_its_own_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [scene(seed=7) * np.float32(1 + 0.02 * n) for n in range(3)]
    truth = make_drive(tmp_path / "gt.npz", frames)
    video = write_video(tmp_path / "v.mkv", frames, "pq")
    assert run_pipeline.main(["evaluate", str(video), str(truth), "-o", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "| scores of the drive | hl_stops | hl_bias | hl_detail | mid_stops | flicker | pu_psnr | jod |" in told
    drive = rows_of((tmp_path / "out" / "drive.csv").read_text("utf-8"))[0]
    assert float(drive["hl_stops"]) < 0.06 and float(drive["hl_detail"]) > 0.95 and float(drive["jod"]) > 9
    assert float(drive["flicker"]) < 0.02 and int(drive["frames"]) == 3
    rows = rows_of((tmp_path / "out" / "pictures.csv").read_text("utf-8"))
    assert [row["name"] for row in rows] == ["frame 00000", "frame 00001", "frame 00002"]


def test_a_video_against_another(tmp_path: Path) -> None:
    frames = [scene(seed=n) for n in range(2)]
    truth = write_video(tmp_path / "t.mkv", frames, "pq")
    result = write_video(tmp_path / "r.mkv", [np.minimum(frame, 1) for frame in frames], "hlg")
    report = evaluate(Request(result=result, truth=truth, jod=False))
    assert report.drive is not None and report.drive.hl_stops > 0.2 and math.isnan(report.drive.flicker)
    assert "not measured" in report.parameters["flicker"] and report.drive.mid_stops < 0.05
    same = evaluate(Request(result=truth, truth=truth, jod=False))
    assert same.drive.hl_stops == pytest.approx(0, abs=1e-6) and all(math.isinf(r.values["psnr_l"]) for r in same.rows)


def test_videos_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    frames = [scene(seed=n) for n in range(3)]
    truth = make_drive(tmp_path / "gt.npz", frames)
    for count, words in ((2, "ends after 2 frames"), (4, "more frames than the truth")):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            np.save(folder / f"{number:04d}.npy", frames[0])
        for jod in (False, True):
            with pytest.raises(InputError, match=words):
                evaluate(Request(result=folder, truth=truth, jod=jod))
    with pytest.raises(InputError, match=r"no \.npy frames"):
        evaluate(Request(result=tmp_path, truth=truth, jod=False))
    with pytest.raises(InputError, match="not a video by its name"):
        evaluate(Request(result=truth, truth=truth, jod=False))
    with pytest.raises(InputError, match="no such file"):
        evaluate(Request(result=tmp_path / "no.mp4", truth=truth, jod=False))
    with pytest.raises(InputError, match="for pictures"):
        evaluate(Request(result=tmp_path / "4", truth=truth, jod=False, align=True))
    for name, content, words in (
        ("cut.npz", truth.read_bytes()[:500], "not a .npz"),
        ("text.npz", b"words", "not a .npz"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=words):
            read_truth(tmp_path / name, 203.0)
    np.savez(tmp_path / "other.npz", light=np.zeros(3))
    with pytest.raises(InputError, match=r"needs a key `hdr`.*light"):
        read_truth(tmp_path / "other.npz", 203.0)
    make_drive(tmp_path / "short.npz", frames, yaw=np.zeros(2))
    with pytest.raises(InputError, match="one value a frame"):
        read_truth(tmp_path / "short.npz", 203.0)


@pytest.mark.skipif(not BENCH.exists(), reason="the bench lives outside the repository; this is an extra check")
@pytest.mark.parametrize("with_text", [False, True])
def test_the_bench_agrees_on_every_score(tmp_path: Path, with_text: bool) -> None:
    rng = np.random.default_rng(5)
    frames = [scene(72, 96, seed=1) * np.float32(1 + 0.05 * n) for n in range(4)]
    more = {}
    if with_text:
        more["overlay"] = np.zeros((4, 72, 96), np.uint8)
        more["overlay"][:, 60:66, 40:90] = 255
    truth = make_drive(tmp_path / "gt.npz", frames, **more)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(frames):
        noise = np.exp2(
            0.2 * cv2.GaussianBlur(rng.standard_normal(frame.shape), (0, 0), 3) + 0.1 * rng.standard_normal()
        )
        np.save(folder / f"{number:04d}.npy", (np.minimum(frame, 1.6) * noise).astype(np.float32))
    command = [sys.executable, str(BENCH), str(truth), str(folder), "--json"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    drive = evaluate(Request(result=folder, truth=truth)).drive
    for name in ("hl_stops", "hl_bias", "hl_detail", "mid_stops", "flicker", "pu_psnr"):
        assert getattr(drive, name) == pytest.approx(told[name], rel=1e-3, abs=1e-4), name
    assert drive.jod == pytest.approx(told["jod"], abs=0.01)


# --- progress and help


def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    times = iter([0.0, 0.0, 2.0, 6.0, 8.0, 20.0])
    next(times)
    stream = io.StringIO()
    with Bar("pictures", 4, stream=stream, now=lambda: next(times)) as bar:
        for _ in range(4):
            bar.advance()
    assert stream.getvalue() == "pictures: 2/4, 0.3 a second, 0:00:06 to go\n"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_pipeline.main(["evaluate", "--help"])
    told = capsys.readouterr().out
    assert stop.value.code == 0 and told.count("run_pipeline.py evaluate ") >= 6 and "could not be run" in told


def test_errors_end_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_pipeline.main(["evaluate", str(tmp_path / "a.hdr"), str(tmp_path / "b.hdr"), "--no-jod"]) == 2
    assert "no such file" in capsys.readouterr().err
    light = write_hdr(tmp_path / "a.hdr", scene())
    (tmp_path / "file").write_text("")
    words = ["evaluate", str(light), str(light), "--no-jod", "--output", str(tmp_path / "file")]
    assert run_pipeline.main(words) == 2 and "choose another folder" in capsys.readouterr().err
