"""Overlay guard: burnt-in text stays graphics at white or below, and the network sees the picture as if no text were there.

Before the network `hide` fills text, its outline and what the codec smeared around them from the picture beside; after it `show` puts the
text back. A pixel becomes its SDR light plus (1 - matte) times what the network added to the filled picture: a text pixel keeps the SDR's
light, a pixel beside it gets the network's change, one on the edge a part of it, and a network that changes nothing changes no bit.

Which pixels are text: where text and background differ, the frame itself tells, so that digits may change; where they do not (white text
before a white sky), the box's maps tell, made from the whole file. Sums and products in a fixed order: the same bits whatever the threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from pipeline.overlay import OverlayBox

COLOURLESS = 0.35
"""Text whose channels (square root of light) differ by less is white; chroma of the scene around it is in its colour as the codec left it."""

CONTEXT_PX = 24
"""Picture around a box that the fill may take light from."""

SMEAR_PX = 2
"""The codec smears text so far at most: these pixels do not serve to guess what is behind text."""

TEXT_LIGHT = 0.8
"""Text is held at this at most (1.0 = SDR white): x265 at the default crf of 10 gave thin strokes up to 1.37 times the light of their largest channel."""

FIRM = 1.6
"""Cover is multiplied by it and cut at 1: a pixel that text covers by five eighths keeps the SDR's light alone, since what is left of a
restored sky behind it would lift it over white."""

SEEN = (0.08, 0.25)
"""Distance of text and background (signal, 0 to 1): up to the first the frame cannot tell them apart, from the second on it can."""

SMALL_TEXT_PX = 20
"""Text lower than this is smeared by one pixel."""

STROKE_RISE = 0.22
"""A stroke is so much brighter than what is around it (signal, 0 to 1)."""

STROKE_LIKE = 0.30
"""A stroke's colour is at most so far from the text's (signal, largest channel)."""

JOINING = 0.6
"""Light joins across pixels of so much of the text's own signal, not across an outline."""

SATURATED = 0.95
"""Least channel (signal) from which a pixel that is no text is sky, as it stands beside text: no smear makes the dark so bright."""

COVERED = 0.15
"""Less cover than this is noise."""

SMOOTHING_ROUNDS = 4
LINES = ((1, 0), (0, 1), (1, 1), (1, -1), (1, 2), (1, -2), (2, 1), (2, -1))
"""Steps in pixels, across and down, of the lines along which holes are filled."""
LINE_DOUBLINGS = 6
"""Lines reach 2 ** this less one steps."""
ALIKE = 3e-3
"""Square of a difference of signal (0 to 1) below which the ends of a line are as good as alike."""
_TOP_LIGHT = 4.0
_SMALL = 1e-6


def signal_of(light: Tensor) -> Tensor:
    """Linear light -> square root of it, 0 to 2: near the coded signal, and rounded alike everywhere. New tensor."""
    return light.clamp(0, _TOP_LIGHT).sqrt_()


def fill(signal: Tensor, hole: Tensor) -> Tensor:
    """Fill holes from around: signal (N,C,h,w), hole (N or 1,1,h,w) 1 where to fill, 0 elsewhere -> new (N,C,h,w).

    Each pixel is a mean over straight lines through it: of what stands at a line's two ends, by their distances. A line counts for more the
    shorter it is and the more its ends are alike, so that edges run on through the hole. What no line ends at: the mean of what is known
    (push-pull, Gortler et al. 1996). Then smoothed a little by Jacobi steps of Laplace's equation. All hole: 0.
    """
    known = (1 - hole).expand(signal.shape[0], 1, *signal.shape[-2:])
    lost = hole > 0
    total, weight = torch.zeros_like(signal), torch.zeros_like(known)
    for across, down in LINES:
        ends = [_first_known(signal, known, across * way, down * way) for way in (1, -1)]
        (near, near_steps, near_there), (far, far_steps, far_there) = ends
        length = (near_steps + far_steps) * float(across * across + down * down) ** 0.5
        apart = (near - far).abs().amax(dim=1, keepdim=True)
        trust = near_there * far_there / (length * length * (ALIKE + apart * apart)).clamp(min=_SMALL)
        trust = trust * trust
        total = total + (near * far_steps + far * near_steps) / (near_steps + far_steps).clamp(min=1) * trust
        weight = weight + trust
    rough = torch.where(weight > 0, total / weight.clamp(min=1e-30), _pushed(signal * known, known))
    filled = torch.where(lost, rough, signal)
    for _ in range(SMOOTHING_ROUNDS):
        wide = F.pad(filled, (1, 1, 1, 1), mode="replicate")
        sideways = wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:]
        upright = wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1]
        filled = torch.where(lost, (sideways + upright) * 0.25, filled)
    return filled


def _first_known(signal: Tensor, known: Tensor, across: int, down: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first known pixel from each one on in steps of (across, down): its values, how many steps away (0: itself), and 1 where there is one."""
    value, steps, there = signal * known, torch.zeros_like(known), known
    for power in range(LINE_DOUBLINGS):
        jump = 1 << power
        shifted = [_shifted(x, across * jump, down * jump) for x in (value, steps, there)]
        take = (there == 0) & (shifted[2] > 0)
        value, steps = torch.where(take, shifted[0], value), torch.where(take, shifted[1] + jump, steps)
        there = torch.maximum(there, shifted[2])
    return value, steps, there


def _shifted(x: Tensor, across: int, down: int) -> Tensor:
    """x[..., y + down, x + across], 0 outside."""
    height, width = x.shape[-2:]
    if abs(across) >= width or abs(down) >= height:
        return torch.zeros_like(x)
    padded = F.pad(x, (max(0, -across), max(0, across), max(0, -down), max(0, down)))
    top, left = max(0, down), max(0, across)
    return padded[..., top : top + height, left : left + width]


def _pushed(total: Tensor, weight: Tensor) -> Tensor:
    """Sums of known values and their weights (0 to 1) -> values everywhere."""
    height, width = total.shape[-2:]
    value = total / weight.clamp(min=_SMALL)
    if max(height, width) <= 1:
        return value
    edges = (0, width % 2, 0, height % 2)
    coarse_total, coarse_weight = _quarters(F.pad(total, edges)), _quarters(F.pad(weight, edges))
    share = coarse_weight.clamp(max=1)
    coarse = _pushed(coarse_total / coarse_weight.clamp(min=_SMALL) * share, share)
    up = coarse.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)[..., :height, :width]
    return value * weight + up * (1 - weight)


def _quarters(x: Tensor) -> Tensor:
    rows = x[..., 0::2, :] + x[..., 1::2, :]
    return rows[..., 0::2] + rows[..., 1::2]


def spread(x: Tensor, px: int) -> Tensor:
    """Largest value within px pixels across and down, (N,1,h,w)."""
    return F.max_pool2d(x, 2 * px + 1, stride=1, padding=px) if px else x


def strokes(signal: Tensor, color: Tensor, kernel_px: int) -> Tensor:
    """1 where a pixel of signal (N,3,h,w) has the text's color (1,3,1,1) and is part of something bright, narrower than kernel_px, on
    darker ground; else 0. (N,1,h,w)."""
    half = kernel_px // 2
    views = torch.cat([signal.amax(dim=1, keepdim=True), signal.amin(dim=1, keepdim=True)], dim=1)
    rise = (views - spread(-spread(-views, half), half)).amax(dim=1, keepdim=True)
    alike = (signal - color).abs().amax(dim=1, keepdim=True) < STROKE_LIKE
    return ((rise > STROKE_RISE) & alike).to(signal.dtype)


def kernel_px(text_px: int) -> int:
    """Side of the square that strokes of letters so high are narrower than: odd."""
    return max(5, text_px * 3 // 5 | 1)


class _Region:
    """A box on pictures of one size: where it lies, its maps, and the picture around it. left .. bottom: with the context, in pixels."""

    def __init__(self, box: OverlayBox, height: int, width: int, device: torch.device) -> None:
        self.left, self.top = max(0, box.x - CONTEXT_PX), max(0, box.y - CONTEXT_PX)
        self.right, self.bottom = (
            min(width, box.x + box.width + CONTEXT_PX),
            min(height, box.y + box.height + CONTEXT_PX),
        )
        across, down = self.right - self.left, self.bottom - self.top
        first_x, first_y = max(box.x, 0) - self.left, max(box.y, 0) - self.top
        last_x, last_y = min(box.x + box.width, width) - self.left, min(box.y + box.height, height) - self.top
        self.inside = torch.zeros(1, 1, down, across)
        self.inside[..., first_y:last_y, first_x:last_x] = 1
        self.text, self.outline = torch.zeros_like(self.inside), torch.zeros_like(self.inside)
        for target, cover in ((self.text, box.text), (self.outline, box.outline)):
            whole = torch.tensor([int(digit, 16) for digit in cover], dtype=torch.float32).div_(15)
            part = whole.view(box.height, box.width)[max(0, -box.y) :, max(0, -box.x) :]
            target[..., first_y:last_y, first_x:last_x] = part[: last_y - first_y, : last_x - first_x]
        self.fixed = box.fixed
        self.text_px, self.kernel_px = box.text_px, kernel_px(box.text_px)
        self.white = max(box.red, box.green, box.blue) - min(box.red, box.green, box.blue) < COLOURLESS
        self.smear_px = 1 if box.text_px < SMALL_TEXT_PX else SMEAR_PX
        self.color = torch.tensor([box.red, box.green, box.blue], dtype=torch.float32).view(1, 3, 1, 1)
        prior = torch.maximum(self.text, self.outline)
        self.known = (prior >= COVERED).to(prior.dtype)
        # New digits appear among those that were seen; a box given by hand in which nothing was seen is searched throughout.
        near = spread(self.known, max(2, box.text_px // 2)) if bool(self.known.any()) else torch.ones_like(prior)
        self.searched = near * self.inside
        self.outlined = bool((self.outline >= COVERED).any())
        for name in ("inside", "text", "outline", "color", "known", "searched"):
            setattr(self, name, getattr(self, name).to(device))

    def of(self, frames: Tensor) -> Tensor:
        """View of the region's part of frames (N,C,H,W)."""
        return frames[..., self.top : self.bottom, self.left : self.right]

    def reached(self, signal: Tensor) -> Tensor:
        """1 for bright pixels that join the picture around the text, 0 for others: an outline shuts its strokes in, not the sky between."""
        way = (signal.amax(dim=1, keepdim=True) > JOINING * self.color.amax()).to(signal.dtype)
        joined = way * (1 - spread(self.known, SMEAR_PX))
        for _ in range(self.text_px):
            across = F.max_pool2d(joined, (1, 3), stride=1, padding=(0, 1))
            joined = torch.maximum(across, F.max_pool2d(joined, (3, 1), stride=1, padding=(1, 0))) * way
        return joined


class OverlayGuard(nn.Module):
    """Hides burnt-in text from the network and shows it again; see the module. Frames (N,3,H,W) float32 linear, 1.0 = SDR white.

    boxes: where text is, and its maps (pipeline.overlay); they may overlap each other and the picture's edge. Pixels outside boxes are
    never touched. Works frame by frame, on any device, and asks the device nothing.
    """

    lead_in = 0
    lead_out = 0

    def __init__(self, boxes: tuple[OverlayBox, ...]) -> None:
        super().__init__()
        self.boxes = tuple(boxes)
        self._regions: dict[tuple[int, int, torch.device], list[_Region]] = {}

    def hide(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """-> frames without text (new tensor), and matte (N,1,H,W): how much of each pixel is text or its outline, 0 to 1."""
        hidden = frames.clone(memory_format=torch.contiguous_format)
        matte = frames.new_zeros(frames.shape[0], 1, *frames.shape[-2:])
        for region in self._placed(frames):
            for number in range(len(frames)):
                one = slice(number, number + 1)
                self._hide_one(region, region.of(hidden[one]), region.of(matte[one]))
        return hidden, matte

    def hold(self, frames: Tensor, matte: Tensor) -> Tensor:
        """frames as given to `hide`, their text held at TEXT_LIGHT at most, in its own hue: what `show` puts back. New tensor.

        White text and what lies right around it is made grey where something there would be above that: 4:2:0 video has one colour for four
        pixels, and that of the surroundings would lift red or blue of the text over white.
        """
        held = frames.clone(memory_format=torch.contiguous_format)
        for region in self._placed(frames):
            light, cover = region.of(held), region.of(matte)
            if region.white:
                light.copy_(_without_fringes(light, light, cover, region.inside))
            over = TEXT_LIGHT / light.amax(dim=1, keepdim=True).clamp(min=TEXT_LIGHT)
            light.mul_(1 - cover * (1 - over))
        return held

    def show(self, restored: Tensor, held: Tensor, hidden: Tensor, matte: Tensor) -> Tensor:
        """Put the text back. restored: what the network made of `hidden`; held: see there. New tensor (N,3,H,W)."""
        shown = restored.clone(memory_format=torch.contiguous_format)
        for region in self._placed(held):
            text, filled, cover = region.of(held), region.of(hidden), region.of(matte)
            change = (region.of(restored) - filled) * (1 - cover)
            touched = (filled != text).any(dim=1, keepdim=True) | (cover > 0)
            target = region.of(shown)
            target.copy_(torch.where(touched, text + change, region.of(restored)))
            if region.white:
                target.copy_(_without_fringes(target, text, cover, region.inside))
        return shown

    def _placed(self, frames: Tensor) -> list[_Region]:
        height, width = frames.shape[-2:]
        key = height, width, frames.device
        if key not in self._regions:
            on_picture = [
                box
                for box in self.boxes
                if box.x < width and box.y < height and box.x + box.width > 0 and box.y + box.height > 0
            ]
            self._regions[key] = [_Region(box, height, width, frames.device) for box in on_picture]
        return self._regions[key]

    def _hide_one(self, region: _Region, light: Tensor, matte: Tensor) -> None:
        """Fill the text of one frame's region (1,3,h,w), and enter the matte (1,1,h,w); both in place."""
        signal = signal_of(light)
        cover = self._firm(region.text) if region.fixed else self._seen_cover(region, signal)
        # Only what text covers now is filled: of the scene between its strokes, and where digits are not now, as much as can be is kept.
        saturated = (signal.amin(dim=1, keepdim=True) >= SATURATED) & (cover < COVERED)
        hole = spread((cover >= COVERED).to(cover.dtype), region.smear_px) * region.inside * (~saturated)
        around = fill(signal, hole)
        matte.copy_(torch.maximum(matte, cover))
        light.copy_(torch.where(hole > 0, around * around, light))

    def _seen_cover(self, region: _Region, signal: Tensor) -> Tensor:
        """How much of each pixel of a frame is text or outline that may change, (1,1,h,w)."""
        found, text = strokes(signal, region.color, region.kernel_px) * region.searched, region.text
        if region.outlined:
            joined = region.reached(signal)
            found = found * (1 - joined)
            text = region.text * (1 - joined)
        marked = torch.maximum(region.known, spread(found, SMEAR_PX) if region.outlined else found)
        around = fill(signal, spread(marked, SMEAR_PX) * region.inside)
        return self._cover(region, signal, around, torch.maximum(text, found), found) * region.inside

    def _cover(self, region: _Region, signal: Tensor, around: Tensor, prior: Tensor, found: Tensor) -> Tensor:
        """How much of each pixel is text or outline, (1,1,h,w). prior: what text covers where the frame cannot tell."""
        near = spread(torch.maximum((region.text >= COVERED).to(found.dtype), found), 1)
        share, seen = cover_of(signal, around, region.color)
        cover = (prior + (share - prior) * seen) * near
        if region.outlined:
            near = torch.maximum((region.outline >= COVERED).to(found.dtype), spread(found, SMEAR_PX))
            share, seen = darkness_of(signal, around)
            cover = torch.maximum(cover, (region.outline + (share - region.outline) * seen) * near)
            cover = -spread(
                -spread(cover, 1), 1
            )  # where stroke and outline meet a pixel is neither, but graphics all the same
        return self._firm(cover)

    @staticmethod
    def _firm(cover: Tensor) -> Tensor:
        return (torch.where(cover < COVERED / 2, 0.0, cover) * FIRM).clamp_(0, 1)


def _without_fringes(light: Tensor, sdr: Tensor, cover: Tensor, inside: Tensor) -> Tensor:
    """light, sdr (1,3,h,w), cover, inside (1,1,h,w) -> light, grey of the same luminance within SMEAR_PX of text where anything there is above TEXT_LIGHT."""
    near = spread((cover >= COVERED).to(cover.dtype), SMEAR_PX) * inside
    bright = (torch.maximum(light, sdr).amax(dim=1, keepdim=True) > TEXT_LIGHT).to(cover.dtype)
    red, green, blue = light[:, 0:1], light[:, 1:2], light[:, 2:3]
    grey = green + (red - green) * 0.2126 + (blue - green) * 0.0722
    return torch.where(near * spread(near * bright, SMEAR_PX) > 0, grey, light)


def cover_of(signal: Tensor, around: Tensor, color: Tensor) -> tuple[Tensor, Tensor]:
    """How much of a pixel text covers, by how far signal (N,3,h,w) has gone from around (the fill) to color; and how well that can be told
    (0 where background and text are alike, 1 where they clearly differ). (N,1,h,w) each."""
    way = color - around
    length = _dot(way, way)
    return (_dot(signal - around, way) / length.clamp(min=_SMALL)).clamp_(0, 1), _seen(length.sqrt())


def darkness_of(signal: Tensor, around: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a black outline: by how much darker signal is than around; 0 told where that is dark too."""
    here, there = signal.amax(dim=1, keepdim=True), around.amax(dim=1, keepdim=True)
    return ((there - here) / there.clamp(min=_SMALL)).clamp_(0, 1), _seen(there)


def _seen(distance: Tensor) -> Tensor:
    low, high = SEEN
    return ((distance - low) * (1 / (high - low))).clamp_(0, 1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    product = a * b
    return (product[:, 0:1] + product[:, 1:2]) + product[:, 2:3]
