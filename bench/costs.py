"""CPU seconds of every part of a conversion, alone: what docs/scaling.md reckons with.

    python -m bench.costs [--clips ../shared/data/clips] [--output bench/results]

Decoding, colour both ways with grade and light levels, and the profiles' encoders on frames of real clips (those and the highlights of
bench/encode_quality.py); the networks on random frames of 960x540. One thread but for the encoders. CPU time of the process, which other
programs disturb little; the smallest of the rounds, one round for encoders. Beside the networks their floor (bench/floors.py) from the rates that a large copy
and a large matrix product (a 1x1 convolution, by oneDNN) reach here on one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import torch

from bench.encode_quality import CLIPS, PEAK_NITS, WHITE_NITS, encode, read_clip, settings
from bench.floors import Ceilings, floor_seconds, network_layers
from bench.results_files import write_results
from bench.scattered import scattered_model
from models import checkpoints
from models.convolution import conv2d
from models.model import PRECISIONS, Model
from pipeline import light
from pipeline.color import OutputSpec, pack, unpack
from pipeline.planes import frame_planes
from pipeline.probe import probe, read_color
from pipeline.stages.grade import Grade
from pipeline.stages.reconstruct import Reconstruct

FRAMES, START_SECONDS = 8, 1.0
ROUNDS = 3
NETWORK_FRAME = (540, 960)
COPY_BYTES = 1 << 28
PRODUCT_SIDE = 1024
ENCODINGS = ["libx265:veryfast:10", "libx265:medium:8", "libx265:ultrafast:22", "libsvtav1:6:10"]
"""Of the default, the profiles `archive` and `preview`, and AV1."""

OUT = OutputSpec("pq", WHITE_NITS, PEAK_NITS)

Row = dict[str, Any]


def measure(clips: Path) -> list[Row]:
    """Every row: part, what it was measured on, width and height of the picture, CPU milliseconds a frame."""
    rows = []
    for name in CLIPS:
        rows += clip_rows(clips / name)
    limits = ceilings()
    rates = {f"matrix product, {name}": rate for name, rate in limits.flops_per_second.items()}
    for name, rate in {"copy, read plus written": limits.bytes_per_second, **rates}.items():
        rows.append({"ceiling": name, "per_second": rate})
    models = {
        "tiny, untrained, DCDR-UNet": scattered_model("tiny"),
        "small, as shipped": checkpoints.load("small"),
        "base, untrained, DCDR-UNet": scattered_model("base"),
    }
    for name, model in models.items():
        for precision in sorted({"fp32", model.best_precision()}):
            rows.append(network_row(name, model, precision, limits))
    return rows


@torch.no_grad()
def ceilings() -> Ceilings:
    """What one core does at best: bytes a second of a copy, FLOPs a second of a product, by CPU time."""
    source = torch.rand(COPY_BYTES // 4)
    target = torch.empty_like(source)
    copy = 2 * COPY_BYTES / (_cpu_ms(lambda: target.copy_(source), 1) / 1000)
    rates = {}
    for name in ("fp32", "bf16"):
        x, weight = torch.randn(1, PRODUCT_SIDE, 64, 64), torch.randn(PRODUCT_SIDE, PRODUCT_SIDE, 1, 1)
        x, weight = (t.to(PRECISIONS[name]).contiguous(memory_format=torch.channels_last) for t in (x, weight))
        spent = _cpu_ms(lambda x=x, weight=weight: conv2d(x, weight, None, (1, 1), (0, 0)), 1)
        rates[name] = 2 * PRODUCT_SIDE**2 * 64 * 64 / (spent / 1000)
    return Ceilings(copy, rates)


def clip_rows(path: Path) -> list[Row]:
    """Decode, colour and encoders on one clip."""
    stream = next(stream for stream in probe(path).streams if stream.kind == "video")
    spec, _ = read_color(stream)
    grade = Grade(WHITE_NITS, PEAK_NITS)
    planes: list[tuple[torch.Tensor, ...]] = []

    def decode() -> None:
        with av.open(str(path)) as file:
            file.streams.video[0].thread_count = 1
            for number, frame in enumerate(file.decode(video=0)):
                if number == 4 * FRAMES:
                    return
                if number < FRAMES and len(planes) < FRAMES:
                    planes.append(tuple(plane[None].clone() for plane in frame_planes(frame)))

    def colour() -> None:
        for number, frame in enumerate(planes):
            packed = pack(grade(unpack(frame, stream.layout, spec)), OUT, torch.tensor([number]))
            light.measure(*packed, OUT.transfer)

    spent = {"decode": _cpu_ms(decode, 4 * FRAMES)}
    spent["colour, grade, light levels"] = _cpu_ms(colour, len(planes))
    clip = read_clip(path, FRAMES, START_SECONDS)
    for choice in settings(ENCODINGS):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "span.mp4"
            name = f"encode, {choice.encoder} {choice.preset} crf {choice.crf}"
            spent[name] = 1000 * encode(clip, choice, file) / FRAMES
    _, height, width = planes[0][0].shape
    return [
        {"part": part, "on": path.name, "width": width, "height": height, "cpu_ms": ms} for part, ms in spent.items()
    ]


def network_row(name: str, model: Model, precision: str, limits: Ceilings) -> Row:
    """The reconstruct stage on one frame, whole."""
    height, width = NETWORK_FRAME
    frame = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))
    stage = Reconstruct(model, precision, 0)
    with torch.inference_mode():
        spent = _cpu_ms(lambda: stage(frame), 1)
    layers = network_layers(model.spec.architecture, model.spec.width, height, width, precision)
    return {
        "part": f"network {name}, {precision}",
        "on": "random frame",
        "width": width,
        "height": height,
        "cpu_ms": spent,
        "floor_ms": 1000 * floor_seconds(layers, limits),
    }


def _cpu_ms(work: Callable[[], object], frames: int) -> float:
    """CPU milliseconds a frame of one call that handles so many: the smallest of the rounds after one to warm up."""
    work()
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        rounds.append(time.process_time() - began)
    return 1000 * min(rounds) / frames


def table(rows: list[Row], header: str) -> str:
    """Markdown, with nanoseconds a pixel, so that sizes can be compared."""
    lines = [
        header,
        "",
        "| part | on | picture | CPU ms a frame | ns a pixel | floor ms |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "ceiling" in row:
            continue
        floor = f"{row['floor_ms']:.0f}" if "floor_ms" in row else ""
        pixels = row["width"] * row["height"]
        cells = (row["part"], row["on"], f"{row['width']}x{row['height']}", f"{row['cpu_ms']:.1f}")
        lines.append(f"| {' | '.join(cells)} | {1e6 * row['cpu_ms'] / pixels:.0f} | {floor} |")
    lines += ["", "| ceiling, one thread, by CPU time | G a second |", "|---|---|"]
    lines += [f"| {row['ceiling']} | {row['per_second'] / 1e9:.1f} |" for row in rows if "ceiling" in row]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, default=Path("../shared/data/clips"), help="folder with the real clips")
    parser.add_argument("--output", type=Path, default=Path("bench/results"), help="folder of the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(args.clips)
    header = f"CPU time, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    write_results(args.output, "costs", table(rows, header), {"header": header, "rows": rows})
    sys.stdout.write(table(rows, header))


if __name__ == "__main__":
    main()
