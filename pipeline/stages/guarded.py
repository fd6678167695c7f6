"""Guarded: reconstruct, which does not get to see the text that is burnt into a picture, and leaves alone what belongs to the car."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from pipeline.stages.exclude import Exclude
from pipeline.stages.overlay import OverlayGuard
from pipeline.stages.reconstruct import Reconstruct

if TYPE_CHECKING:
    from pipeline.overlay import OverlayBox


class Guarded(nn.Module):
    """Frames (N,3,H,W) in and out, as Reconstruct's; text in `boxes` is hidden from it and shown again, `excluded` polygons stay as recorded."""

    lead_in = 0
    lead_out = 0

    def __init__(
        self, boxes: tuple[OverlayBox, ...], excluded: tuple[tuple[int, ...], ...], reconstruct: Reconstruct
    ) -> None:
        super().__init__()
        self._exclude = Exclude(excluded)
        self._guard, self._reconstruct = OverlayGuard(boxes), reconstruct

    def forward(self, frames: Tensor) -> Tensor:
        """Restored frames with their text."""
        return self.pair(frames)[1]

    def pair(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames with their text as it will be shown, and the same restored: what differs is the network's alone."""
        hidden, matte = self._guard.hide(frames)
        held = self._guard.hold(frames, matte)
        return held, self._exclude(held, self._guard.show(self._reconstruct(hidden), held, hidden, matte))

    def attempt(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As Reconstruct's: frames, and (N,) bool whether each was finite."""
        hidden, matte = self._guard.hide(frames)
        held = self._guard.hold(frames, matte)
        restored, good = self._reconstruct.attempt(hidden)
        return self._exclude(held, self._guard.show(restored, held, hidden, matte)), good
