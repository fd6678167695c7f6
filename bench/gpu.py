"""GPU bench: ceilings, floors, and what is measured against them, in less than eight minutes.

    python -m bench.gpu [--output bench/results] [--seconds 450]

Needs torch, torchvision, triton, numpy and safetensors, and a CUDA GPU; no Ray, no PyAV. Writes NAME.md, NAME.json and two plots as
SVG, NAME being gpu_ and the device's name. Sections run in the order of their weight, each in a process of its own; what failed stands in
the table with its error, and what there was no time for is listed by name.

The named baseline is torchvision's deformable convolution in eager mode, float32 with TF32 on, batch 1, on the default stream.
Networks are untrained; their offsets spread over one pixel, more than a trained network's.
"""

from __future__ import annotations

import argparse
import functools
import platform
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench import ceilings, gpu_work
from bench.ceilings import measured
from bench.gpu_tables import floor_ms, plots, report
from bench.gpu_work import PICTURES, Setting
from bench.results_files import write_results
from bench.sections import Row, Section, Work, run_rows, run_sections
from models.deform_conv import choose_backend
from pipeline import fused_color

SECONDS = 450.0
"""For everything; eight minutes are the limit."""

SECTIONS = (
    Section("ceilings", 15, 60),
    Section("base at 1080p", 20, 120),
    Section("layers", 15, 45),
    Section("streams and graphs", 20, 60),
    Section("deformable convolution", 15, 60),
    Section("networks and pictures", 20, 90),
    Section("float16", 15, 45),
    Section("batches", 20, 75),
    Section("torch.compile", 40, 120),
)
BATCHES = (1, 2, 4, 8)


def planned(section: str, device: str) -> list[tuple[str, Work]]:
    """Rows of a section: name, and what measures it. KeyError for a section that there is not."""
    base = functools.partial(Setting, device=device)
    full = PICTURES["1080p"]
    product, eager = base("base", full), base("base", full, "fp32")
    bind = functools.partial

    def ceiling_rows() -> list[tuple[str, Work]]:
        def matrix(precision: str) -> Row:
            return {"precision": precision, "flops_per_second": ceilings.matrix_rate(precision, device)}

        return [
            ("copy within the device", lambda: {"bytes_per_second": ceilings.copy_rate(device)}),
            *[(f"matrix product, {name}", bind(matrix, name)) for name in ceilings.DTYPES],
            ("copies between host and device", lambda: {"host_bytes_per_second": ceilings.host_rates(device)}),
        ]

    def first_rows() -> list[tuple[str, Work]]:
        return [
            ("engine", bind(gpu_work.engine_row, product)),
            ("baseline", bind(gpu_work.baseline_row, eager)),
            ("compute alone, recorded", bind(gpu_work.compute_row, product, True)),
            ("network alone, batch 1", bind(gpu_work.network_row, product, 1)),
        ]

    def switch_rows() -> list[tuple[str, Work]]:
        return [
            (
                f"engine, overlap {'on' if overlap else 'off'}, graphs {'on' if graphs else 'off'}",
                bind(gpu_work.engine_row, product, overlap=overlap, graphs=graphs),
            )
            for overlap in (True, False)
            for graphs in (True, False)
        ] + [("compute alone, launched", bind(gpu_work.compute_row, product, False))]

    def deform_rows() -> list[tuple[str, Work]]:
        kinds = ("auto bf16", "torchvision fp32", "torchvision fp16", "plain bf16", "auto fp16")
        return [
            (f"{kind}, 64 channels, 1080p / {scale}", bind(gpu_work.deform_row, kind, full, scale, 64, device))
            for scale in (4, 2)
            for kind in kinds
        ]

    def size_rows() -> list[tuple[str, Work]]:
        rows = []
        for name in ("1080p", "2160p", "720p"):
            for size in ("base", "small", "tiny"):
                rows.append((f"engine, {size}, {name}", bind(gpu_work.engine_row, base(size, PICTURES[name]), 0.5)))
        for size in ("small", "tiny"):
            rows.append((f"baseline, {size}, 1080p", bind(gpu_work.baseline_row, base(size, full, "fp32"))))
        deep = base("base", full, architecture="dcdr_unet_deep")
        rows.append(("deeper scales: engine, base", bind(gpu_work.engine_row, deep, 0.5)))
        rows.append(("shipped: engine, small", bind(gpu_work.engine_row, base("checkpoint:small", full), 0.5)))
        return rows

    def half_rows() -> list[tuple[str, Work]]:
        half = base("base", full, "fp16")
        return [
            ("engine, fp16", bind(gpu_work.engine_row, half)),
            ("torchvision eager, fp16", bind(gpu_work.baseline_row, half)),
            ("engine, fp32", bind(gpu_work.engine_row, eager)),
        ]

    def batch_rows() -> list[tuple[str, Work]]:
        rows = []
        for size in ("base", "tiny", "small"):
            setting = base(size, full)
            for batch in BATCHES:
                rows.append(
                    (
                        f"engine, {size}, {batch} frames a batch",
                        bind(gpu_work.engine_row, setting, 0.4, batch_frames=batch),
                    )
                )
            for batch in BATCHES:
                rows.append((f"network alone, {size}, batch {batch}", bind(gpu_work.network_row, setting, batch)))
        return rows

    def compiled_rows() -> list[tuple[str, Work]]:
        return [
            ("ours, bf16", bind(gpu_work.compiled_row, product, functools.partial(ceilings.tf32, False))),
            ("torchvision, fp32", bind(gpu_work.compiled_row, eager, gpu_work.torchvision_eager)),
            (
                "torchvision, fp16",
                bind(gpu_work.compiled_row, base("base", full, "fp16"), gpu_work.torchvision_eager),
            ),
        ]

    makers = {
        "ceilings": ceiling_rows,
        "base at 1080p": first_rows,
        "layers": lambda: [("base at 1080p", bind(gpu_work.layers_row, product))],
        "streams and graphs": switch_rows,
        "deformable convolution": deform_rows,
        "networks and pictures": size_rows,
        "float16": half_rows,
        "batches": batch_rows,
        "torch.compile": compiled_rows,
    }
    return makers[section]()


def machine() -> Row:
    """What it was measured on."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "choices": [
            str(choose_backend("cuda", torch.bfloat16, False)),
            str(fused_color.backend(torch.device("cuda"))),
        ],
    }


def main(argv: list[str] | None = None) -> int:
    """Run everything, or in a child one section. 2 when there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("bench/results"), help="folder of the results")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for everything (default: %(default)s)")
    parser.add_argument("--only", nargs="*", metavar="SECTION", help=f"of: {', '.join(one.name for one in SECTIONS)}")
    parser.add_argument("--child", nargs=3, metavar=("SECTION", "FILE", "SECONDS"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        sys.stderr.write("error: bench.gpu needs a CUDA device, and torch sees none; `make bench` measures a CPU.\n")
        return 2
    if args.child:
        section, file, seconds = args.child
        run_rows(Path(file), planned(section, "cuda"), float(seconds))
        return 0
    began = time.monotonic()
    wanted = [one for one in SECTIONS if not args.only or one.name in args.only]
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_sections(wanted, _command, Path(folder), args.seconds)
    limits = measured(outcome.rows)
    for row in outcome.rows:
        if "ms" in row and "network" in row:
            row["floor_ms"] = floor_ms(row, limits)
    facts = {**machine(), "seconds": time.monotonic() - began, "rows": outcome.rows, "left_out": outcome.left_out}
    name = "gpu_" + facts["device"].lower().replace(" ", "_")
    text = report(facts)
    write_results(args.output, name, text, facts)
    for plot, svg in plots(facts["rows"]).items():
        (args.output / f"{name}_{plot}.svg").write_text(svg)
    sys.stdout.write(text)
    return 0


def _command(section: Section, file: Path, seconds: float) -> list[str]:
    return [sys.executable, "-m", "bench.gpu", "--child", section.name, str(file), f"{seconds:.0f}"]


if __name__ == "__main__":
    sys.exit(main())
