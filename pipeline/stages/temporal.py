"""Temporal: light that the network restored is made steady over a few frames, along the motion, without touching what the camera saw.

A network that sees one frame at a time guesses anew in each, so restored skies and lamps flicker. Each frame is compared with those
`radius` before and after it: their restored luminance is followed along the optical flow and divided by the ratio of the exposures, because
auto exposure moves the white level (pipeline/flow.py). What is averaged is log luminance, at reduced size; the mean's distance from the
frame's own is a gain, which is enlarged and applied to all three channels alike. So the frame keeps its own detail and hue.

A neighbour counts as far as both were restored there, the well-exposed picture around agrees (nothing has come in between), and its value is
near (a lamp that blinks goes on blinking). Nothing is taken from beyond a scene cut. Where the frame was not restored it keeps its bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline import flow
from pipeline.flow_dis import Dis
from pipeline.flow_tensor import Tensors
from pipeline.transfer import Curve

METHODS: dict[str, flow.Method] = {"dis": Dis(), "tensor": Tensors()}
"""Ways of finding motion, by the words of flow.choose_method."""

SATURATED_FROM, SATURATED_AT = 0.9, 0.97
"""Largest channel of the SDR frame, as light, up to which a pixel is the camera's, and from which on it may be restored wholly."""

CHANGED_FROM, CHANGED_AT = 0.007, 0.07
"""Change of luminance by the network, as a share of it, up to which a pixel counts as not restored, and from which on as restored."""

LEAST_RESTORED = 0.02
"""Share of a small picture's pixel: below it there is nothing to average."""

AROUND_PX = 5
"""Side of the neighbourhood, in pixels of the small picture, in which the well-exposed picture must agree."""

AGREES_BELOW, DIFFERS_ABOVE = 0.03, 0.10
"""Difference of coded signal up to which the well-exposed picture agrees wholly, and from which on something else is there."""

NEAR_STOPS = 1.0
"""Values that are further apart are not averaged."""

CUT_DIFFERENCE, CUT_LIKENESS = 0.02, 0.9
"""Two frames are of different scenes when the median difference of coded signal over the well-exposed picture, along the motion, is above the
first and its likeness below the second. Between scenes of the virtual drives they were at least 0.07 and at most 0.82, three frames apart within
them at most 0.017 and at least 0.99; in a real clip of fine foliage, at most 0.05 and at least 0.98."""

TOP_STOPS = 4.0
_GROWTH = Curve(lambda stops: torch.exp2(stops) - 1, -TOP_STOPS, TOP_STOPS, 8192)  # 1024 a stop: exactly 0 at 0


@dataclass(frozen=True)
class Sample:
    """One frame as the stage needs it, and its small picture. Nothing in it may be written to.

    restored (3,H,W) float32: the frame itself. share (H,W) uint8: how much of a pixel is restored, 255 = wholly. The rest is at reduced size,
    where the method of flow works: picture; small_share (h,w) in [0, 1]; small_stops (h,w): mean restored luminance of the restored pixels,
    log2, SDR white = 0.
    """

    restored: Tensor
    share: Tensor
    picture: flow.Picture
    small_share: Tensor
    small_stops: Tensor


class Temporal(nn.Module):
    """Motion-compensated smoothing of restored light over the frames from `radius` before to `radius` after.

    radius: 0 or more; 0 gives every frame back as it is. method: one of METHODS. `lead_in` and `lead_out` say how many frames beyond a span's borders are needed
    for exact results there. No state: samples and windows may be worked on by any thread in any order.
    """

    def __init__(self, radius: int, method: str = "dis") -> None:
        super().__init__()
        if radius < 0:
            raise ValueError(f"radius is {radius}; legal are 0 and more")
        if method not in METHODS:
            raise ValueError(f"method is {method!r}; legal are {', '.join(METHODS)}")
        self._flow = METHODS[method]
        self.radius = self.lead_in = self.lead_out = radius

    @torch.no_grad()
    def sample(self, sdr: Tensor, restored: Tensor) -> Sample:
        """sdr, restored (3,H,W): the working-space frame before and after the network, finite; linear light, 1.0 = SDR white. `restored` is
        kept, not copied."""
        factor = flow.reduction(*sdr.shape[-2:])
        largest = torch.maximum(torch.maximum(sdr[0], sdr[1]), sdr[2])
        before, after = (flow.luminance(light).clamp_(min=0) for light in (sdr, restored))
        changed = (after - before).abs_().div_(before.add_(1e-3))
        share = _ramp(changed, CHANGED_FROM, CHANGED_AT).mul_(_ramp(largest, SATURATED_FROM, SATURATED_AT))
        share = share.mul_(255).add_(0.5).to(torch.uint8)
        weight = share.to(torch.float32).div_(255)
        maps = torch.cat([sdr.clamp(0, 1), largest[None], weight[None], after.mul_(weight)[None]])
        small = self._flow.bring(flow.reduce(maps, factor))
        small_share = small[4].clone()
        small_stops = flow.stops(small[5] / small_share.clamp(min=1e-6))
        return Sample(restored, share, flow.make_picture(small[:4]), small_share, small_stops)

    @torch.no_grad()
    def forward(self, window: Sequence[Sample], place: int) -> Tensor:
        """(3,H,W): window[place].restored with its restored pixels smoothed; that tensor itself where nothing changes.

        window: samples of consecutive frames of one size; those further than `radius` from `place` are not looked at, and at a file's ends
        there are fewer. Where `share` is 0 every pixel keeps its bits.
        """
        here = window[place]
        gain = self._gain(window, place)
        if gain is None:
            return here.restored
        height, width = here.share.shape
        fine = flow.enlarge(gain.to(here.share.device), flow.reduction(height, width), height, width)
        growth = _GROWTH.apply_(fine.mul(here.share).div_(255))
        return (here.restored * growth).add_(here.restored)

    def _gain(self, window: Sequence[Sample], place: int) -> Tensor | None:
        """Stops (h,w) float32 by which the small picture's restored light is to be raised; None when there is nothing to do.

        On the CPU it stops early where nothing more can come; a GPU would have to be asked, so there what cannot count gets no weight.
        """
        here = window[place]
        asks = here.small_share.device.type == "cpu"
        if asks and not (here.small_share >= LEAST_RESTORED).any():
            return None
        steps = range(1, self.radius + 1)
        sides = [[place + side * step for step in steps if 0 <= place + side * step < len(window)] for side in (-1, 1)]
        others = [window[other] for other in (*sides[0], *sides[1])]
        if not others:
            return None
        motion_to = self._flow.find_motions(here.picture, [other.picture for other in others])
        total = torch.zeros_like(here.small_stops)
        weight = torch.ones_like(total)
        for numbers in (range(len(sides[0])), range(len(sides[0]), len(others))):
            together: Tensor | bool = True
            for number in numbers:
                motion = motion_to(number)
                together = _same_scene(motion) & together
                if asks and not together:
                    break
                distance, trust = self._compare(here, others[number], motion)
                total += torch.where(together, distance * trust, 0)
                weight += torch.where(together, trust, 0)
        return None if asks and not total.any() else total / weight

    def _compare(self, here: Sample, there: Sample, motion: flow.Motion) -> tuple[Tensor, Tensor]:
        """How many stops more (h,w) the other frame's restored scene light is than this one's, and how far that counts, [0, 1]."""
        maps = torch.stack([there.small_share, there.small_stops * there.small_share, there.picture.largest])
        share, value, largest = self._flow.warp(maps, motion)
        distance = value / share.clamp(min=1e-6) - motion.stops - here.small_stops
        near = 1 - torch.square((distance.abs() / NEAR_STOPS).clamp(max=1))
        both = (torch.minimum(share, here.small_share) >= LEAST_RESTORED) & motion.inside
        trust = share * near * near * self._agreement(here.picture.largest, largest, motion.difference) * both
        return distance * both, trust

    def _agreement(self, largest_here: Tensor, largest_there: Tensor, difference: Tensor) -> Tensor:
        """(h,w) in [0, 1]: how well the picture that is not saturated in both agrees around each pixel; 1 where all around is saturated."""
        seen = (largest_here < flow.BRIGHTEST_LIGHT) | (largest_there < flow.BRIGHTEST_LIGHT)
        counted, summed = self._flow.mean_around(torch.stack([seen.float(), difference * seen]), AROUND_PX)
        difference = summed / counted.clamp(min=AROUND_PX**-2)
        return 1 - ((difference - AGREES_BELOW) / (DIFFERS_ABOVE - AGREES_BELOW)).clamp(0, 1)


def _same_scene(motion: flow.Motion) -> Tensor:
    """() bool: whether both frames are of one scene, as far as there was anything to see."""
    different = motion.median_difference > CUT_DIFFERENCE
    return motion.known & ~(different & (motion.likeness < CUT_LIKENESS))


def _ramp(x: Tensor, low: float, high: float) -> Tensor:
    """0 up to low, 1 from high on, linear between; new tensor."""
    return (x - low).mul_(1 / (high - low)).clamp_(0, 1)
