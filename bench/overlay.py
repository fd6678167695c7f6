"""What the overlay guard does to text and to the picture around it, on virtual drives with and without burnt-in text.

    python -m bench.overlay DRIVES --model tiny

DRIVES: a folder with pairs NAME and NAME-overlay as ../shared/bench/drivesim.py renders them, the second with --overlay and all else equal.
The styles of STYLES are drawn on the frames of NAME as well, high up where skies are, and coded again by libx264. Boxes are found from the
coded clip alone. The stages run in this process, on the first, a middle and the last frame, without encoding the result:

    text_over   share of text pixels (cover above 200 of 255) above 1.1 x white; with and without the guard
    around      mean |log2 Y/Y_without| within 12 px of text, text left out; Y_without: restored from the clip without text
    floor       the same of the two clips' SDR light: what text costs by coding alone
    contrast    log2 of the light right beside the text to the text's own light (median), guarded: above 0, text is darker than its ground

The tables go to bench/results/overlay.{md,json}.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from torch import Tensor

from bench.results_files import write_results
from evaluation.metrics import LUMA_709
from evaluation.nits import read_nits
from models import checkpoints
from models.model import Model
from pipeline.color import coded_signal
from pipeline.errors import InputError
from pipeline.overlay import OverlayBox, find_overlays
from pipeline.stages.overlay import OverlayGuard
from pipeline.stages.reconstruct import Reconstruct

Array = np.ndarray
AROUND_PX = 12
FLOOR_LIGHT = 0.01
"""Added to both sides of a ratio, 1.0 = SDR white."""
FIGURES = ("text_over", "text_over unguarded", "around", "around unguarded", "floor", "contrast")


def _write(layer: Array, text: str, at: tuple[int, int], scale: float, color: tuple[int, int, int], thick: int) -> None:
    """Blend text into layer (H,W,4): R, G, B and cover."""
    mask = np.zeros(layer.shape[:2], np.uint8)
    cv2.putText(mask, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
    share = mask[..., None] / 255.0
    layer[..., :3] = layer[..., :3] * (1 - share) + np.array(color) * share
    layer[..., 3] = np.maximum(layer[..., 3], mask)


def _clock(number: int) -> str:
    return f"2026-03-14 07:42:{11 + number:02d} {57 + 3 * number}km/h"


def plain_text(layer: Array, number: int) -> None:
    """White digits that change with every frame."""
    _write(layer, _clock(number), (12, 30), 0.5, (255, 255, 255), 1)


def outlined_text(layer: Array, number: int) -> None:
    """White with a black outline."""
    _write(layer, _clock(number), (12, 30), 0.55, (0, 0, 0), 4)
    _write(layer, _clock(number), (12, 30), 0.55, (255, 255, 255), 1)


def yellow_text(layer: Array, number: int) -> None:
    """Yellow, two pixels thick."""
    _write(layer, _clock(number), (12, 30), 0.55, (255, 230, 0), 2)


def barred_text(layer: Array, number: int) -> None:
    """White on a dark bar."""
    layer[10:40, :330] = (20, 20, 20, 255)
    _write(layer, _clock(number), (12, 30), 0.5, (255, 255, 255), 1)


def logo_and_text(layer: Array, number: int) -> None:
    """A white ring with a letter in one corner, text in another."""
    cv2.circle(layer, (440, 34), 20, (255, 255, 255, 255), 5, cv2.LINE_AA)
    _write(layer, "S", (431, 43), 0.9, (255, 255, 255), 3)
    _write(layer, _clock(number), (12, 255), 0.5, (255, 255, 255), 1)


STYLES: dict[str, Callable[[Array, int], None]] = {
    "white": plain_text,
    "white, outlined": outlined_text,
    "yellow": yellow_text,
    "white on a bar": barred_text,
    "logo and clock": logo_and_text,
}


def drawn(frames: list[Array], draw: Callable[[Array, int], None]) -> tuple[list[Array], Array, Array]:
    """Frames (H,W,3) uint8 with a style burnt in; cover (T,H,W) uint8 of what is bright in it, and of all of it."""
    out, covers, graphics = [], [], []
    for number, frame in enumerate(frames):
        layer = np.zeros((*frame.shape[:2], 4), np.float32)
        layer[..., :3] = frame
        draw(layer, number)
        cover = layer[..., 3] * (np.abs(layer[..., :3] - 20).max(axis=2) > 5) * (layer[..., :3].max(axis=2) > 128)
        covers.append(cover.astype(np.uint8))
        graphics.append(layer[..., 3].astype(np.uint8))
        out.append(np.rint(layer[..., :3]).clip(0, 255).astype(np.uint8))
    return out, np.stack(covers), np.stack(graphics)


def coded_frames(path: Path) -> list[Array]:
    """Frames of a clip, (H,W,3) uint8 coded R, G, B."""
    return [as_codes(light) for light in read_nits(path, 1.0)]


def as_codes(light: Array) -> Array:
    """Linear light (H,W,3), 1.0 = SDR white -> BT.1886 codes, uint8: what the finding reads."""
    return coded_signal(torch.from_numpy(light), "bt1886").mul_(255).round_().to(torch.uint8).numpy()


def recoded(frames: list[Array]) -> list[Array]:
    """Frames as linear light (H,W,3) after libx264 at crf 20, as drivesim codes its clips."""
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as out:
        stream = out.add_stream(
            "libx264", rate=24, options={"crf": "20", "preset": "medium", "bf": "2", "g": "48", "threads": "1"}
        )
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = context.color_range = 1
        stream.time_base = context.time_base = Fraction(1, 24)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=1, src_color_range=2, dst_color_range=1
            )
            frame.pts, frame.time_base = number, stream.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(data.getvalue())
        file.flush()
        return list(read_nits(Path(file.name), 1.0))


def restore(model: Model, frames: Tensor, boxes: tuple[OverlayBox, ...]) -> Tensor:
    """Frames (N,3,H,W) through the stages in float32, guarded where there are boxes."""
    stage = Reconstruct(model, "fp32", 0)
    with torch.inference_mode():
        if not boxes:
            return torch.cat([stage(frame) for frame in frames.split(1)])
        guard = OverlayGuard(boxes)
        hidden, matte = guard.hide(frames)
        return guard.show(
            torch.cat([stage(frame) for frame in hidden.split(1)]), guard.hold(frames, matte), hidden, matte
        )


@dataclass(frozen=True)
class Plain:
    """The picked frames of a clip without text (N,3,H,W): as they are, and restored."""

    frames: Tensor
    restored: Tensor


def picks(frames: list[Array]) -> list[int]:
    """Numbers of the first, a middle and the last frame."""
    return [0, len(frames) // 2, len(frames) - 1]


def stack(frames: list[Array], picked: list[int]) -> Tensor:
    """Some frames (H,W,3) as (N,3,H,W)."""
    return torch.from_numpy(np.stack([frames[n] for n in picked])).permute(0, 3, 1, 2).contiguous()


def without_text(model: Model, frames: list[Array]) -> Plain:
    """What a clip with text is compared with."""
    picked = stack(frames, picks(frames))
    return Plain(picked, restore(model, picked, ()))


def measure(model: Model, plain: Plain, burnt: list[Array], covers: Array, graphics: Array) -> dict[str, Any]:
    """Figures of one clip. burnt: linear light (H,W,3) with text; covers, graphics (T,H,W) uint8: see `drawn`."""
    boxes = find_overlays([as_codes(light) for light in burnt])
    picked, without = picks(burnt), plain.frames
    withtext = stack(burnt, picked)
    wanted = plain.restored
    results = {"": restore(model, withtext, boxes), " unguarded": restore(model, withtext, ())}
    solid, any_text = covers[picked] > 200, graphics[picked] > 0
    near = np.stack([_within(mask, AROUND_PX) for mask in any_text]) & ~any_text
    found: dict[str, Any] = {"boxes": [[box.x, box.y, box.width, box.height] for box in boxes]}
    for name, result in results.items():
        found[f"text_over{name}"] = float((result.amax(1).numpy()[solid] > 1.1).mean())
        found[f"around{name}"] = float(np.abs(_stops(result) - _stops(wanted))[near].mean())
    found["floor"] = float(np.abs(_stops(withtext) - _stops(without))[near].mean())
    close = np.stack([_within(mask, 3) for mask in any_text]) & near
    guarded = _stops(results[""])
    found["contrast"] = float(np.median(guarded[close]) - np.median(guarded[solid]))
    return found


def _within(mask: Array, px: int) -> Array:
    return cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * px + 1,) * 2)) > 0


def _stops(frames: Tensor) -> Array:
    return np.log2(np.maximum(frames.permute(0, 2, 3, 1).numpy() @ LUMA_709, 0) + FLOOR_LIGHT)


def measure_drive(model: Model, plain: Path, burnt: Path) -> dict[str, dict[str, Any]]:
    """Style -> figures, of one pair of drives: drivesim's own text, then those of STYLES."""
    without = without_text(model, list(read_nits(plain / "sdr.mp4", 1.0)))
    covers = np.load(burnt / "gt.npz")["overlay"]
    found = {"drivesim": measure(model, without, list(read_nits(burnt / "sdr.mp4", 1.0)), covers, covers)}
    codes = coded_frames(plain / "sdr.mp4")
    again = without_text(model, recoded(codes))
    for style, draw in STYLES.items():
        frames, covers, graphics = drawn(codes, draw)
        found[style] = measure(model, again, recoded(frames), covers, graphics)
    return found


def table(results: dict[str, dict[str, dict[str, Any]]], header: str) -> str:
    """Markdown: means over drives for each style, then every drive."""
    lines = [header, "", f"| text | found in | {' | '.join(FIGURES)} |", "|---|" + "---|" * (len(FIGURES) + 1)]
    for style in next(iter(results.values())):
        rows = [found[style] for found in results.values()]
        means = " | ".join(f"{statistics.mean(row[name] for row in rows):.3f}" for name in FIGURES)
        lines.append(f"| {style} | {sum(bool(row['boxes']) for row in rows)} of {len(rows)} | {means} |")
    lines += ["", f"| drive | text | boxes | {' | '.join(FIGURES)} |", "|---|" + "---|" * (len(FIGURES) + 2)]
    for drive, found in results.items():
        for style, row in found.items():
            values = " | ".join(f"{row[name]:.3f}" for name in FIGURES)
            lines.append(f"| {drive} | {style} | {len(row['boxes'])} | {values} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drives", type=Path, help="folder of pairs of drives")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--output", type=Path, default=Path("bench/results"), help="folder of the tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [
        (burnt.parent.with_name(burnt.parent.name.removesuffix("-overlay")), burnt.parent)
        for burnt in sorted(args.drives.glob("*-overlay/gt.npz"))
    ]
    if not pairs:
        raise InputError(f"{args.drives}: no pair of drives (NAME and NAME-overlay) in it.")
    model = checkpoints.load(args.model, "cpu")
    results = {plain.name: measure_drive(model, plain, burnt) for plain, burnt in pairs}
    header = f"Overlay guard with {args.model}: {len(pairs)} virtual drives of held-out scenes, stages alone, 1.0 = SDR white."
    text = table(results, header)
    write_results(args.output, "overlay", text, {"header": header, "results": results})
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
