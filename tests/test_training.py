"""Training: the camera and its truth, shards, losses, and runs that stop and go on."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import run_pipeline
from configs.schema import profiles, recipes
from datasets.sample import Sample
from demo.scene import Drive, DriveOptions
from models import checkpoints
from models.encodings import decode
from models.model import Model
from pipeline.errors import InputError, SunvisorError
from training.camera import (
    BENCH_SHOT,
    COMPRESSIONS,
    RESPONSES,
    Shot,
    compress,
    expose,
    random_shot,
    response_curve,
    shoot,
)
from training.losses import Loss, colour_error, detail_error, limit, slope_error
from training.prepare import HELD_OUT, prepare, split
from training.processes import Processes
from training.sampler import Sampler
from training.scenes import Scene, View, perspective, random_view, read_scene
from training.settings import LossSettings, load_train_config
from training.shards import MAX_BYTES, ShardDataset, from_steps, to_steps, write_shard
from training.trainer import STATE, Trainer, learning_rate
from training.wires import FINE, _stroke, draw_wires

ROOT = Path(__file__).parents[1]
CPU = Processes(0, 1, torch.device("cpu"))


def light(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth light over some ten stops, with a blown-out patch."""
    rng = np.random.default_rng(seed)
    small = np.exp(rng.normal(-1.0, 1.5, (6, 8, 3))).astype(np.float32)
    picture = np.maximum(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), 0.001)
    picture[: height // 4, : width // 3] += 8.0
    return picture


def shot(**changes: object) -> Shot:
    plain = {"read_noise": 0.0, "shot_noise": 0.0, "compression": "none"}
    return Shot(**{**BENCH_SHOT.__dict__, **plain, **changes})


# The camera


@given(st.sampled_from(RESPONSES), st.floats(0, 1), st.floats(0, 1))
def test_responses_rise_from_black_to_white(name: str, first: float, second: float) -> None:
    values = response_curve(name, (first, second))(np.linspace(0, 1, 300, dtype=np.float32))
    assert values[0] == pytest.approx(0, abs=1e-6) and values[-1] == pytest.approx(1, abs=1e-5)
    assert (np.diff(values) > 0).all()


@pytest.mark.parametrize("response", RESPONSES)
def test_truth_is_what_a_reference_display_shows_below_white_and_scene_light_above(response: str) -> None:
    scene = light(64, 96)
    coded, truth = shoot(scene, shot(response=response), np.random.default_rng(0))
    exposed = expose(scene, shot())
    lost = exposed >= 1
    assert np.array_equal(truth[lost], exposed[lost])
    shown = (coded / 255.0) ** 2.4  # BT.1886, of a picture without noise: only rounding to 8 bits is between them
    assert (np.abs(shown - truth)[~lost] <= 2.4 * 0.5 / 255 + 1e-6).all()
    assert (coded[lost] == 255).all()


@given(st.floats(0.01, 0.4), st.integers(0, 5))
def test_exposure_clips_the_share_asked_for(share: float, seed: int) -> None:
    clipped = (expose(light(60, 80, seed), shot(clipped_share=share)).max(-1) >= 1).mean()
    assert clipped == pytest.approx(share, abs=0.01) or clipped > share  # many pixels may be equally bright


@given(st.integers(0, 10_000))
def test_random_shots_stay_in_range(seed: int) -> None:
    drawn = random_shot(np.random.default_rng(seed))
    assert 0 <= drawn.clipped_share <= 0.4
    assert drawn.response in RESPONSES and drawn.compression in COMPRESSIONS


@pytest.mark.parametrize("codec", ["h264", "hevc", "jpeg"])
def test_compression_loses_little_and_moves_nothing(codec: str) -> None:
    code = np.round(255 * np.clip(light(96, 128) / 4, 0, 1) ** (1 / 2.4)).astype(np.uint8)
    high, low = {"h264": (10, 45), "hevc": (10, 45), "jpeg": (98, 5)}[codec]
    error = [np.abs(compress([code, code], codec, q).astype(int) - code).mean() for q in (high, low)]
    assert error[0] < 4 < error[1]
    shifted = np.abs(compress([code], codec, high).astype(int)[:, 1:] - code[:, :-1]).mean()
    assert error[0] < shifted


def test_noise_and_glare_are_in_the_picture_and_not_in_the_truth() -> None:
    scene = light(64, 96)
    clean, truth = shoot(scene, shot(), np.random.default_rng(0))
    dirty, same = shoot(scene, shot(shot_noise=1e-3, read_noise=1e-4, glare=0.03), np.random.default_rng(0))
    assert np.array_equal(truth, same)
    assert not np.array_equal(clean, dirty)


# Scenes


def test_a_light_stands_where_the_camera_looks() -> None:
    """A lamp at a known direction of the panorama; a camera turned there has it in the middle, one turned 20 degrees away 20 degrees aside."""
    panorama = np.full((256, 512, 3), 0.1, np.float32)
    panorama[128 - 20 - 1 : 128 - 20 + 1, 320 - 1 : 320 + 1] = (
        9.0  # 64 columns right of the middle: 45 degrees; 20 rows up: 14.06 degrees
    )
    there = View(np.radians(45.0), 0.0, 0.0, 90.0)
    y, x = np.unravel_index(perspective(panorama, there, 120, 160)[..., 0].argmax(), (120, 160))
    focal = 80.0
    assert (x, y) == (pytest.approx(79.5, abs=1), pytest.approx(59.5 - focal * np.tan(np.radians(14.06)), abs=1))
    aside = View(np.radians(25.0), 0.0, 0.0, 90.0)
    _, x = np.unravel_index(perspective(panorama, aside, 120, 160)[..., 0].argmax(), (120, 160))
    assert x == pytest.approx(79.5 + focal * np.tan(np.radians(20)), abs=1.5)


def test_views_of_plain_pictures_are_cut_out_of_them() -> None:
    scene = Scene("plain", light(100, 120), panorama=False)
    view = random_view(scene, 48, 64, np.random.default_rng(1))
    assert view.shape == (48, 64, 3)
    assert scene.light.min() - 1e-5 <= view.min() and view.max() <= scene.light.max() + 1e-5


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"place{number}.hdr"), light(128, 256, number)[..., ::-1])
    return folder


def test_a_folder_without_scenes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no linear HDR image.*\.exr"):
        prepare(tmp_path, tmp_path / "out", 1, 1, 0, HELD_OUT, lambda _: None)
    with pytest.raises(InputError, match="no such folder"):
        prepare(tmp_path / "absent", tmp_path / "out", 1, 1, 0, HELD_OUT, lambda _: None)


def test_black_scenes_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "night.hdr"), np.zeros((8, 16, 3), np.float32))
    with pytest.raises(InputError, match="no light at all"):
        read_scene(tmp_path / "night.hdr")


# Shards


@given(st.floats(0.0, 64.0))
def test_steps_keep_light_within_two_tenths_of_a_per_cent(value: float) -> None:
    back = float(from_steps(to_steps(np.array([value])))[0])
    assert abs(back - value) <= 0.0011 * (value + 0.01)


def test_shards_give_back_what_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = [
        Sample(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8), light(20, 30, k), f"s{k}", f"place{k % 2}")
        for k in range(3)
    ]
    assert write_shard(tmp_path / "000.npz", samples) == (tmp_path / "000.npz").stat().st_size <= MAX_BYTES
    data = ShardDataset(tmp_path)
    assert data.scenes == ["place0", "place1", "place0"] and len(data) == 3
    for number, sample in enumerate(samples):
        assert np.array_equal(data[number].coded, sample.coded)
        assert np.allclose(data[number].truth, sample.truth, rtol=0.0015, atol=2e-5)
        coded, truth = data.window(number, np.s_[3:11, 5:13])
        assert np.array_equal(coded, sample.coded[3:11, 5:13]) and np.array_equal(truth, data[number].truth[3:11, 5:13])


def test_damaged_and_absent_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train prepare"):
        ShardDataset(tmp_path)
    (tmp_path / "000.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(InputError, match=r"000\.npz: not a readable shard"):
        ShardDataset(tmp_path)


def test_prepare_holds_scenes_out_and_goes_on_where_it_stopped(scenes: Path, tmp_path: Path) -> None:
    arguments = (scenes, tmp_path / "data", 4, 2, 7, ("place1",))
    told: list[int] = []
    sums = prepare(*arguments, told.append)
    assert (sums["train_frames"], sums["validation_frames"]) == (4, 2) and sum(told) == 4
    files = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.npz")}
    assert set(ShardDataset(tmp_path / "data/train").scenes) == {"place0", "place2"}
    assert set(ShardDataset(tmp_path / "data/validation").scenes) == {"place1"}
    (tmp_path / "data/train/000.npz").unlink()
    prepare(*arguments, lambda _: None)
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.npz")} == files


def test_shards_of_other_settings_are_not_mixed(scenes: Path, tmp_path: Path) -> None:
    prepare(scenes, tmp_path / "data", 2, 1, 0, ("place1",), lambda _: None)
    for frames, held in ((3, "place1"), (2, "place0")):
        with pytest.raises(InputError, match=r"other scenes or with other settings; name another --output"):
            prepare(scenes, tmp_path / "data", frames, 1, 0, (held,), lambda _: None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seed", "9"], "--seed belongs to train prepare"),
        (["prepare", "--config", "configs/train_tiny.yaml"], "--config belongs to train without prepare"),
        (["prepare", "iterations=3", "--scenes", "."], "takes no further words"),
        (["prepare"], "--scenes DIR"),
        (["prepare", "--scenes", ".", "--seed", "-1"], "--seed at least 0"),
        (["--threads", "0"], "--threads 0: legal: 1 or more"),
        (["--config", "."], "cannot be read"),
        (["output=/proc/nothing/here"], "no folder can be made there"),
    ],
)
def test_wrong_words_are_told(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_pipeline.main(["train", *words]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_unknown_folders_hold_out_every_eighth_scene() -> None:
    paths = [Path(f"s{n:02d}.exr") for n in range(17)]
    kept, held = split(paths, HELD_OUT)
    assert [path.stem for path in held] == ["s00", "s08", "s16"] and len(kept) == 14
    with pytest.raises(InputError, match="need one each"):
        split(paths[:1], HELD_OUT)


# Wires


@pytest.mark.parametrize("seed", range(6))
def test_wires_darken_a_sky_and_never_brighten_it(seed: int) -> None:
    sky = np.full((90, 160, 3), 4.0, np.float32)
    seen = draw_wires(sky, np.random.default_rng(seed))
    changed = (seen < 4.0).any(-1)
    assert seen.min() > 0 and seen.max() <= 4.0
    assert 0 < changed.mean() < 0.4
    assert np.array_equal(seen, draw_wires(sky, np.random.default_rng(seed)))


def test_a_thin_wire_covers_part_of_a_pixel() -> None:
    """One of a quarter of a pixel takes about a quarter of each column's light of one pixel, wherever it runs."""
    canvas = np.zeros((20 * FINE, 40 * FINE), np.uint8)
    _stroke(canvas, np.array([[-5.0, 8.3], [45.0, 11.1]]), np.full(2, 0.25))
    cover = cv2.resize(canvas, (40, 20), interpolation=cv2.INTER_AREA).astype(float) / 255
    assert np.abs(cover.sum(0) - 0.25).max() < 0.15 and cover.max() < 0.5


# Losses


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    truth = torch.rand(2, 3, 64, 64) * 3
    return truth.clone(), truth


@pytest.mark.parametrize("name", ["log", "pu", "tanh"])
def test_equal_light_costs_nothing_and_worse_light_more(name: str) -> None:
    light_, truth = pair()
    loss = Loss(LossSettings(pixel=name, quiet_weight=0.0), None)
    nothing = torch.zeros_like(truth)
    totals = [float(loss(light_ * f, nothing, truth.clamp(0, 1), truth, 0).total) for f in (1.0, 1.1, 1.3)]
    assert totals[0] == pytest.approx(0, abs=1e-6)
    assert totals[0] < totals[1] < totals[2]


def test_tanh_loss_is_hdrunets() -> None:
    light_, truth = pair()
    plain = LossSettings(
        pixel="tanh", limit=0, lost_weight=0, detail_weight=0, slope_weight=0, colour_weight=0, quiet_weight=0
    )
    loss = Loss(plain, None)
    got = loss(light_ + 0.2, torch.zeros_like(truth), truth.clamp(0, 1), truth, 0).total
    assert torch.allclose(got, F.l1_loss(torch.tanh(light_ + 0.2), torch.tanh(truth)))


def test_limit_keeps_hue_and_what_lies_below() -> None:
    light_ = torch.tensor([8.0, 4.0, 2.0, 3.0, 1.0, 0.5]).view(2, 3, 1, 1)
    assert limit(light_, 4.0).flatten().tolist() == [4.0, 2.0, 1.0, 3.0, 1.0, 0.5]
    assert torch.equal(limit(light_, 0), light_)


def test_detail_error_is_one_without_detail_and_zero_with_the_right_one() -> None:
    """Brightness as a whole is not detail; neither is what happens outside the lost region."""
    rows = torch.arange(96).view(1, 1, 96, 1) / 3.0
    truth = torch.exp2(0.5 + torch.sin(rows)).expand(1, 3, 96, 96).clone()
    lost = torch.zeros(1, 1, 96, 96)
    lost[..., 16:80, 16:80] = 1
    assert float(detail_error(truth * 2, truth, lost)) == pytest.approx(0, abs=1e-4)
    assert float(detail_error(torch.full_like(truth, 1.5), truth, lost)) == pytest.approx(1, abs=0.05)
    outside = torch.where(lost > 0, truth, truth * torch.rand(1, 1, 96, 96))
    assert float(detail_error(outside, truth, lost)) == pytest.approx(0, abs=1e-4)


def test_slope_error_sees_grids_and_casts_that_change_but_no_brightness() -> None:
    truth, lost = torch.full((1, 3, 64, 64), 2.0), torch.ones(1, 1, 64, 64)
    columns = torch.arange(64).view(1, 1, 1, 64)
    grid = truth * torch.exp2(0.1 * (columns // 4 % 2))
    assert float(slope_error(truth * 2, truth, lost)) == pytest.approx(0, abs=1e-6)
    # Steps of 0.1 stop at every fourth column: 15 of 63 neighbours at full size, 15 of 31 at half, all at a quarter; none down the rows.
    assert float(slope_error(grid, truth, lost)) == pytest.approx(0.1 * (15 / 63 + 15 / 31 + 1) / 6, rel=1e-3)
    half = lost.clone()
    half[..., 32:] = 0
    assert float(slope_error(torch.where(columns < 32, truth, grid), truth, half)) == pytest.approx(0, abs=1e-6)


def test_colour_error_is_the_cast_in_stops() -> None:
    truth, lost = torch.full((1, 3, 8, 8), 2.0), torch.ones(1, 1, 8, 8)
    cast = truth * torch.tensor([2.0, 1.0, 0.5]).view(1, 3, 1, 1)
    assert float(colour_error(truth * 3, truth, lost)) == pytest.approx(0, abs=1e-6)
    assert float(colour_error(cast, truth, lost)) == pytest.approx(1.0)
    assert float(colour_error(cast, truth, 0 * lost)) == 0


def test_quiet_counts_only_what_net_r_adds_where_nothing_was_lost() -> None:
    light_, truth = pair()
    coded = torch.full_like(truth, 0.5)
    coded[..., :32] = 1.0
    restored = torch.zeros_like(truth)
    restored[..., :32] = 5.0
    loss = Loss(LossSettings(), None)
    assert float(loss(light_, restored, coded, truth, 0).quiet) == 0
    assert float(loss(light_, restored.flip(-1), coded, truth, 0).quiet) > 1


# Runs


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for part, seeds in (("train", range(4)), ("validation", range(4, 6))):
        (folder / part).mkdir()
        samples = []
        for seed in seeds:
            coded, truth = shoot(light(48, 64, seed), BENCH_SHOT, np.random.default_rng(seed))
            samples.append(Sample(coded, truth, f"s{seed}", f"place{seed}"))
        write_shard(folder / part / "000.npz", samples)
    return folder


def config_words(shards: Path, output: Path, *more: str) -> list[str]:
    small = ["data.crop=32", "data.batch=2", "validate_every=4", "save_every=2", "iterations=8", "warmup=2"]
    return [f"data.folder={shards}", f"output={output}", *small, *more]


class Stop(Exception):
    pass


def train(words: list[str], stop_at: int | None = None) -> Trainer:
    trainer = Trainer(load_train_config(None, words), CPU)
    iterate = trainer._iterate

    def until(*arguments: object) -> object:
        if trainer.step == stop_at:
            raise Stop
        return iterate(*arguments)  # type: ignore[arg-type]

    trainer._iterate = until  # type: ignore[method-assign, assignment]
    try:
        trainer.run(lambda _: None)
    except Stop:
        assert stop_at is not None
    return trainer


@pytest.mark.parametrize("architecture", ["dcdr_unet", "dcdr_unet_deep", "hdrunet"])
def test_a_run_that_was_stopped_gives_the_same_weights_and_curve(
    architecture: str, shards: Path, tmp_path: Path
) -> None:
    model = f"model.architecture={architecture}"
    train(config_words(shards, tmp_path / "whole", model))
    for stop_at in (3, 5):
        train(config_words(shards, tmp_path / "parts", model), stop_at)
    assert (tmp_path / "parts/state.safetensors").exists()
    train(config_words(shards, tmp_path / "parts", model))
    for name in ("best.safetensors", "last.safetensors", "curve.tsv", STATE):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_training_learns_and_its_checkpoint_converts(shards: Path, tmp_path: Path) -> None:
    """A few iterations on few pictures: held-out light must come nearer than the SDR (a fresh network) had it."""
    trainer = train(config_words(shards, tmp_path, "iterations=60", "validate_every=30", "learning_rate=3e-3"))
    lines = [line.split("\t") for line in (tmp_path / "curve.tsv").read_text().splitlines()]
    assert [line[0] for line in lines] == ["iteration", "30", "60"]
    model = checkpoints.load(tmp_path / "best.safetensors")
    curve = [float(line[1]) for line in lines[1:]]
    assert model.spec.trained and min(abs(model.spec.metrics["hl_stops"] - value) for value in curve) < 1e-3
    held, _ = trainer.held
    sdr = [np.abs(np.log2(np.maximum(held[n].truth.max(-1), 1)))[held[n].truth.max(-1) >= 1].mean() for n in range(2)]
    assert model.spec.metrics["hl_stops"] < 0.9 * np.mean(np.minimum(sdr, 1.98))
    size = (tmp_path / "best.safetensors").stat().st_size
    assert size < 3 * sum(p.numel() for p in model.network.parameters())  # 16-bit floats
    assert list((tmp_path / "log").glob("events*"))


def test_other_settings_do_not_go_on_with_the_same_state(shards: Path, tmp_path: Path) -> None:
    train(config_words(shards, tmp_path, "iterations=2"))
    with pytest.raises(InputError, match=r"other settings.*output=FOLDER"):
        Trainer(load_train_config(None, config_words(shards, tmp_path, "iterations=3")), CPU)
    (tmp_path / STATE).write_bytes(b"torn")
    with pytest.raises(InputError, match="not a training state"):
        Trainer(load_train_config(None, config_words(shards, tmp_path, "iterations=2")), CPU)


def test_a_run_starts_from_a_checkpoint_that_fits(shards: Path, tmp_path: Path) -> None:
    train(config_words(shards, tmp_path / "first", "iterations=2"))
    start = f"model.start={tmp_path / 'first/last.safetensors'}"
    train(config_words(shards, tmp_path / "second", "iterations=2", start))
    assert (tmp_path / "second/last.safetensors").exists()
    for other in ("model.architecture=dcdr_unet_deep", "model.width=32", "model.output_encoding=linear"):
        with pytest.raises(InputError, match=rf"its {other[6:].split('=')[0]} is .*set model\."):
            Trainer(load_train_config(None, config_words(shards, tmp_path / "third", start, other)), CPU)
    with pytest.raises(InputError, match="its architecture is neutral"):
        Trainer(load_train_config(None, config_words(shards, tmp_path / "third", "model.start=neutral")), CPU)


def test_cityscapes_trains_and_its_white_goes_into_the_checkpoint(tmp_path: Path) -> None:
    for part, cities in (("train", ("aachen", "bochum")), ("val", ("lindau",))):
        for city in cities:
            truth = np.clip(light(48, 64, len(city)) / 8, 0, 1)
            stem = f"{city}_000000_000019"
            for kind, picture in (
                ("leftImg8bit", np.round(255 * np.clip(truth * 4, 0, 1) ** (1 / 2.2)).astype(np.uint8)),
                ("leftImg16bit", np.round(65535 * truth).astype(np.uint16)),
            ):
                folder = tmp_path / kind / part / city
                folder.mkdir(parents=True)
                cv2.imwrite(str(folder / f"{stem}_{kind}.png"), picture[..., ::-1])
    words = [
        "data.kind=cityscapes",
        f"data.folder={tmp_path}",
        f"output={tmp_path / 'run'}",
        "model.input_encoding=srgb",
    ]
    train([*words, "data.crop=32", "data.batch=2", "iterations=2", "data.white_level=0.25"])
    model = checkpoints.load(tmp_path / "run/best.safetensors")
    assert model.spec.white_level == 0.25
    grey = torch.full((1, 3, 32, 32), 0.5)
    assert torch.allclose(model.restore(grey, "fp32") * 0.25, model_light(model, grey))


def model_light(model: Model, coded: torch.Tensor) -> torch.Tensor:
    return decode(sum(model.parts(coded)), model.spec.output_encoding)


@pytest.mark.parametrize("name", [name for name in checkpoints.available() if name != "neutral"])
def test_shipped_checkpoints_restore_with_net_r(name: str) -> None:
    """A restoration network that died in training (its last ReLU silent) would leave a tone curve, and nobody would see it in the loss."""
    model = checkpoints.load(name)
    drive = Drive(DriveOptions(width=480, height=270))
    coded, truth = shoot(drive.frame(10), BENCH_SHOT, np.random.default_rng(0))
    _, restored = model.parts(torch.from_numpy(coded).permute(2, 0, 1)[None].float() / 255)
    lost = torch.from_numpy(truth.max(-1) >= 1)
    assert float(restored[0][:, lost].std()) > 0.01


def test_a_loss_that_is_no_number_stops_the_run(shards: Path, tmp_path: Path) -> None:
    trainer = Trainer(load_train_config(None, config_words(shards, tmp_path)), CPU)
    with torch.no_grad():
        trainer.network.net_t.out.bias.fill_(float("nan"))
    with pytest.raises(SunvisorError, match=r"nan at iteration|not finite"):
        trainer.run(lambda _: None)


def test_iterations_draw_the_same_squares_each_time(shards: Path) -> None:
    data = ShardDataset(shards / "train")
    sampler = Sampler(data, range(len(data)), 32, 2, 5, 1.0)
    first = [sampler.batch_of(n) for n in (0, 1, 0)]
    assert torch.equal(first[0][0], first[2][0]) and not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(sampler.batch_of(0, rank=1)[0], first[0][0])


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = load_train_config(None, ["warmup=10", "iterations=110", "learning_rate=1.0"])
    rates = [learning_rate(config, step) for step in range(110)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(rates[9:])) and rates[-1] == pytest.approx(0.01, abs=1e-3)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("loss.pixel=l2", "legal: log, pu, tanh"),
        ("model.architecture=neutral", "legal: dcdr_unet"),
        ("iterations=0", "out of range"),
        ("learning_rat=1", "Legal keys:"),
        ("data.folder=/nowhere", "holds no shard"),
        ("data.kind=cityscapes", "model.input_encoding=srgb"),
        ("seed=-1", "out of range"),
        ("learning_rate=nan", "out of range"),
        ("iterations=abc", "iterations"),
        ("data.white_level=3", "shards have SDR white at 1"),
        ("model.start=absent", "no such checkpoint"),
        ("strange", "neither 'prepare' nor a setting"),
    ],
)
def test_wrong_settings_are_told(word: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = f"data.folder={tmp_path}"
    assert run_pipeline.main(["train", folder, f"output={tmp_path / 'out'}", word]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_shipped_recipes_load_and_are_no_profiles() -> None:
    assert "configs/train_tiny.yaml" in recipes() and not any(name.startswith("train") for name in profiles())
    for path in recipes():
        load_train_config(ROOT / path, [])


def test_the_commands_from_a_folder_of_scenes_to_a_checkpoint(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    prepared = [
        "train",
        "prepare",
        "--scenes",
        str(scenes),
        "--output",
        str(data),
        "--frames",
        "2",
        "--validation-views",
        "1",
    ]
    assert run_pipeline.main(prepared) == 0
    assert "2 frames" in capsys.readouterr().out
    words = config_words(data, tmp_path / "run", "iterations=2", "data.batch=1", "loss.perceptual=efficientnet_lite0")
    assert run_pipeline.main(["train", *words]) == 0
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'run' / 'best.safetensors'}" in out and "hl_stops" in err


def test_training_from_shards_needs_no_video_library(shards: Path, tmp_path: Path) -> None:
    """A bare GPU box has torch, numpy and what few small wheels one carries there: no PyAV, OpenCV, Ray, kornia, TensorBoard."""
    words = config_words(shards, tmp_path, "iterations=2")
    program = (
        "import sys\n"
        "for name in ('av', 'cv2', 'ray', 'kornia', 'tensorboard', 'torchvision'): sys.modules[name] = None\n"
        "import run_pipeline\nsys.exit(run_pipeline.main(['train', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "no TensorBoard here" in done.stderr and (tmp_path / "curve.tsv").exists()


def test_two_processes_learn_one_network(shards: Path, tmp_path: Path) -> None:
    """torchrun with two processes: gradients are averaged, the first writes, the result is not what one process gives."""
    words = config_words(shards, tmp_path / "two", "iterations=3", "device=cpu")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "run_pipeline.py", "train", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    train(config_words(shards, tmp_path / "one", "iterations=3"))
    both, one = (checkpoints.load(tmp_path / name / "last.safetensors").network.state_dict() for name in ("two", "one"))
    assert both.keys() == one.keys() and not all(torch.equal(both[name], one[name]) for name in both)
