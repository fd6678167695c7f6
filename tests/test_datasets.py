"""Cityscapes and VDS: what a legal folder gives, and one clear sentence for every way in which a folder can be wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.cityscapes import CityscapesDataset
from datasets.pairs import read_coded
from datasets.sample import Dataset
from datasets.vds import VDSDataset
from pipeline.errors import InputError

HEIGHT, WIDTH = 12, 16


def picture(seed: int, kind: type = np.uint8, height: int = HEIGHT) -> np.ndarray:
    """Random codes, (height, 16, 3) RGB."""
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max, (height, WIDTH, 3), kind, endpoint=True)


def light(seed: int, peak: float = 4.0) -> np.ndarray:
    """Random light, (12, 16, 3) float32, up to `peak`."""
    return (np.random.default_rng(seed).random((HEIGHT, WIDTH, 3)) * peak).astype(np.float32)


def write(path: Path, rgb: np.ndarray) -> Path:
    """A picture file of RGB values, made with OpenCV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgb[..., ::-1] if rgb.ndim == 3 else rgb)
    return path


CITIES = [
    ("aachen", "000000", "000019"),
    ("aachen", "000000", "000020"),
    ("aachen", "000001", "000019"),
    ("bad-honnef", "000000", "000019"),
]


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """Four pairs of split train, in two cities."""
    for seed, key in enumerate(CITIES):
        for kind, bits in (("leftImg8bit", np.uint8), ("leftImg16bit", np.uint16)):
            write(tmp_path / kind / "train" / key[0] / f"{'_'.join(key)}_{kind}.png", picture(seed, bits))
    (tmp_path / "leftImg8bit" / "train" / "aachen" / "._hidden.png").write_bytes(b"")
    (tmp_path / "leftImg8bit" / "train" / "aachen" / "Thumbs.db").write_bytes(b"x")
    return tmp_path


def city_file(folder: Path, kind: str, number: int = 0) -> Path:
    key = CITIES[number]
    return folder / kind / "train" / key[0] / f"{'_'.join(key)}_{kind}.png"


def refused(build: object, *says: str) -> str:
    """The InputError's message; it must say each of `says`, in one line."""
    with pytest.raises(InputError) as caught:
        build()
    message = str(caught.value)
    for wanted in says:
        assert wanted in message, f"{wanted!r} not in {message!r}"
    assert "\n" not in message
    return message


def test_cityscapes_pairs_scenes_and_scale(cityscapes: Path) -> None:
    data: Dataset = CityscapesDataset(cityscapes)
    assert len(data) == 4
    assert list(data.scenes) == ["aachen_000000", "aachen_000000", "aachen_000001", "bad-honnef_000000"]
    for number in range(4):
        sample = data[number]
        assert sample.name == "_".join(CITIES[number])
        assert sample.scene == data.scenes[number]
        np.testing.assert_array_equal(sample.coded, picture(number))
        assert sample.truth.dtype == np.float32
        np.testing.assert_allclose(sample.truth, picture(number, np.uint16) / 65535, rtol=1e-6)
    with pytest.raises(IndexError):
        data[4]


def test_cityscapes_whole_range_of_the_truth(cityscapes: Path) -> None:
    ends = np.zeros((HEIGHT, WIDTH, 3), np.uint16)
    ends[:, :8] = 65535
    write(city_file(cityscapes, "leftImg16bit"), ends)
    truth = CityscapesDataset(cityscapes)[0].truth
    assert truth.min() == 0.0 and truth.max() == 1.0


def test_cityscapes_folder_that_is_not(cityscapes: Path) -> None:
    example = "aachen_000000_000019_leftImg8bit.png"
    refused(lambda: CityscapesDataset(cityscapes / "absent"), "absent: no such folder", example)
    refused(lambda: CityscapesDataset(cityscapes, "val"), "leftImg8bit/val: no such folder", "train", example)
    shutil.rmtree(cityscapes / "leftImg16bit")
    refused(
        lambda: CityscapesDataset(cityscapes),
        "leftImg16bit: no such folder",
        "leftImg8bit",
        "aachen_000000_000019_leftImg16bit.png",
    )
    (cityscapes / "leftImg16bit" / "train" / "aachen").mkdir(parents=True)
    (cityscapes / "leftImg16bit" / "train" / "aachen" / "a.txt").write_text("x")
    refused(lambda: CityscapesDataset(cityscapes), "leftImg16bit/train: 0 PNG pictures", "1 other files")


@pytest.mark.parametrize(
    "name",
    [
        "aachen_0_19_leftImg8bit.png",
        "jena_000000_000019_leftImg8bit.png",
        "aachen_000000_000077_leftImg16bit.png",
        "aachen.png",
    ],
)
def test_cityscapes_names(cityscapes: Path, name: str) -> None:
    write(cityscapes / "leftImg8bit" / "train" / "aachen" / name, picture(0))
    refused(
        lambda: CityscapesDataset(cityscapes),
        name,
        "1 of 5 pictures",
        "legal name",
    )


@pytest.mark.parametrize(("gone", "stays"), [("leftImg8bit", "leftImg16bit"), ("leftImg16bit", "leftImg8bit")])
def test_cityscapes_partner_missing(cityscapes: Path, gone: str, stays: str) -> None:
    city_file(cityscapes, gone, 2).unlink()
    refused(
        lambda: CityscapesDataset(cityscapes),
        str(city_file(cityscapes, gone, 2)),
        str(city_file(cityscapes, stays, 2)),
        "1 of 4",
    )


def test_cityscapes_files_that_cannot_be_used(cityscapes: Path) -> None:
    data = CityscapesDataset(cityscapes)
    write(city_file(cityscapes, "leftImg16bit", 0), picture(0))
    refused(lambda: data[0], str(city_file(cityscapes, "leftImg16bit", 0)), "16 bits")
    write(city_file(cityscapes, "leftImg8bit", 1), picture(0, np.uint16))
    refused(lambda: data[1], str(city_file(cityscapes, "leftImg8bit", 1)), "8 bits")
    write(city_file(cityscapes, "leftImg16bit", 2), picture(2, np.uint16, height=10))
    refused(lambda: data[2], str(city_file(cityscapes, "leftImg16bit", 2)), "16 x 10", "16 x 12")
    whole = city_file(cityscapes, "leftImg16bit", 3).read_bytes()
    city_file(cityscapes, "leftImg16bit", 3).write_bytes(whole[: len(whole) // 2])
    refused(lambda: data[3], str(city_file(cityscapes, "leftImg16bit", 3)), "cannot be decoded")
    city_file(cityscapes, "leftImg16bit", 3).unlink()
    refused(lambda: data[3], str(city_file(cityscapes, "leftImg16bit", 3)), "no such file")


def test_a_jpeg_cut_short_is_no_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", picture(0))
    assert read_coded(path).shape == (HEIGHT, WIDTH, 3)
    path.write_bytes(path.read_bytes()[:-40])
    refused(lambda: read_coded(path), str(path), "cut short")


def test_a_grey_picture_gets_three_channels(tmp_path: Path) -> None:
    grey = picture(1)[..., 0]
    coded = read_coded(write(tmp_path / "grey.png", grey))
    np.testing.assert_array_equal(coded, np.repeat(grey[..., None], 3, axis=2))


EVS = range(-3, 4)


def vds_public(folder: Path, scene: str, seed: int) -> None:
    for ev in EVS:
        write(folder / "train_set" / scene / f"{scene}_{ev}EV_true.jpg.png", picture(10 * seed + ev + 3))
    write(folder / "train_hdr_set" / scene / "target_hdr.hdr", light(seed))


def vds_nested(folder: Path, scene: str, seed: int) -> None:
    for ev in EVS:
        write(folder / "train" / "set" / scene / f"{scene}_{ev:.1f}EV.png", picture(10 * seed + ev + 3))
    write(folder / "train" / "HDR" / f"{scene}.hdr", light(seed))


def vds_one_folder(folder: Path, scene: str, seed: int) -> None:
    for ev in EVS:
        write(folder / "Train" / scene / f"{scene}_{ev:+d}EV.png", picture(10 * seed + ev + 3))
    write(folder / "Train" / scene / "truth.hdr", light(seed))


def vds_flat(folder: Path, scene: str, seed: int) -> None:
    write(folder / "train" / "LDR" / f"{scene}.png", picture(10 * seed + 3))
    write(folder / "train" / "HDR" / f"{scene}.hdr", light(seed))


def vds_bare(folder: Path, scene: str, seed: int) -> None:
    write(folder / "train" / f"{scene}.png", picture(10 * seed + 3))
    write(folder / "train" / f"{scene}.hdr", light(seed))


@pytest.mark.parametrize("layout", [vds_public, vds_nested, vds_one_folder, vds_flat, vds_bare])
def test_vds_layouts(tmp_path: Path, layout: object) -> None:
    for seed, scene in enumerate(["t1", "t2", "t10"]):
        layout(tmp_path, scene, seed)
    write(tmp_path / "test_set" / "t9" / "t9_0EV.png", picture(0))
    data: Dataset = VDSDataset(tmp_path)
    assert list(data.scenes) == ["t1", "t2", "t10"]
    for seed, sample in enumerate(data[number] for number in range(3)):
        assert sample.name == sample.scene == data.scenes[seed]
        np.testing.assert_array_equal(sample.coded, picture(10 * seed + 3))
        assert sample.truth.dtype == np.float32
        pixel_peak = light(seed).max(-1, keepdims=True)  # Radiance: 8-bit mantissas, one exponent a pixel
        assert (np.abs(sample.truth - light(seed)) <= pixel_peak / 128).all()


def test_vds_light_is_not_normalised_unless_asked(tmp_path: Path) -> None:
    for seed, (scene, peak) in enumerate({"dim": 0.25, "bright": 900.0}.items()):
        vds_public(tmp_path, scene, seed)
        write(tmp_path / "train_hdr_set" / scene / "target_hdr.hdr", light(seed, peak))
    plain, peaked = VDSDataset(tmp_path), VDSDataset(tmp_path, normalise="peak")
    peaks = {plain[number].scene: plain[number].truth.max() for number in range(2)}
    assert 0.23 < peaks["dim"] <= 0.25 and 850 < peaks["bright"] <= 905
    for number in range(2):
        np.testing.assert_allclose(peaked[number].truth, plain[number].truth / peaks[plain[number].scene], rtol=1e-6)
        assert peaked[number].truth.max() == pytest.approx(1.0)
    refused(lambda: VDSDataset(tmp_path, normalise="max"), "'max'", "none, peak")
    write(tmp_path / "train_hdr_set" / "dim" / "target_hdr.hdr", np.zeros((HEIGHT, WIDTH, 3), np.float32))
    assert VDSDataset(tmp_path)[1].truth.max() == 0
    refused(lambda: VDSDataset(tmp_path, normalise="peak")[1], "dim/target_hdr.hdr", "no light")


def test_vds_other_exposure(tmp_path: Path) -> None:
    vds_public(tmp_path, "t1", 0)
    np.testing.assert_array_equal(VDSDataset(tmp_path, exposure_ev=-2)[0].coded, picture(1))
    refused(lambda: VDSDataset(tmp_path, exposure_ev=5), "t1", "0 pictures of 5 EV", "-3, -2, -1, 0, 1, 2, 3")


def test_vds_folder_that_is_not(tmp_path: Path) -> None:
    example = "t1_0EV_true.jpg.png"
    refused(lambda: VDSDataset(tmp_path / "absent"), "absent: no such folder", example)
    (tmp_path / "photos").mkdir()
    refused(lambda: VDSDataset(tmp_path), "train, train_set, train_hdr, train_hdr_set", "it holds photos", example)
    write(tmp_path / "train_set" / "t1" / "t1_0EV.png", picture(0))
    (tmp_path / "train_set" / "readme.txt").write_text("x")
    refused(lambda: VDSDataset(tmp_path), "1 pictures", "0 .hdr", "1 others", example)


def test_vds_scenes_that_do_not_fit(tmp_path: Path) -> None:
    vds_public(tmp_path, "t1", 0)
    vds_public(tmp_path, "t2", 1)
    extra = write(tmp_path / "train_hdr_set" / "t2" / "second.hdr", light(3))
    refused(lambda: VDSDataset(tmp_path), str(extra.parent), "scene t2", "2 .hdr")
    extra.unlink()
    shutil.rmtree(tmp_path / "train_set" / "t2")
    refused(lambda: VDSDataset(tmp_path), "t2/target_hdr.hdr", "0 pictures")
    shutil.rmtree(tmp_path / "train_hdr_set" / "t2")
    shutil.move(tmp_path / "train_set" / "t1" / "t1_0EV_true.jpg.png", tmp_path / "train_set" / "t1" / "middle.png")
    refused(lambda: VDSDataset(tmp_path), "t1/middle.png", "exposure in its name")
    shutil.move(tmp_path / "train_set" / "t1" / "middle.png", tmp_path / "train_set" / "t1" / "t7_0EV.png")
    refused(lambda: VDSDataset(tmp_path), "t7_0EV.png", "scene t7", "t1")


def test_vds_files_that_cannot_be_used(tmp_path: Path) -> None:
    vds_public(tmp_path, "t1", 0)
    truth = tmp_path / "train_hdr_set" / "t1" / "target_hdr.hdr"
    data = VDSDataset(tmp_path)
    whole = truth.read_bytes()
    truth.write_bytes(whole[: len(whole) // 2])
    refused(lambda: data[0], str(truth), "cannot be decoded")
    write(truth, light(0)[:6])
    refused(lambda: data[0], str(truth), "16 x 6", "16 x 12")
