"""The GPU bench's report: its tables and plots, from its rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.ceilings import measured
from bench.floors import Ceilings, Layer, floor_seconds, layer_seconds
from bench.gpu_work import layers_of
from bench.svg import line_plot

Row = dict[str, Any]

TARGET_FPS, TARGET_RATIO = 120.0, 2.5
"""What issue 4 asks of `base` at 1080p: frames a second, and times the baseline's speed."""

COPIES_HIDDEN = 1.05
"""The engine's time over its compute time, at most."""


def report(facts: Row) -> str:
    """Everything as Markdown. facts: as bench.gpu gathers them."""
    rows, limits = facts["rows"], measured(facts["rows"])
    parts = [
        f"# {facts['device']}",
        f"torch {facts['torch']}, CUDA {facts['cuda']}, Python {facts['python']}; `python -m bench.gpu`, {facts['seconds']:.0f} s.",
        "\n".join(f"- {choice}" for choice in facts["choices"]),
        "## In short",
        *_summary(rows),
        "## Ceilings",
        _ceilings(rows),
        "## Times",
        "Milliseconds of one frame; floor: the sum over layers of max(FLOPs / matrix rate, bytes / bandwidth).",
        _times(rows, limits),
        *_layers(rows, limits),
        "## Deformable convolution alone",
        _table(("what", "map", "ms"), ((row["row"], row["map"], f"{row['ms']:.3f}") for row in rows if "map" in row)),
        "## Failed",
        _table(("section", "row", "error"), ((r["section"], r["row"], r["error"]) for r in rows if "error" in r)),
        "## Left out",
        _table(("what", "why"), facts["left_out"]),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(rows: list[Row]) -> list[str]:
    spent = {row["row"]: row["ms"] for row in rows if row["section"] == "base at 1080p" and "ms" in row}
    if "engine" not in spent:
        return ["The engine was not measured; see below."]
    fps = 1000 / spent["engine"]
    lines = [f"- `base` at 1080p: {fps:.0f} frames a second ({_held(fps >= TARGET_FPS)}: at least {TARGET_FPS:.0f})."]
    if "baseline" in spent:
        ratio = spent["baseline"] / spent["engine"]
        lines.append(
            f"- {ratio:.2f} times the baseline's speed ({_held(ratio >= TARGET_RATIO)}: at least {TARGET_RATIO})."
        )
    if "compute alone, recorded" in spent:
        share = spent["engine"] / spent["compute alone, recorded"]
        lines.append(
            f"- Engine time over compute time: {share:.3f} ({_held(share <= COPIES_HIDDEN)}: at most {COPIES_HIDDEN})."
        )
    return ["\n".join(lines)]


def _held(yes: bool) -> str:
    return "holds" if yes else "does not hold"


def _ceilings(rows: list[Row]) -> str:
    lines: list[tuple[str, str]] = []
    for row in rows:
        if "bytes_per_second" in row:
            lines.append((row["row"], f"{row['bytes_per_second'] / 1e12:.2f} TB/s, read plus written"))
        if "flops_per_second" in row:
            lines.append((row["row"], f"{row['flops_per_second'] / 1e12:.0f} TFLOP/s"))
        for way, rate in row.get("host_bytes_per_second", {}).items():
            lines.append((f"pinned host memory, {way}", f"{rate / 1e9:.1f} GB/s"))
    return _table(("what", "measured"), lines)


def _times(rows: list[Row], limits: Ceilings | None) -> str:
    head = ("section", "row", "network", "picture", "precision", "ms", "fps", "floor ms", "times floor", "reserved GB")
    lines = []
    for row in rows:
        if "ms" not in row or "network" not in row:
            continue
        floor = floor_ms(row, limits)
        memory = f"{row['reserved_bytes'] / 1e9:.2f}" if "reserved_bytes" in row else ""
        known = (f"{floor:.2f}", f"{row['ms'] / floor:.1f}") if floor else ("", "")
        lines.append(
            (
                row["section"], row["row"], f"{row['network']} {row['architecture']}", row["picture"], row["precision"],
                f"{row['ms']:.2f}", f"{1000 / row['ms']:.1f}", *known, memory,
            )
        )  # fmt: skip
    return _table(head, lines)


def floor_ms(row: Row, limits: Ceilings | None) -> float | None:
    """Floor of a row's frame: of the network, and of the work around it where the row has that too. None without ceilings."""
    if limits is None or row["precision"] not in limits.flops_per_second:
        return None
    network, around = layers_of(row)
    alone = row["row"].startswith("network alone") or row["section"] == "torch.compile"
    return 1000 * floor_seconds(network if alone else network + around, limits)


def _layers(rows: list[Row], limits: Ceilings | None) -> list[str]:
    parts = []
    for row in rows:
        if "layers_ms" not in row:
            continue
        spent = row["layers_ms"]
        lines = []
        for layer in layers_of(row)[0]:
            if layer.name in spent:
                lines.append(_layer(layer, spent[layer.name], limits))
        total = sum(spent.values())
        parts += [
            f"## Layers of {row['network']} at {row['picture']}",
            f"Launched one by one, so gaps between launches count; the sum is {total:.2f} ms.",
            _table(("layer", "kind", "GFLOP", "MB", "floor ms", "measured ms", "times floor"), lines),
        ]
    return parts


def _layer(layer: Layer, spent: float, limits: Ceilings | None) -> tuple[str, ...]:
    work = (layer.name, f"{layer.kind}, {layer.precision}", f"{layer.flops / 1e9:.1f}", f"{layer.bytes / 1e6:.0f}")
    if limits is None:
        return (*work, "", f"{spent:.3f}", "")
    floor = 1000 * layer_seconds(layer, limits)
    return (*work, f"{floor:.3f}", f"{spent:.3f}", f"{spent / floor:.1f}")


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    rows = ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
    head = tuple(head)
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows]) if rows else "Nothing."


def plots(rows: list[Row]) -> dict[str, str]:
    """Name -> SVG: frames a second against the batch, and time of a frame against its pixels. Only those that have points."""
    batches: dict[str, list[tuple[float, float]]] = {}
    sizes: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if "ms" not in row or "network" not in row:
            continue
        words = row["row"].split(", ")
        if row["section"] == "batches":
            batches.setdefault(", ".join(words[:2]), []).append((row["batch"], 1000 / row["ms"]))
        elif row["section"] == "networks and pictures" and row["row"].startswith("engine, ") and len(words) == 3:
            sizes.setdefault(words[1], []).append((row["pixels"], row["ms"]))
    made = {}
    if batches:
        made["fps_by_batch"] = line_plot("1080p, frames a second", "frames a batch", "frames a second", batches)
    if sizes:
        made["ms_by_pixels"] = line_plot("The engine, time of a frame", "pixels", "milliseconds", sizes)
    return made
