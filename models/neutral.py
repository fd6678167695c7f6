"""The network that restores nothing: Net_T is the identity, Net_R is zero. It has no parameters and costs no time.

`python -m models.neutral` writes its checkpoint, models/weights/neutral.safetensors; the bytes are always the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.encodings import recode


class Neutral(nn.Module):
    """Gives the SDR picture back, in the output encoding."""

    def __init__(self, width: int, sft: bool, input_encoding: str, output_encoding: str) -> None:
        super().__init__()
        if width or sft:
            raise ValueError("the neutral network has no layers: width must be 0 and sft false")
        self.input_encoding, self.output_encoding = input_encoding, output_encoding

    def parts(self, coded: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) coded signal -> the same picture and zeros, float32, output encoding."""
        return self(coded), torch.zeros_like(coded, dtype=torch.float32)

    def forward(self, coded: Tensor) -> Tensor:
        """(N, 3, H, W) coded signal -> the same picture, float32, output encoding."""
        return recode(coded, self.input_encoding, self.output_encoding)


def main() -> None:
    """Write the neutral checkpoint into the folder of shipped ones."""
    from models import checkpoints
    from models.model import ModelSpec

    spec = ModelSpec(
        architecture="neutral",
        width=0,
        sft=False,
        input_encoding="bt1886",
        output_encoding="bt1886",
        white_level=1.0,
        trained=False,
        training_data="none",
        metrics={},
        licence="Apache-2.0",
    )
    checkpoints.save(checkpoints.WEIGHTS_FOLDER / "neutral.safetensors", Neutral(0, False, "bt1886", "bt1886"), spec)


if __name__ == "__main__":
    main()
