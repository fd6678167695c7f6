"""The GPU bench without a GPU: floors against hand arithmetic and PyTorch's counter, sections, tables, plots, and its works on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench import device_time, gpu, gpu_tables, gpu_work
from bench.device_time import module_ms
from bench.floors import Ceilings, Layer, floor_seconds, layer_seconds, network_layers, picture_layers
from bench.scattered import SPREAD_PX, scattered_network
from bench.sections import Section, run_rows, run_sections
from bench.svg import line_plot
from models import registry
from models.dcdr_unet import DCRB

ROOT = Path(__file__).resolve().parents[1]
CEILINGS = Ceilings(4e12, {"bf16": 800e12, "fp16": 800e12, "fp32": 50e12})


def by_name(layers: list[Layer]) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers}


def test_layers_agree_with_hand_arithmetic() -> None:
    layers = by_name(network_layers("dcdr_unet", 64, 1080, 1920, "bf16"))
    full, quarter = 1080 * 1920, 270 * 480
    conv = layers["net_r.conv_full_in"]
    assert conv.flops == 2 * 9 * 64 * 64 * full
    assert conv.bytes == 2 * (2 * 64 * full + 9 * 64 * 64)
    deform = layers["net_r.blocks_quarter.3 (deform)"]
    assert deform.flops == 2 * 9 * 64 * 64 * quarter
    assert deform.bytes == 2 * (3 * 64 * quarter + 9 * 64 * 64) + 4 * 27 * quarter
    down = layers["net_r.down_half"]
    assert down.flops == 2 * 9 * 64 * 64 * full / 4
    assert down.bytes == 2 * (64 * full + 64 * full / 4 + 9 * 64 * 64)
    mix = layers["net_t.mix"]
    assert (mix.precision, mix.flops, mix.bytes) == ("fp32", 2 * 64 * 64 * full, 4 * (128 * full + 64 * 64))


def test_a_picture_that_needs_padding_counts_the_padded_one() -> None:
    padded, odd = (by_name(network_layers("dcdr_unet", 16, *size, "fp32")) for size in ((64, 64), (61, 63)))
    assert odd["net_r.conv_full_in"] == padded["net_r.conv_full_in"]


@pytest.mark.parametrize(
    ("architecture", "sft"),
    [
        ("residual_unet", False),
        ("residual_unet", True),
        ("hdrunet", True),
        ("dcdr_unet", False),
        ("dcdr_unet_deep", True),
    ],
)
def test_flops_agree_with_pytorchs_counter(architecture: str, sft: bool) -> None:
    """Under gradients everything is an aten convolution, the fast deformable backend's product too."""
    network = registry.build(architecture, 16, sft)
    with FlopCounterMode(display=False) as counter:
        network(torch.rand(1, 3, 64, 96))
    counted = sum(layer.flops for layer in network_layers(architecture, 16, 64, 96, "fp32", sft))
    assert counted == counter.get_total_flops()


def test_a_floor_is_the_longer_of_product_and_traffic_summed_over_layers() -> None:
    product = Layer("a", "convolution", "bf16", 8e12, 1.0)
    traffic = Layer("b", "elementwise", "fp32", 0.0, 4e10)
    assert layer_seconds(product, CEILINGS) == pytest.approx(0.01)
    assert layer_seconds(traffic, CEILINGS) == pytest.approx(0.01)
    assert floor_seconds([product, traffic], CEILINGS) == pytest.approx(0.02)
    unpack = by_name(picture_layers(1080, 1920))["unpack to linear light"]
    assert unpack.bytes == 13.5 * 1080 * 1920


def test_scattered_networks_scatter_and_hold_no_layer_of_zeros() -> None:
    network = scattered_network("tiny", "dcdr_unet_deep")
    spreads: list[float] = []
    for module in network.modules():
        if isinstance(module, DCRB):
            module.aim.register_forward_hook(lambda _m, _i, out: spreads.append(float(out[:, :18].std())))
    with torch.no_grad():
        network(torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(9)))
    assert spreads == pytest.approx([SPREAD_PX] * 18, rel=0.3)
    assert all(parameter.any() for name, parameter in network.named_parameters() if name.endswith("weight"))


def test_modules_are_timed_by_path() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    spent = module_ms(
        network, lambda m: isinstance(m, nn.Conv2d), lambda: network(torch.rand(1, 3, 32, 32)), "cpu", runs=3
    )
    assert list(spent) == ["0", "2"]
    assert all(value > 0 for value in spent.values())
    assert not network[0]._forward_hooks


def test_a_row_that_fails_says_so_and_the_next_goes_on(tmp_path: Path) -> None:
    def broken() -> dict:
        raise RuntimeError("CUDA error:\n  out of luck")

    run_rows(tmp_path / "rows", [("a", broken), ("b", lambda: {"ms": 1.0})], 60)
    lines = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert lines == [
        {"plan": ["a", "b"]},
        {"row": "a", "error": "RuntimeError: CUDA error: out of luck"},
        {"row": "b", "ms": 1.0},
    ]


CHILD = """
import json, os, sys, time
name, file = sys.argv[1:3]
with open(file, "w") as out:
    print(json.dumps({"plan": ["one", "two"]}), file=out)
    print(json.dumps({"row": "one", "ms": 2.0}), file=out, flush=True)
    if name == "crash":
        print("illegal access", file=sys.stderr, flush=True)
        os._exit(9)
    if name == "slow":
        time.sleep(600)
    print(json.dumps({"row": "two", "ms": 3.0}), file=out)
"""


def test_sections_keep_what_was_measured_before_a_crash_and_name_what_was_not(tmp_path: Path) -> None:
    sections = [Section("well", 1, 30), Section("crash", 1, 30), Section("slow", 1, 15), Section("last", 1000, 1000)]
    outcome = run_sections(
        sections,
        lambda section, file, _: [sys.executable, "-S", "-c", CHILD, section.name, str(file)],
        tmp_path,
        600,
    )
    assert [(row["section"], row["row"]) for row in outcome.rows] == [
        ("well", "one"),
        ("well", "two"),
        ("crash", "one"),
        ("slow", "one"),
    ]
    left_out = dict(outcome.left_out)
    assert left_out["crash: two"] == "its process ended with 9: illegal access"
    assert left_out["slow: two"] == "stopped after 15 s"
    assert "it wants 1000 s" in left_out["last"]


def test_a_plot_is_svg_with_every_point_inside() -> None:
    text = line_plot("fps < 5 & more", "frames", "fps", {"a": [(1, 30), (8, 120)], "b": [(2, 0.7)]})
    root = ElementTree.fromstring(text)
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 3
    assert all(0 < float(one.get("cx", -1)) < 720 and 0 < float(one.get("cy", -1)) < 440 for one in circles)
    with pytest.raises(ValueError, match="above 0"):
        line_plot("", "", "", {"a": [(0, 1)]})


class HostEvent:
    def synchronize(self) -> None:
        """Everything is done at once here."""


class HostStreams:
    """Streams of a machine without a GPU: work is done where it is launched."""

    def launch(self, _stream: str, work: Callable[[], None]) -> None:
        work()

    def record(self, _stream: str) -> HostEvent:
        return HostEvent()

    def wait(self, _stream: str, _event: HostEvent) -> None:
        """In order anyway."""

    def synchronize(self) -> None:
        """Nothing is on its way."""

    def host(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype)

    device = host

    def free_bytes(self) -> int:
        return 1 << 30

    def forget(self) -> None:
        """Nothing is cached."""


TINY = gpu_work.Picture("1080p", 48, 64)
"""Named as a real one, so that tables find its layers."""


def test_works_run_on_a_cpu_and_make_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_time, "MOST_RUNS", 5)
    monkeypatch.setattr(gpu_work, "DISTINCT_FRAMES", 2)
    setting = gpu_work.Setting("tiny", TINY, "fp32", device="cpu")
    engine = gpu_work.engine_row(setting, 0.01, batch_frames=2, make_streams=lambda _: HostStreams())
    assert engine["redone_frames"] == 0
    rows = [
        {"section": "base at 1080p", "row": "engine", **engine},
        {"section": "base at 1080p", "row": "baseline", **gpu_work.baseline_row(setting)},
        {"section": "base at 1080p", "row": "compute alone, recorded", **gpu_work.compute_row(setting, False)},
        {"section": "layers", "row": "tiny", **gpu_work.layers_row(setting)},
        {"section": "batches", "row": "network alone, tiny, batch 2", **gpu_work.network_row(setting, 2)},
        {"section": "networks and pictures", "row": "engine, tiny, 1080p", **engine},
        {"section": "deformable convolution", "row": "x", **gpu_work.deform_row("auto bf16", TINY, 4, 16, "cpu")},
        {"section": "ceilings", "row": "copy within the device", "bytes_per_second": 4e12},
        {"section": "ceilings", "row": "b", "precision": "bf16", "flops_per_second": 8e14},
        {"section": "ceilings", "row": "c", "precision": "fp32", "flops_per_second": 5e13},
        {"section": "float16", "row": "engine, fp16", "error": "RuntimeError: a | b"},
    ]
    layers = rows[3]["layers_ms"]
    assert {"net_r.conv_in", "net_r.blocks_half_in.0 (deform)", "net_r.blocks_quarter.7.aim"} <= layers.keys()
    facts = {"device": "No GPU", "torch": "2", "cuda": None, "python": "3", "seconds": 1.0, "rows": rows}
    facts["choices"] = ["colour by torch: a test"]
    text = gpu_tables.report({**facts, "left_out": [("batches: b", "its time was over")]})
    assert "times the baseline's speed" in text
    assert "| net_r.blocks_half_in.0 (deform) | deformable convolution, fp32 |" in text
    assert "RuntimeError: a / b" in text
    assert "| batches: b | its time was over |" in text
    assert set(gpu_tables.plots(rows)) == {"fps_by_batch", "ms_by_pixels"}


def test_the_baseline_computes_what_the_engine_computes() -> None:
    setting = gpu_work.Setting("tiny", TINY, "fp32", device="cpu")
    coded = torch.rand(1, 3, 48, 64)
    ours = setting.model.restore(coded, "fp32")
    with gpu_work.torchvision_eager():
        assert torch.allclose(setting.model.restore(coded, "fp32"), ours, atol=1e-5)


def test_every_section_plans_rows_of_different_names() -> None:
    for section in gpu.SECTIONS:
        names = [name for name, _ in gpu.planned(section.name, "cpu")]
        assert names
        assert len(set(names)) == len(names)


def test_it_imports_nothing_that_a_bare_gpu_box_lacks() -> None:
    absent = ["av", "ray", "cv2", "kornia", "omegaconf", "rich", "matplotlib", "triton"]
    words = f"import sys; sys.modules.update(dict.fromkeys({absent})); import bench.gpu"
    subprocess.run([sys.executable, "-c", words], cwd=ROOT, check=True, timeout=240)


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert gpu.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


@pytest.mark.gpu
def test_the_most_important_section_runs_on_a_gpu(tmp_path: Path) -> None:
    assert gpu.main(["--output", str(tmp_path), "--seconds", "60", "--only", "ceilings"]) == 0
    facts = json.loads(next(tmp_path.glob("gpu_*.json")).read_text())
    assert not [row for row in facts["rows"] if "error" in row]
