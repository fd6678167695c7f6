"""The convolution that calls oneDNN directly: the plain one's results, and nothing in the way of torch.compile."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models import registry
from models.convolution import conv2d
from models.deform_conv import deform_conv2d


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_it_convolves_as_pytorch_does(kernel: int, stride: int) -> None:
    chance = torch.Generator().manual_seed(kernel + stride)
    x, bias = torch.randn(2, 5, 17, 23, generator=chance), torch.randn(7, generator=chance)
    weight = torch.randn(7, 5, kernel, kernel, generator=chance)
    way = ((stride, stride), (kernel // 2, kernel // 2))
    with torch.no_grad():
        torch.testing.assert_close(conv2d(x, weight, bias, *way), F.conv2d(x, weight, bias, *way), rtol=1e-5, atol=1e-5)


def test_the_fast_deformable_convolution_compiles_in_one_graph() -> None:
    chance = torch.Generator().manual_seed(1)
    x, offset = torch.randn(1, 16, 12, 14, generator=chance), torch.randn(1, 18, 12, 14, generator=chance)
    mask, weight = torch.rand(1, 9, 12, 14, generator=chance), torch.randn(16, 16, 3, 3, generator=chance)

    def work(x: torch.Tensor) -> torch.Tensor:
        return deform_conv2d(conv2d(x, weight, None, (1, 1), (1, 1)), offset, mask, weight, None, backend="fast")

    with torch.no_grad():
        compiled = torch.compile(work, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), work(x), rtol=1e-4, atol=1e-4)


def test_a_whole_network_compiles_in_one_graph() -> None:
    torch.manual_seed(2)
    network = registry.build("dcdr_unet", 16, sft=False, input_encoding="bt1886", output_encoding="linear").eval()
    coded = torch.rand(1, 3, 24, 32)
    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(coded), network(coded), rtol=1e-4, atol=1e-5)
