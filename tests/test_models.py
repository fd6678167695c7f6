"""The networks: neutral when fresh, sizes as published, bits that depend on nothing but the frame."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models import encodings, registry
from models.blocks import Upsample
from models.convolution import set_precision
from models.dcdr_unet import DEEP_HALO_PX, HALO_PX
from models.model import Model, ModelSpec, best_precision

KINDS = [
    ("dcdr_unet", 16, False),
    ("dcdr_unet", 32, True),
    ("dcdr_unet_deep", 16, False),
    ("dcdr_unet_deep", 16, True),
    ("residual_unet", 16, False),
    ("hdrunet", 16, True),
    ("neutral", 0, False),
]


def spec_of(architecture: str, width: int, sft: bool, **changes: object) -> ModelSpec:
    fields = dict(
        architecture=architecture,
        width=width,
        sft=sft,
        input_encoding="bt1886",
        output_encoding="bt1886",
        white_level=1.0,
        trained=False,
        training_data="none",
        licence="Apache-2.0",
    )
    return ModelSpec(**(fields | changes))


def shaken(network: nn.Module, amount: float = 0.05) -> nn.Module:
    """Give the layers that start at zero some weights, as training would: offsets of a pixel or so."""
    g = torch.Generator().manual_seed(7)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.data.normal_(0, amount, generator=g)
    return network


def picture(n: int, h: int, w: int) -> Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (37, 53)])
@pytest.mark.parametrize("output", encodings.ENCODINGS)
def test_fresh_networks_are_neutral(kind: tuple[str, int, bool], size: tuple[int, int], output: str) -> None:
    coded = picture(2, *size)
    network = registry.build(*kind, output_encoding=output)
    model = Model(network, spec_of(*kind, output_encoding=output))
    light = model.restore(coded, "fp32")
    assert light.dtype == torch.float32 and light.shape == coded.shape
    torch.testing.assert_close(light, coded.pow(2.4), rtol=0, atol=1e-5)
    tone, restored = model.parts(coded)
    torch.testing.assert_close(encodings.decode(tone, output), coded.pow(2.4), rtol=0, atol=1e-5)
    assert not restored.any()
    if output == "bt1886":
        assert torch.equal(tone, coded)


def test_white_level_is_the_linear_output_that_equals_white() -> None:
    model = Model(registry.build("neutral", 0), spec_of("neutral", 0, False, white_level=0.25))
    assert torch.allclose(model.restore(torch.ones(1, 3, 4, 4), "fp32"), torch.full((1, 3, 4, 4), 4.0))
    with pytest.raises(ValueError, match="white_level"):
        spec_of("neutral", 0, False, white_level=0.0)


@pytest.mark.parametrize(
    ("name", "sft", "width", "millions"),
    [
        ("hdrunet", True, 64, 1.651),
        ("dcdr_unet", False, 64, 1.526),
        ("dcdr_unet", False, 32, 0.430),
        ("dcdr_unet", False, 16, 0.132),
    ],
)
def test_parameter_counts(name: str, sft: bool, width: int, millions: float) -> None:
    """HDRUNet's 1.65 million are published; DCDR-UNet's are those of the description."""
    count = sum(p.numel() for p in registry.build(name, width, sft).parameters())
    assert round(count / 1e6, 3) == pytest.approx(millions, rel=0.005)


def test_the_tone_network_sees_at_most_nine_pixels() -> None:
    network = shaken(registry.build("dcdr_unet", 16))
    coded = picture(1, 33, 33).requires_grad_()
    network.net_t(coded)[0, :, 16, 16].sum().backward()
    rows, columns = coded.grad[0].abs().sum(0).nonzero().unbind(1)
    assert rows.max() - rows.min() < 9 and columns.max() - columns.min() < 9
    assert (coded.grad != 0).any()


@pytest.mark.parametrize(("name", "halo_px"), [("dcdr_unet", HALO_PX), ("dcdr_unet_deep", DEEP_HALO_PX)])
def test_a_tile_with_its_halo_gives_the_whole_frames_pixels(name: str, halo_px: int) -> None:
    network = shaken(registry.build(name, 16), 0.02).eval()
    coded = picture(1, 16, 4 * halo_px)
    left = 2 * halo_px
    with torch.no_grad():
        whole = network(coded)
        tile = network(coded[..., left - halo_px :])
    torch.testing.assert_close(tile[..., halo_px:], whole[..., left:], rtol=0, atol=1e-5)


def test_inspection_gives_what_the_figures_need() -> None:
    network = shaken(registry.build("dcdr_unet", 16))
    coded = picture(1, 24, 32)
    with torch.no_grad():
        seen = network.inspect(coded)
        assert torch.equal(seen.tone + seen.restored, network(coded))
    assert seen.offsets.shape == (1, 18, 12, 16) and seen.offsets.any()
    assert seen.mask.shape == (1, 9, 12, 16) and seen.mask.min() > 0 and seen.mask.max() < 1
    assert seen.features.shape == (1, 16, 12, 16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bits_depend_neither_on_the_batch_nor_on_threads(kind: tuple[str, int, bool], precision: str) -> None:
    model = Model(shaken(registry.build(*kind)), spec_of(*kind))
    before = torch.get_num_threads()
    try:
        for size in ((5, 3), (90, 160)):
            coded = picture(2, *size)
            results = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                results.append(model.restore(coded, precision))
            results.append(torch.cat([model.restore(frame, precision) for frame in coded.split(1)]))
            results.append(model.restore(coded.contiguous(memory_format=torch.channels_last), precision))
            assert all(torch.equal(results[0], other) for other in results[1:]), size
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_bf16_stays_near_float32_and_leaves_the_model_alone(kind: tuple[str, int, bool]) -> None:
    model = Model(shaken(registry.build(*kind), 0.02), spec_of(*kind))
    coded = picture(1, 32, 48)
    exact = model.restore(coded, "fp32")
    narrow = model.restore(coded, "bf16")
    assert not torch.equal(exact, narrow)
    assert (narrow - exact).abs().max() < 0.02
    assert torch.equal(model.restore(coded, "fp32"), exact)


def test_precision_is_chosen_and_refused_by_device() -> None:
    model = Model(registry.build("dcdr_unet", 16), spec_of("dcdr_unet", 16, False))
    with pytest.raises(ValueError, match=r"fp16.*legal are: fp32, bf16"):
        model.restore(picture(1, 8, 8), "fp16")
    assert model.best_precision() == "fp32"
    assert best_precision("cpu", 32) in ("fp32", "bf16")
    assert best_precision("cuda", 0) == "fp32"


def test_float32_islands_stay_float32() -> None:
    network = set_precision(registry.build("dcdr_unet", 16, True), torch.bfloat16)
    assert {p.dtype for p in network.net_t.parameters()} == {torch.float32}
    assert network.net_r.conv_in.weight.dtype == network.net_r.conv_out.weight.dtype == torch.float32
    assert network.net_r.blocks_quarter[0].deform.weight.dtype == torch.bfloat16


def test_fresh_upsampling_draws_no_grid() -> None:
    torch.manual_seed(0)
    up = Upsample(8)(torch.randn(1, 8, 5, 6))
    assert torch.equal(up, up[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_training_moves_every_parameter() -> None:
    network = shaken(registry.build("dcdr_unet", 16, True))
    network(picture(1, 16, 20)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_building_is_repeatable_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    first = registry.build("dcdr_unet", 16).state_dict()
    assert torch.equal(torch.rand(1), expected)
    second = registry.build("dcdr_unet", 16).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dcdr", 16), "legal are: dcdr_unet, dcdr_unet_deep, residual_unet, hdrunet, neutral"),
        (("dcdr_unet", 24), "legal are: 16, 32, 64"),
        (("hdrunet", 64, False), "legal are: True"),
        (("dcdr_unet", 16, False, "pq"), "legal are: bt1886, srgb"),
        (("dcdr_unet", 16, False, "bt1886", "pq"), "legal are: linear, bt1886, srgb, log"),
    ],
)
def test_wrong_arguments_name_the_legal_ones(arguments: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        registry.build(*arguments)


@pytest.mark.parametrize("name", encodings.ENCODINGS)
def test_encodings_are_odd_and_invertible(name: str) -> None:
    light = torch.cat([torch.linspace(-1, 12, 300), torch.tensor([0.0, 1e-4, 1.0])])
    code = encodings.encode(light, name)
    torch.testing.assert_close(encodings.decode(code, name), light, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(encodings.encode(-light, name), -code)
    assert encodings.encode(torch.ones(1), name).item() == pytest.approx(1, abs=1e-6)


def test_memory_estimate_grows_with_the_frame() -> None:
    model = Model(registry.build("dcdr_unet", 16), spec_of("dcdr_unet", 16, False))
    small, large = (model.activation_bytes(*size, "fp32") for size in ((270, 480), (540, 960)))
    assert 64e6 < small < 2 * 64e6 and 224e6 < large < 2 * 224e6  # measured resident memory: 64 and 150 to 224 MB
    assert model.activation_bytes(540, 960, "bf16") < large
