"""Do the spans meet without a step in brightness? The output's change from frame to frame is held against the source's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline import color
from pipeline.color import ColorSpec, PixelLayout
from pipeline.decode import decode_span
from pipeline.index import VideoIndex, packets_for
from pipeline.span import Span
from pipeline.verify_report import Check

ALLOWED_STOPS = 0.05
FRAMES_BEFORE, FRAMES_AFTER = 3, 2
"""Frames looked at before a border, and from the border's own frame on: two pairs of neighbours on either side."""

SAMPLES_ACROSS = 480
BLOCKS_ACROSS = 32
FLOOR_NITS = 0.02
DARKEST, BRIGHTEST = 0.05**2.4, 0.90**2.4
"""Light (SDR white = 1) of the well-exposed: codes of 5 to 90 %. There the conversion keeps the light that the source had."""

OUTSIDE = 1e-3
"""How far below 0 (SDR white = 1) a colour of BT.2020 may lie and still count as one that the output can show."""

CUT_STOPS = 0.1
FEWEST_BLOCKS = 8

BT709_LUMA = (0.2126, 0.7152, 0.0722)
BT2020_LUMA = (0.2627, 0.6780, 0.0593)
CHROMA_SPACING = {"420": (2, 2), "422": (1, 2), "440": (2, 1), "411": (1, 4), "410": (4, 4)}
"""Luma pixels to a chroma sample, down and across; 1, 1 for all others."""


@dataclass(frozen=True)
class Brightness:
    """A picture made small: mean luminance, and the largest and least of R, G, B, of every block, (h, w) float32.

    Light of an SDR picture is relative (white = 1), of an HDR picture in nits. least is taken in BT.2020 primaries: below 0 the
    colour is outside what the output can show (damaged packets make such colours), and gets another luminance there.
    """

    mean: Tensor
    top: Tensor
    least: Tensor


def _thin(planes: Sequence[Tensor], chroma: str) -> list[Tensor]:
    """Every n-th pixel of the luma plane and the chroma nearest to it: planes of one size, as 4:4:4 has them.

    n is a multiple of 4 and depends on the width rounded up to even alone, so that source and output are sampled alike.
    """
    step = 4 * max(1, (planes[0].shape[-1] + 1) // 2 * 2 // (4 * SAMPLES_ACROSS))
    down, across = CHROMA_SPACING.get(chroma, (1, 1))
    thin = [planes[0][:, ::step, ::step]]
    thin += [plane[:, :: step // down, :: step // across] for plane in planes[1:]]
    return [plane.contiguous() for plane in thin]


def _blocks(light: Tensor, weights: tuple[float, float, float], primaries: str) -> Brightness:
    """(1, 3, h, w) light of these primaries -> blocks. The mean is taken of light, so that the coding of grain does not shift it."""
    size = -(-light.shape[-1] // BLOCKS_ACROSS)
    luminance = (light * torch.tensor(weights).view(1, 3, 1, 1)).sum(dim=1, keepdim=True).clamp(min=0)
    top = light.amax(dim=1, keepdim=True)
    wide = torch.tensor(color.primaries_matrix(primaries, "bt2020"), dtype=light.dtype)
    below = -torch.einsum("ij,njhw->nihw", wide, light).amin(dim=1, keepdim=True)
    pool = torch.nn.functional
    return Brightness(
        mean=pool.avg_pool2d(luminance, size, ceil_mode=True)[0, 0],
        top=pool.max_pool2d(top, size, ceil_mode=True)[0, 0],
        least=-pool.max_pool2d(below, size, ceil_mode=True)[0, 0],
    )


def brightness_of_sdr(planes: Sequence[Tensor], layout: PixelLayout, spec: ColorSpec) -> Brightness:
    """planes: (1, h, w) uint8 or uint16 each, as `color.unpack` takes them."""
    thin = _thin(planes, layout.chroma)
    sampled = layout if layout.chroma == "gray" else PixelLayout("444", layout.bit_depth)
    return _blocks(color.unpack(tuple(thin), sampled, spec), BT709_LUMA, "bt709")


def brightness_of_hdr(y: Tensor, u: Tensor, v: Tensor, transfer: str) -> Brightness:
    """y, u, v: (1, h, w) uint16 each, as `color.unpack_hdr` takes them. Top-left chroma lies on the sampled pixels themselves."""
    luma, blue, red = _thin((y, u, v), color.hdr_layout(y, u).chroma)
    doubled = luma.view(torch.int16).repeat_interleave(2, dim=1).repeat_interleave(2, dim=2).view(torch.uint16)
    return _blocks(color.unpack_hdr(doubled, blue, red, transfer)[:, :, ::2, ::2], BT2020_LUMA, "bt2020")


def frames_around(borders: Sequence[int], total: int) -> list[tuple[int, int]]:
    """(first, last) frame of what is looked at around each border."""
    return [(max(0, border - FRAMES_BEFORE), min(total - 1, border + FRAMES_AFTER)) for border in borders]


def source_brightness(
    path: Path,
    stream_index: int,
    index: VideoIndex,
    runs: list[tuple[int, int]],
    wanted: Collection[int],
    layout: PixelLayout,
    spec: ColorSpec,
    *,
    keep_repeated: bool = False,
) -> dict[int, Brightness]:
    """Decode runs of source frames; brightness of the wanted ones by frame number.

    keep_repeated: runs are the spans themselves, so damaged frames are replaced by the same ones as in the conversion; else they
        are left out
    Raises what `decode_span` raises.
    """
    found: dict[int, Brightness] = {}
    for first, last in runs:
        count = last - first + 1
        seek, stop = packets_for(index, first, count, 0, 0)
        end_pts = int(index.frame_pts[last] + index.frame_duration[last])
        span = Span(0, int(index.frame_pts[first]), end_pts, first, count, 0, 0, seek, stop)
        for place, frame in enumerate(decode_span(path, stream_index, index, span, deinterlace=False, strict=False)):
            if first + place in wanted and (keep_repeated or not frame.repeated):
                planes = [plane[None] for plane in frame.planes]
                found[first + place] = brightness_of_sdr(planes, layout, spec)
    return found


def seam_check(
    borders: Sequence[int],
    source: dict[int, Brightness],
    output: dict[int, Brightness],
    *,
    white_nits: float,
    rate: float,
    prefix: str = "",
) -> Check:
    """Is any border of spans a step in brightness?

    The gain of a frame is the mean, over blocks, of log2(output light / source light). From the frame before a border to the
    border's frame the gain must not change by more than 0.05 stop beyond what it changes between neighbouring frames. Gains are
    taken over well-exposed blocks; over all blocks too, unless the source cuts to another scene there, as highlights are
    restored by content and a cut changes the content.
    rate: frames per second, to name times in the detail
    """
    name = f"{prefix}seams"
    if not borders:
        return Check(name, True, "one span, no seams.")
    seen = [border for border in borders if all(n in source and n in output for n in (border - 1, border))]
    unseen = (
        f"; {len(borders) - len(seen)} lie at damaged frames and are not judged" if len(seen) < len(borders) else ""
    )
    worst, worst_border = -1.0, borders[0]
    for border in seen:
        step = _step_beyond_neighbours(border, set(borders), source, output, white_nits)
        if step > worst:
            worst, worst_border = step, border
    place = f"frame {worst_border}" + (f" ({worst_border / rate:.2f} s)" if rate else "")
    if worst > ALLOWED_STOPS:
        return Check(
            name,
            False,
            f"a step of {worst:.3f} stop more than between neighbouring frames at the border at {place}; 0.05 are allowed.",
        )
    return Check(
        name,
        True,
        f"{len(seen)} borders; the largest step is {max(worst, 0):.3f} stop beyond its neighbours', at {place}{unseen}.",
    )


def _step_beyond_neighbours(
    border: int,
    borders: set[int],
    source: dict[int, Brightness],
    output: dict[int, Brightness],
    white_nits: float,
) -> float:
    def gain_step(frame: int, exposed_only: bool) -> float:
        return _gain_step(source[frame - 1], source[frame], output[frame - 1], output[frame], white_nits, exposed_only)

    around = range(border - FRAMES_BEFORE + 1, border + FRAMES_AFTER + 1)
    have = [frame for frame in around if all(n in source and n in output for n in (frame - 1, frame))]
    near = [frame for frame in have if frame not in borders]
    step = abs(gain_step(border, True)) - max((abs(gain_step(frame, True)) for frame in near), default=0.0)
    usual = max((_source_change(source[n - 1], source[n], white_nits) for n in near), default=0.0)
    if _source_change(source[border - 1], source[border], white_nits) <= 2 * usual + CUT_STOPS:
        whole = abs(gain_step(border, False)) - max((abs(gain_step(frame, False)) for frame in near), default=0.0)
        step = max(step, whole)
    return step


def _stops(light: Tensor) -> Tensor:
    return torch.log2(light + FLOOR_NITS)


def _source_change(before: Brightness, after: Brightness, white_nits: float) -> float:
    return float((_stops(after.mean * white_nits) - _stops(before.mean * white_nits)).abs().mean())


def _gain_step(
    source_before: Brightness,
    source_after: Brightness,
    output_before: Brightness,
    output_after: Brightness,
    white_nits: float,
    exposed_only: bool,
) -> float:
    """Change of the mean gain in stops between two frames; 0 when too few blocks are well exposed to say."""
    mask = _exposed(source_before) & _exposed(source_after)
    if not exposed_only:
        mask = torch.ones_like(mask)
    elif int(mask.sum()) < FEWEST_BLOCKS:
        return 0.0
    gains = []
    for source, output in ((source_before, output_before), (source_after, output_after)):
        height, width = source.mean.shape
        gain = _stops(output.mean[:height, :width]) - _stops(source.mean * white_nits)
        gains.append(float(gain[mask].double().mean()))
    return gains[1] - gains[0]


def _exposed(picture: Brightness) -> Tensor:
    return (picture.mean > DARKEST) & (picture.top < BRIGHTEST) & (picture.least > -OUTSIDE)
