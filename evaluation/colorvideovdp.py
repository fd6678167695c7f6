"""ColorVideoVDP (Mantiuk et al. 2024), from the package `cvvdp`, which is imported when it is first needed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from pipeline.errors import InputError

Array = np.ndarray
DISPLAY = "standard_hdr_linear"
"""The display that is looked at: 30 inches, 3840 x 2160, seen from two heights of it, 1500 nits at most, 10 lux of ambient light."""


class ColorVideoVDP:
    """Just-objectionable-difference scores, 10 = no visible difference. InputError when the package is not installed."""

    def __init__(self, device: str = "cpu") -> None:
        # The package imports this module of torch for nothing, and it warns on machines without CUDA.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        try:
            import pycvvdp
        except ImportError as error:
            raise InputError(
                "ColorVideoVDP is not installed; get it with `pip install cvvdp`, or leave its column out with --no-jod."
            ) from error
        self._package = pycvvdp
        self._metric = pycvvdp.cvvdp(display_name=DISPLAY, heatmap=None, device=torch.device(device), quiet=True)

    def picture(self, result: Array, truth: Array) -> float:
        """JOD of one picture in nits (H, W, 3), BT.709 primaries, above 0."""
        sides = (np.ascontiguousarray(side, np.float32) for side in (result, truth))
        return float(self._metric.predict(*sides, dim_order="HWC")[0])

    def video(self, pairs: Iterator[tuple[Array, Array]], frames: int, frames_per_second: float) -> float:
        """JOD of a video from its (result, truth) frames in nits, as `picture` takes them. `pairs` is read once, in order, `frames` of it.

        Raises InputError when there are fewer.
        """
        first = next(pairs, None)
        if first is None:
            raise InputError("the result has no frames; there is nothing to compare")
        return float(self._metric.predict_video_source(self._source(first, pairs, frames, frames_per_second))[0])

    def _source(
        self, first: tuple[Array, Array], pairs: Iterator[tuple[Array, Array]], frames: int, frames_per_second: float
    ) -> Any:  # noqa: ANN401 - a class of a package that may not be there
        base = self._package.video_source.video_source_dm
        photometry = self._metric.display_photometry

        class Source(base):
            """Hands out frames as the metric asks for them: each number once a side, rising."""

            def __init__(self) -> None:
                super().__init__(display_photometry=photometry)
                self.number, self.pair = 0, first

            def get_video_size(self) -> tuple[int, int, int]:
                return *first[0].shape[:2], frames

            def get_frames_per_second(self) -> float:
                return frames_per_second

            def get_test_frame(self, frame: int, device: torch.device, colorspace: str) -> torch.Tensor:
                return self._side(0, frame, device, colorspace)

            def get_reference_frame(self, frame: int, device: torch.device, colorspace: str) -> torch.Tensor:
                return self._side(1, frame, device, colorspace)

            def _side(self, side: int, frame: int, device: torch.device, colorspace: str) -> torch.Tensor:
                while self.number < frame:
                    following = next(pairs, None)
                    if following is None:
                        raise InputError(f"the result ends after {self.number + 1} frames, the truth has {frames}")
                    self.number, self.pair = self.number + 1, following
                picture = torch.from_numpy(np.ascontiguousarray(self.pair[side], np.float32))
                picture = picture.permute(2, 0, 1)[None, :, None].to(device)
                return self.apply_dm_and_color_transform(picture, colorspace)

        return Source()
