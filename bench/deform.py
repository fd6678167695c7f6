"""CPU bench of the deformable convolution: the fast backend against torchvision's and against a plain convolution.

    python -m bench.deform [--output bench/results]

One layer of `base` at quarter size of 1080p: 64 channels, 270x480, offsets of one pixel. Runs of the kinds alternate and medians are
told, as wall time (other programs disturb it) and as CPU time of the process (they hardly do). With one thread, as `convert` computes
each frame, beside it the shipped network on a 960x540 frame. Every setting in a process of its own: one thread, all cores, and two
switches of the environment, THP_MEM_ALLOC_ENABLE=1 (PyTorch asks for huge pages) and OMP_WAIT_POLICY=PASSIVE (waiting threads sleep).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.results_files import write_results
from models import checkpoints
from models.convolution import conv2d
from models.deform_conv import deform_conv2d

CHANNELS, HEIGHT, WIDTH = 64, 270, 480
FRAME = (540, 960)
ROUNDS, NETWORK_ROUNDS = 7, 3
NETWORK = "small"

LEAST_OVER_TORCHVISION, MOST_OVER_PLAIN = 8.0, 5.0
"""The house's bar, in float32: so many times faster than torchvision, at most so many times a plain convolution."""

SETTINGS: tuple[tuple[str, int, dict[str, str]], ...] = (
    ("1 thread", 1, {}),
    ("1 thread, huge pages", 1, {"THP_MEM_ALLOC_ENABLE": "1"}),
    ("all cores", 0, {}),
    ("all cores, sleeping waits", 0, {"OMP_WAIT_POLICY": "PASSIVE"}),
)
"""Name, threads (0 = one a core), environment."""

Row = dict[str, Any]


def run_deform(output: Path) -> str:
    """Measure every setting in a process of its own. Returns Markdown; writes deform.md and deform.json into `output`."""
    rows = []
    for name, threads, variables in SETTINGS:
        clean = {
            k: v
            for k, v in os.environ.items()
            if k not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")
        }
        words = [sys.executable, "-m", "bench.deform", "--child", str(threads or os.cpu_count() or 1)]
        done = subprocess.run(words, env={**clean, **variables}, check=True, capture_output=True, text=True)
        rows += [{"setting": name, **row} for row in json.loads(done.stdout)]
    facts = {"machine": f"{_processor()}, {os.cpu_count()} cores, torch {torch.__version__}", "rows": rows}
    text = report(facts)
    write_results(output, "deform", text + "\n", facts)
    return text


def measure(threads: int) -> list[Row]:
    """Rows of this process: kind, precision, and medians of wall and CPU milliseconds."""
    torch.set_num_threads(threads)
    rows = _alternate(_kinds(torch.float32, threads == 1), ROUNDS)
    if threads > 1:
        return rows
    rows += _alternate(_kinds(torch.bfloat16, False), ROUNDS)
    model = checkpoints.load(NETWORK)
    coded = torch.rand(1, 3, *FRAME, generator=torch.Generator().manual_seed(3))
    return rows + _alternate(
        {(NETWORK, name): lambda name=name: model.restore(coded, name) for name in ("fp32", "bf16")}, NETWORK_ROUNDS
    )


def _kinds(dtype: torch.dtype, torchvision: bool) -> dict[tuple[str, str], Callable[[], object]]:
    chance = torch.Generator().manual_seed(0)
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]

    def random(*size: int) -> torch.Tensor:
        made = torch.randn(size, generator=chance)
        return made.contiguous(memory_format=torch.channels_last) if len(size) == 4 else made

    x, weight, bias = random(1, CHANNELS, HEIGHT, WIDTH), random(CHANNELS, CHANNELS, 3, 3) / 24, random(CHANNELS)
    x, weight, bias = (tensor.to(dtype) for tensor in (x, weight, bias))
    offset, mask = random(1, 18, HEIGHT, WIDTH), random(1, 9, HEIGHT, WIDTH).sigmoid()
    kinds: dict[tuple[str, str], Callable[[], object]] = {
        ("fast", precision): lambda: deform_conv2d(x, offset, mask, weight, bias, backend="fast"),
        ("plain convolution", precision): lambda: conv2d(x, weight, bias, (1, 1), (1, 1)),
    }
    if torchvision:
        from torchvision.ops import deform_conv2d as operator

        kinds["torchvision", precision] = lambda: operator(x, offset, weight, bias, padding=1, mask=mask)
    return kinds


def _alternate(works: dict[tuple[str, str], Callable[[], object]], rounds: int) -> list[Row]:
    """Every work once a round, after a round that is not counted."""
    spent: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in works}
    with torch.no_grad():
        for number in range(rounds + 1):
            for key, work in works.items():
                wall, cpu = time.perf_counter(), time.process_time()
                work()
                if number:
                    spent[key].append((time.perf_counter() - wall, time.process_time() - cpu))
    rows = []
    for (kind, precision), times in spent.items():
        wall, cpu = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        rows.append({"kind": kind, "precision": precision, "wall_ms": wall, "cpu_ms": cpu})
    return rows


def report(facts: Row) -> str:
    """The table and whether the bar is held."""
    lines = [
        f"{CHANNELS} channels at {HEIGHT}x{WIDTH}, medians of {ROUNDS} alternated runs; {NETWORK}: one {FRAME[1]}x{FRAME[0]} frame, "
        f"median of {NETWORK_ROUNDS}. {facts['machine']}",
        "",
        "| setting | what | precision | wall ms | CPU ms |",
        "|---|---|---|---|---|",
    ]
    for row in facts["rows"]:
        cells = (row["setting"], row["kind"], row["precision"], f"{row['wall_ms']:.0f}", f"{row['cpu_ms']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    first = {(row["kind"], row["precision"]): row for row in facts["rows"] if row["setting"] == SETTINGS[0][0]}
    fast, plain, slow = (first[kind, "fp32"] for kind in ("fast", "plain convolution", "torchvision"))
    lines.append("")
    for clock in ("wall_ms", "cpu_ms"):
        faster, over = slow[clock] / fast[clock], fast[clock] / plain[clock]
        held = faster >= LEAST_OVER_TORCHVISION and over <= MOST_OVER_PLAIN
        lines.append(
            f"- {clock.removesuffix('_ms')}, fp32, {SETTINGS[0][0]}: {faster:.1f} times as fast as torchvision (at least "
            f"{LEAST_OVER_TORCHVISION:g}), {over:.1f} times a plain convolution (at most {MOST_OVER_PLAIN:g}): "
            f"{'holds' if held else 'does not hold'}"
        )
    return "\n".join(lines)


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    for line in facts.read_text().splitlines() if facts.exists() else ():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {torch.backends.cpu.get_cpu_capability()}"
    return torch.backends.cpu.get_cpu_capability()


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("bench/results"), help="folder of the table")
    parser.add_argument("--child", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        sys.stdout.write(json.dumps(measure(args.child)))
        return
    sys.stdout.write(run_deform(args.output) + "\n")


if __name__ == "__main__":
    main()
