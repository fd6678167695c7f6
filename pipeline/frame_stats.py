"""Statistics of single frames: how bright they are, and how much of them the network restored.

They feed the report, the HDR10+ metadata and the evidence manifest. A span writes those of its frames beside its span file; `merge` makes
one table of a track of them. All brightness is that of the dithered 10-bit planes that go to the encoder, counted in the histogram of
pipeline.light, so that a frame's figures and MaxCLL can never disagree. Needs torch and numpy only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline import color, light, transfer
from pipeline.errors import ConversionError
from pipeline.light import LightLevels

PERCENTILES = (100, 2500, 5000, 7500, 9000, 9500, 9998, 9999)
"""The percentiles of max(R, G, B) that are kept, in hundredths of a percent: those of HDR10+, and the 99.99th of pipeline.light."""

RESTORED_GAIN, RESTORED_LIGHT = 1.25, 0.01
"""A pixel counts as restored when its max(R, G, B) is above 1.25 times what it was, plus 0.01 of SDR white: a third of a stop. Smaller
changes nobody sees, and a network makes some of them everywhere."""

BINS = 73
"""Bins of the coarse histogram; each is 12 codes of 10-bit PQ wide, about a quarter of a stop above 1 nit."""

_FINE = light.LEVELS // BINS
BIN_EDGES_NITS = light.NITS[::_FINE].numpy()
"""(BINS + 1,) float64, from 0 to 10000 nits: bin i holds light from edge i up to edge i + 1."""

TABLE = np.dtype(
    [
        ("frame", "<i8"),
        ("max_cll_nits", "<f8"),
        ("fall_nits", "<f8"),
        ("max_scl_nits", "<f8", (3,)),
        ("percentiles_nits", "<f8", (len(PERCENTILES),)),
        ("upto_100_nits_share", "<f8"),
        ("restored_share", "<f8"),
        ("histogram", "<u4", (BINS,)),
    ]
)
"""One row a frame: its number within the track, and the fields of FrameStats. 452 bytes."""

_100_NITS_LEVEL = int((light.NITS <= 100).sum())
_SIGNALS = replace(color.HDR_SPEC, primaries="bt709")  # `unpack` without a change of primaries: codes have no light yet


@dataclass(frozen=True)
class FrameStats:
    """One frame. Light in nits (cd/m2) of max(R, G, B) in BT.2020 primaries unless said otherwise; shares are 0 to 1.

    max_cll_nits: the brightest pixel (CTA-861.3); fall_nits: the average (CTA-861.3; HDR10+ calls it average maxRGB)
    max_scl_nits: the largest R, G and B of any pixel, each for itself (ST 2094-40 MaxSCL)
    percentiles_nits: at PERCENTILES, each the lowest level that this share of the pixels does not exceed
    upto_100_nits_share: pixels of at most 100 nits
    restored_share: pixels that the network raised by more than RESTORED_GAIN and RESTORED_LIGHT say; 0 where there was none
    histogram: pixels in each of the BINS
    """

    max_cll_nits: float
    fall_nits: float
    max_scl_nits: tuple[float, float, float]
    percentiles_nits: tuple[float, ...]
    upto_100_nits_share: float
    restored_share: float
    histogram: tuple[int, ...]

    @property
    def levels(self) -> LightLevels:
        """The same frame as `light.measure` gives it, bit for bit."""
        return LightLevels(self.max_cll_nits, self.fall_nits, self.percentiles_nits[-1], 1)


def measure_frame(y: Tensor, u: Tensor, v: Tensor, transfer_name: str, *, restored_share: float = 0.0) -> FrameStats:
    """Statistics of one frame from the planes as `color.pack` makes them: (H, W) and twice (H/2, W/2) uint16.

    transfer_name: "pq", or "hlg" as seen on the 1000-nit display; restored_share: from the function of that name. On a GPU it waits
    for the result. Takes the place of `light.measure` (see `levels`). Raises InputError on another transfer.
    """
    color.check_output(transfer_name)
    planes = (y[None], u[None], v[None])
    if transfer_name == "pq":
        signals = color.unpack(planes, color.hdr_layout(*planes[:2]), _SIGNALS)[0]
        brightest, channels = _brightest(signals), signals.flatten(1).amax(dim=1)
    else:
        nits = color.unpack_hdr(*planes, transfer_name)[0]
        channels = transfer.PQ_ENCODE.apply_(nits.flatten(1).amax(dim=1))
        brightest = transfer.PQ_ENCODE.apply_(_brightest(nits))
    counts = torch.bincount(_levels(brightest).view(-1), minlength=light.LEVELS + 1).cpu()
    return _of_counts(counts, _levels(channels).tolist(), restored_share)


def restored_pixels(before: Tensor, after: Tensor) -> Tensor:
    """How many pixels a network made brighter by more than RESTORED_GAIN and RESTORED_LIGHT say: (..., 3, H, W) twice -> (...) int64 on their
    device, without waiting for it.

    before: frames as unpacked; after: the same behind the stages that restore (reconstruct, smoothing, overlay guard) and before those
    that grade: exposure or saturation that someone asked for is no invention. Working space; neither is changed.
    """
    bound = _brightest(before).clamp_(min=0).mul_(RESTORED_GAIN).add_(RESTORED_LIGHT)
    return (_brightest(after) > bound).sum(dim=(-2, -1))


def restored_share(before: Tensor, after: Tensor) -> float:
    """`restored_pixels` of one frame, (3, H, W), as a share of all its pixels, 0 to 1."""
    return int(restored_pixels(before, after)) / (before.shape[-2] * before.shape[-1])


def table(first_frame: int, stats: Sequence[FrameStats]) -> np.ndarray:
    """Consecutive frames as rows of TABLE. first_frame: number of the first within its track."""
    rows = np.empty(len(stats), TABLE)
    rows["frame"] = np.arange(first_frame, first_frame + len(stats))
    for field in dataclasses.fields(FrameStats):
        rows[field.name] = np.array([getattr(one, field.name) for one in stats]).reshape(rows[field.name].shape)
    return rows


def save(path: Path, rows: np.ndarray) -> None:
    """Write rows of TABLE as .npy under a temporary name, sync, rename. The same rows give the same bytes. OSError as writing does."""
    from pipeline.encode import publish  # PyAV is needed only here

    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
    publish(partial, path)


def load(path: Path) -> np.ndarray:
    """Read what `save` wrote. Raises ConversionError when the file is missing or none of ours."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConversionError(
            f"{path}: the frame statistics cannot be read; delete the work folder and run again."
        ) from error
    if not isinstance(rows, np.ndarray) or rows.dtype != TABLE:
        raise ConversionError(f"{path}: these frame statistics are of another version; delete the work folder.")
    return rows


def merge(spans: Iterable[np.ndarray]) -> np.ndarray:
    """The tables of all spans of one track, in any order -> one table in frame order.

    Raises ConversionError when a frame is missing or there twice.
    """
    rows = np.concatenate([np.empty(0, TABLE), *spans])
    rows = rows[np.argsort(rows["frame"], kind="stable")]
    wrong = np.flatnonzero(rows["frame"] != np.arange(len(rows)))
    if wrong.size:
        raise ConversionError(
            f"frame statistics: frame {int(wrong[0])} is missing or there twice; delete the work folder."
        )
    return rows


def flicker_stops(rows: np.ndarray) -> np.ndarray:
    """(F,) how far each frame's average light lies from the mean of its two neighbours', in stops; 0 for the first and the last.

    A steady rise, as at the end of a tunnel, is no flicker. 0.1 nit is added to all, so that black frames do not count as leaps.
    """
    stops = np.log2(rows["fall_nits"] + 0.1)
    result = np.zeros(len(rows))
    result[1:-1] = np.abs(stops[1:-1] - (stops[:-2] + stops[2:]) / 2)
    return result


def _brightest(frame: Tensor) -> Tensor:
    """(..., 3, H, W) -> (..., H, W), the largest channel; new tensor."""
    red, green, blue = frame.unbind(dim=-3)
    return torch.maximum(torch.maximum(red, green), blue)


def _levels(signal: Tensor) -> Tensor:
    """PQ signals, overwritten -> levels of light.LEVELS, int32; as pipeline.light counts them."""
    return signal.mul_(light.LEVELS).round_().clamp_(0, light.LEVELS).to(torch.int32)


def _of_counts(counts: Tensor, channel_levels: list[int], restored: float) -> FrameStats:
    """counts: (light.LEVELS + 1,) int64 on the CPU, pixels at each level; channel_levels: of the largest R, G and B."""
    levels = light.levels_of(counts)
    below = counts.cumsum(0)
    pixels = int(below[-1])
    wanted = torch.tensor([-(-place * pixels // 10000) for place in PERCENTILES])
    coarse = counts[:-1].view(BINS, _FINE).sum(dim=1)
    coarse[-1] += counts[-1]
    red, green, blue = (float(light.NITS[level]) for level in channel_levels)
    return FrameStats(
        max_cll_nits=levels.max_cll_nits,
        fall_nits=levels.max_fall_nits,
        max_scl_nits=(red, green, blue),
        percentiles_nits=tuple(light.NITS[torch.searchsorted(below, wanted)].tolist()),
        upto_100_nits_share=int(below[_100_NITS_LEVEL - 1]) / pixels,
        restored_share=restored,
        histogram=tuple(coarse.tolist()),
    )
