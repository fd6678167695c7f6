"""The `figures` command: what is drawn is what the network does, where it does it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision.ops import deform_conv2d

import evaluation.figure_network as figure_network
import run_pipeline
from evaluation.figure_canvas import LABEL_SIZE, LINE_PX, MARGIN, PAPER, Cell, draw_text, fit_box, sheet, wrap
from evaluation.figure_choice import (
    CATEGORIES,
    Crop,
    Point,
    busiest_centre,
    largest_clipped_regions,
    parse_crop,
    strongest_points,
)
from evaluation.figure_network import Window, influence, look, sampling, window_for
from evaluation.figure_offsets import (
    AIM,
    INSET_PX,
    Aimed,
    Inset,
    draw_offsets,
    positions_inset,
    radii_holding,
)
from evaluation.figure_source import read_frames, read_image
from evaluation.figure_strips import CELL_PX, draw_strips
from evaluation.figure_summands import draw_features, draw_summands
from evaluation.figures import make_figures
from evaluation.nits import read_nits
from evaluation.tonemap import exposure, tone_map
from models import checkpoints, registry
from models.model import Model, ModelSpec
from pipeline.errors import InputError
from pipeline.machine import auto_checkpoint
from tests.clips import make_clip

LABEL_HEIGHT = LINE_PX[LABEL_SIZE] + 6
BT709_LIMITED = {"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 1}


def _spec(architecture: str = "dcdr_unet", width: int = 16, sft: bool = False) -> ModelSpec:
    return ModelSpec(architecture, width, sft, "bt1886", "log", 1.0, True, "none", "Apache-2.0")


def _model(architecture: str = "dcdr_unet", sft: bool = False, seed: int = 1) -> Model:
    """A network whose every layer does something."""
    network = registry.build(architecture, 16, sft, "bt1886", "log")
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            strength = 1.0 if name.endswith("aim.bias") else 0.03
            parameter.add_(torch.randn(parameter.shape, generator=chance) * strength)
    return Model(network, _spec(architecture, 16, sft))


def _constant_aims(offsets: np.ndarray) -> Model:
    """A network all of whose blocks sample at `offsets` (9, 2), y and x in map pixels, whatever they see."""
    model = _model()
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if name.endswith("aim.weight"):
                parameter.zero_()
            if name.endswith("aim.bias"):
                parameter[:18] = torch.from_numpy(offsets.astype(np.float32)).flatten()
                parameter[18:] = torch.linspace(-2, 2, 9)
    return model


def _picture(height: int = 48, width: int = 64) -> np.ndarray:
    """8-bit RGB: ground below, above it a white sky with a dark line that is broken in the middle."""
    y, x = np.mgrid[:height, :width]
    codes = np.stack([(3 * x + 2 * y) % 120 + 40, (2 * x + 5 * y) % 100 + 30, (x * y) % 90 + 50], -1)
    codes[: height // 2] = 255
    line = height // 4
    codes[line, : width // 2 - 3] = codes[line, width // 2 + 3 :] = 90
    return codes.astype(np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("figures")
    paths = {"image": folder / "still.png", "model": folder / "random.safetensors"}
    cv2.imwrite(str(paths["image"]), np.ascontiguousarray(_picture()[..., ::-1]))
    model = _model()
    checkpoints.save(paths["model"], model.network, model.spec)
    paths["clip"] = make_clip(folder / "clip.mp4", frames=12, tags=BT709_LIMITED)
    return paths


def _coded() -> torch.Tensor:
    return torch.from_numpy(_picture().astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous()


def _sdr() -> np.ndarray:
    return (_picture() / 255.0).astype(np.float32) ** 2.4


# What is read


def test_an_image_is_read_as_srgb(files: dict[str, Path]) -> None:
    light = read_image(files["image"]).light[0].permute(1, 2, 0).numpy().astype(np.float64)
    signal = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    assert np.abs(255 * signal - _picture()).max() < 0.01


def test_a_frame_is_decoded_and_coloured_as_convert_does(files: dict[str, Path]) -> None:
    wanted = [nits / 203.0 for nits in read_nits(files["clip"])]
    for picture, number in zip(read_frames(files["clip"], [5, 11], [0.2, 0.13]), (5, 11, 5, 3), strict=True):
        assert picture.title == f"clip.mp4, frame {number}"
        assert np.abs(picture.light[0].permute(1, 2, 0).numpy() - wanted[number]).max() < 1e-6


def test_frames_that_do_not_exist_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--frame 12: there is no such frame; legal: 0 to 11"):
        list(read_frames(files["clip"], [12], []))
    with pytest.raises(InputError, match=r"--at 0.48: outside the video; legal: from 0 to below 0.480 seconds"):
        list(read_frames(files["clip"], [], [0.48]))
    deep = tmp_path / "deep.png"
    cv2.imwrite(str(deep), np.zeros((8, 8, 3), np.uint16))
    with pytest.raises(InputError, match=r"deep.png: its samples are uint16; figures are made of 8-bit pictures"):
        read_image(deep)


# What the network does


def test_sampling_positions_are_where_a_deformable_convolution_reads() -> None:
    offsets = np.random.default_rng(0).uniform(-6, 6, (9, 2))
    model = _constant_aims(offsets)
    seen = look(model, _coded(), Window(0, 0, 64, 48))
    assert seen.map_scale == 2
    found = sampling(seen, 31, 21)
    i, j = 10, 15  # the map pixel that covers picture pixel (31, 21)
    for tap in range(9):
        y, x = i + tap // 3 - 1 + offsets[tap, 0], j + tap % 3 - 1 + offsets[tap, 1]
        assert found.positions[tap] == pytest.approx((2 * x + 0.5, 2 * y + 0.5), abs=1e-4)
        assert found.plain[tap] == pytest.approx((2 * (j + tap % 3 - 1) + 0.5, 2 * (i + tap // 3 - 1) + 0.5))
    assert found.weights == pytest.approx(1 / (1 + np.exp(-np.linspace(-2, 2, 9))), abs=1e-6)


def test_sampling_agrees_with_torchvision_on_a_map_of_coordinates() -> None:
    model = _model(seed=4)
    seen = look(model, _coded(), Window(0, 0, 64, 48))
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    coordinates = torch.stack([columns, rows])[None]
    for tap in range(9):
        kernel = torch.zeros(2, 2, 9)
        kernel[0, 0, tap] = kernel[1, 1, tap] = 1
        read = deform_conv2d(coordinates, seen.inspection.offsets, kernel.view(2, 2, 3, 3), padding=1)[0]
        for x, y in ((22, 20), (40, 29)):
            wanted = 2 * read[:, y // 2, x // 2].numpy() + 0.5
            assert sampling(seen, x, y).positions[tap] == pytest.approx(wanted, abs=1e-3)


def test_a_window_does_not_move_positions() -> None:
    offsets = np.full((9, 2), 1.5)
    whole = look(_constant_aims(offsets), _coded(), Window(0, 0, 64, 48))
    part = look(_constant_aims(offsets), _coded(), Window(20, 16, 32, 32))
    assert sampling(part, 37, 31).positions == pytest.approx(sampling(whole, 37, 31).positions)


@pytest.mark.parametrize(("architecture", "sft"), [("dcdr_unet", False), ("dcdr_unet_deep", True), ("hdrunet", True)])
def test_the_sum_is_what_restore_gives(architecture: str, sft: bool) -> None:
    model = _model(architecture, sft)
    seen = look(model, _coded()[..., :45, :61], Window(0, 0, 61, 45))
    restored = model.restore(_coded()[..., :45, :61], "fp32")[0].permute(1, 2, 0).numpy()
    assert np.array_equal(seen.summed, restored)
    assert np.abs(seen.summed - seen.tone).max() > 1e-3


def test_the_sum_panel_shows_the_sum() -> None:
    model = _model()
    seen = look(model, _coded(), Window(0, 0, 64, 48))
    drawn = draw_summands(_sdr(), seen, "dcdr_unet", "caption")
    restored = model.restore(_coded(), "fp32")[0].permute(1, 2, 0).numpy()
    panel = fit_box(tone_map(restored, 1.0), 560, 700)
    top, left = MARGIN + LABEL_HEIGHT, MARGIN + 3 * (560 + MARGIN)
    assert np.array_equal(drawn[top : top + panel.shape[0], left : left + 560], panel)


def test_influence_is_the_derivative_with_aims_held() -> None:
    model = _constant_aims(np.random.default_rng(2).uniform(-3, 3, (9, 2)))
    coded = _coded() * 0.8 + 0.1
    window, shares = influence(model, coded, 30, 20)
    assert (window.width, window.height) == (64, 48)
    assert shares.sum() == pytest.approx(1.0)
    slopes, step = [], 5e-4  # offsets do not depend on the picture here, so plain differences are the oracle
    pixels = [(20, 30), (21, 33), (17, 28), (24, 31)]
    for y, x in pixels:
        changes = []
        for channel in range(3):
            there = torch.zeros_like(coded)
            there[0, channel, y, x] = step
            above, below = (model.parts(coded + sign * there)[1][0, :, 20, 30].double().sum() for sign in (1, -1))
            changes.append(abs(float(above - below)) / (2 * step))
        slopes.append(sum(changes))
    ratios = np.array(slopes) / [shares[y, x] for y, x in pixels]
    assert ratios == pytest.approx(ratios.mean(), rel=0.05)


def test_looking_leaves_no_hook_behind() -> None:
    model = _model()
    before = model.restore(_coded(), "fp32")
    influence(model, _coded(), 10, 10)
    look(model, _coded(), Window(0, 0, 64, 48))
    assert not any(module._forward_hooks for module in model.network.modules())
    assert torch.equal(model.restore(_coded(), "fp32"), before)


def test_large_pictures_are_looked_at_through_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    assert window_for(model, (900, 500), (1080, 1920)) == Window(0, 0, 1920, 1080)
    monkeypatch.setattr(figure_network, "INSPECT_BUDGET_BYTES", 0)
    for centre in ((0, 0), (900, 500), (1919, 1079)):
        window = window_for(model, centre, (1080, 1920))
        assert window.holds(*centre, model.spec.halo_px - 4, (1080, 1920))
        assert window.left % 4 == window.top % 4 == 0
        assert window.width <= 260 and window.left + window.width <= 1920 and window.top + window.height <= 1080


# What is chosen


def test_the_gap_in_a_broken_line_is_found() -> None:
    sky = np.ones((120, 160), np.float32)
    sky[90:] = 0.3
    sky[40, 20:78] = sky[40, 83:140] = 0.6
    first, *_, last = strongest_points(sky)
    assert first.why == "gap in a thin structure" and abs(first.y - 40) <= 1 and 76 <= first.x <= 84
    assert last.why == "edge of the clipped region" and abs(last.y - 89) <= 1
    assert strongest_points(np.full((40, 40), 0.5)) == []


def test_the_largest_clipped_regions_come_first_and_get_no_category() -> None:
    signal = np.full((120, 160), 0.4, np.float32)
    signal[10:20, 10:20] = signal[60:100, 80:140] = 1.0
    large, small = largest_clipped_regions(signal)
    assert (large.label, small.label) == ("clipped region 1", "clipped region 2")
    assert large.left <= 80 and large.left + large.width >= 140 and large.top <= 60 and large.top + large.height >= 100
    assert small.left <= 10 and small.left + small.width >= 20
    assert abs(busiest_centre(signal, 40)[0] - 110) <= 20
    assert largest_clipped_regions(np.full((40, 40), 0.5)) == []


def test_a_crop_is_read_and_an_unknown_category_lists_the_legal_ones() -> None:
    assert parse_crop("thin-line:1,2,30,40") == parse_crop("Thin line:1,2,30,40") == Crop("thin line", 1, 2, 30, 40)
    with pytest.raises(InputError, match="there is no category 'cat'; legal: " + ", ".join(CATEGORIES)):
        parse_crop("cat:1,2,30,40")
    with pytest.raises(InputError, match="write CATEGORY:X,Y,W,H"):
        parse_crop("car:1,2,30")


# What is drawn


def test_positions_are_drawn_where_they_are() -> None:
    offsets = np.zeros((9, 2))
    offsets[:, 1] = np.repeat([-4.0, 0.0, 4.0], 3)  # rows of the kernel, apart, so that no disc hides another
    offsets[:, 0] = np.tile([-2.0, 3.0, 8.0], 3) - np.repeat([0.0, 1.0, 2.0], 3)
    model = _constant_aims(offsets)
    point = Point(33, 25, "named point")
    item = Aimed(
        point, sampling(look(model, _coded(), Window(0, 0, 64, 48)), 33, 25), influence(model, _coded(), 33, 25)
    )
    drawn = draw_offsets(_sdr(), [item], "caption")
    overview = fit_box(_picture(), 2 * INSET_PX + MARGIN, 900).shape[0]
    top = MARGIN + LABEL_HEIGHT + overview + MARGIN + LABEL_HEIGHT
    inset = drawn[top : top + INSET_PX, MARGIN : MARGIN + INSET_PX]
    places = np.round(positions_inset(item).place(item.sampling.positions)).astype(int)
    colours = [tuple(inset[y, x]) for x, y in places]
    assert colours.count(AIM) >= 8  # the green cross may lie on one


def test_an_inset_shows_its_square_of_the_picture() -> None:
    picture = np.arange(48 * 64, dtype=np.float32).reshape(48, 64)
    inset = Inset(60, 20, 12)
    cut = inset.cut(picture, -1.0)
    for x, y in ((60, 20), (63, 9), (50, 31)):
        column, row = np.round(inset.place(np.array([x, y]))).astype(int)
        assert cut[row, column] == picture[y, x]
    assert cut[0, -1] == -1.0


def test_radii_hold_their_share() -> None:
    shares = np.zeros((9, 9))
    shares[4, 4], shares[4, 6], shares[1, 4] = 0.6, 0.3, 0.1
    assert radii_holding(shares, 4, 4, (0.5, 0.9, 1.0)) == [0, 2, 3]
    assert radii_holding(np.zeros((9, 9)), 4, 4, (0.5,)) == [0]


def _drawn_crop(crop: np.ndarray) -> np.ndarray:
    return fit_box(crop, *CELL_PX, cv2.INTER_CUBIC)


def test_strips_show_the_right_crop_of_each_picture() -> None:
    sdr = _sdr()
    crop = Crop("car", 8, 20, 31, 25)
    views = [exposure(sdr, 0.0, 1.0)] + [exposure(4 * sdr, s, 1.0) for s in (0.0, -2.0, -4.0)]
    views += [tone_map(4 * sdr, 1.0), exposure(2 * sdr, -2.0, 1.0), tone_map(2 * sdr, 1.0)]
    drawn = draw_strips(sdr, 4 * sdr, 2 * sdr, [Crop("sky", 0, 0, 62, 50 - 2), crop], "caption")
    sky_height = _drawn_crop(views[0][0:48, 0:62]).shape[0]
    top = 2 * (MARGIN + 2 * LABEL_HEIGHT) + sky_height
    for column, view in enumerate(views):
        wanted = _drawn_crop(view[20:45, 8:39])
        left = MARGIN + column * (CELL_PX[0] + MARGIN)
        assert np.array_equal(drawn[top : top + wanted.shape[0], left : left + CELL_PX[0]], wanted)


def test_feature_maps_come_in_the_order_of_what_they_tell() -> None:
    seen = look(_model(), _coded(), Window(0, 0, 64, 48))
    features = seen.inspection.features
    features[0, 5] = torch.linspace(0, 1e-3, 32)
    features[0, 5, :12] += 1.0
    drawn = draw_features(_sdr(), seen, "caption")
    first = drawn[MARGIN + LABEL_HEIGHT :, MARGIN + 216 + MARGIN :][:162, :216]
    assert first[:70, :, 0].min() > 200 and first[90:, :, 0].max() < 90, (
        "the clipped half is yellow, the other dark blue"
    )


def test_text_stays_within_its_width_and_the_canvas() -> None:
    lines = wrap("one two three four five six seven eight nine ten", 120, LABEL_SIZE)
    assert len(lines) > 2 and " ".join(lines) == "one two three four five six seven eight nine ten"
    page = sheet([[Cell(np.zeros((40, 120, 3), np.uint8), " ".join(lines), "below")]], "caption")
    assert (page[:, 120 + MARGIN :] == PAPER).all() and (page[:MARGIN] == PAPER).all()
    canvas = np.full((20, 60, 3), PAPER, np.uint8)
    draw_text(canvas, "Straße longer than the canvas", -10, 5, LABEL_SIZE)
    assert (canvas != PAPER).any()


def test_a_picture_is_fitted_into_its_box_and_filled_up() -> None:
    wide = fit_box(np.zeros((10, 40, 3), np.uint8), 80, 50)
    assert wide.shape == (20, 80, 3) and not wide.any()
    tall = fit_box(np.zeros((90, 9, 3), np.uint8), 80, 45)
    assert tall.shape == (45, 80, 3) and not tall[:, :4].any() and (tall[:, 5:] == PAPER).all()


# The command


def test_the_command_writes_all_figures(files: dict[str, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "truth.npy", np.ones((48, 64, 3), np.float32))
    words = ["figures", str(files["image"]), "--output", str(tmp_path / "out"), "--model", str(files["model"])]
    words += ["--point", "31,12", "--strip", "thin line:0,0,64,24", "--truth", str(tmp_path / "truth.npy")]
    assert run_pipeline.main(words) == 0
    for name in ("summands", "features", "offsets", "strips"):
        assert cv2.imread(str(tmp_path / "out" / f"{name}.png")).shape[2] == 3


def test_the_default_model_is_the_one_that_convert_uses(files: dict[str, Path], tmp_path: Path) -> None:
    wanted = auto_checkpoint("cuda" if torch.cuda.is_available() else "cpu")
    told = make_figures([files["image"]], tmp_path / "auto", strips=["car:0,20,30,20"])
    assert told.replace("auto", "named") == make_figures(
        [files["image"]], tmp_path / "named", model=wanted, strips=["car:0,20,30,20"]
    )
    for path in (tmp_path / "auto").iterdir():
        assert path.read_bytes() == (tmp_path / "named" / path.name).read_bytes()


def test_several_pictures_get_a_folder_each(files: dict[str, Path], tmp_path: Path) -> None:
    told = make_figures([files["image"], files["clip"]], tmp_path, model=str(files["model"]), frames=[2, 3])
    folders = ["01_still", "02_clip_frame000002", "03_clip_frame000003"]
    assert sorted(path.name for path in tmp_path.iterdir()) == folders
    assert all((tmp_path / folder / "summands.png").exists() and folder in told for folder in folders)


def test_a_dark_picture_gets_no_strips_unless_they_are_named(files: dict[str, Path], tmp_path: Path) -> None:
    dark = tmp_path / "dark.png"
    cv2.imwrite(str(dark), _picture() // 2)
    told = make_figures([dark], tmp_path / "out", model=str(files["model"]))
    assert "strips.png is left out: no region is clipped" in told and not (tmp_path / "out" / "strips.png").exists()
    make_figures([dark], tmp_path / "out", model=str(files["model"]), strips=["building:0,20,30,20"])
    assert (tmp_path / "out" / "strips.png").exists()


def test_a_large_picture_says_that_it_was_seen_through_a_window(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure_network, "INSPECT_BUDGET_BYTES", 0)
    large = tmp_path / "large.png"
    cv2.imwrite(str(large), np.tile(_picture()[..., ::-1], (2, 6, 1)))
    told = make_figures([large], tmp_path / "out", model=str(files["model"]), points=["5,5", "380,90"])
    assert "through a window of 260x96 pixels" in told
    assert (tmp_path / "out" / "offsets.png").exists()


@pytest.mark.parametrize("architecture", ["hdrunet", "neutral"])
def test_networks_without_deformable_blocks_say_what_they_can_have(
    architecture: str, files: dict[str, Path], tmp_path: Path
) -> None:
    name = "neutral"
    if architecture == "hdrunet":
        name = str(tmp_path / "hdrunet.safetensors")
        model = _model("hdrunet", sft=True)
        checkpoints.save(name, model.network, model.spec)
    told = make_figures([files["image"]], tmp_path / "out", model=name)
    assert f"is of architecture {architecture}, which has summands.png and strips.png only" in told
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"summands.png", "strips.png"}
    with pytest.raises(InputError, match=f"--point: .*{architecture}"):
        make_figures([files["image"]], tmp_path / "out", model=name, points=["3,3"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--point", "64,0"], "--point 64,0: outside still.png; legal: X from 0 to 63, Y from 0 to 47"),
        (["--point", "here"], "--point here: not a point; write X,Y"),
        (["--strip", "cat:0,0,9,9"], "legal: thin line, small structure, car, sky, tree, building"),
        (["--strip", "car:60,0,9,9"], "reaches outside still.png, which is 64x48 pixels"),
        (["--strip", "car:60,0,3,3"], "too small; legal: at least 4 pixels"),
        (["--frame", "2"], "--frame and --at choose frames of a video"),
        (["--model", "none"], "--model none: none: no such checkpoint"),
        (["--truth", "nowhere.exr"], "nowhere.exr: no such file"),
        (["--truth", "a.exr", "--truth", "b.exr"], "--truth: 2 given for 1 pictures"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    more: list[str], said: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["figures", str(files["image"]), "--output", str(tmp_path / "out"), "--model", str(files["model"])]
    assert run_pipeline.main(words + more) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_unreadable_inputs_and_outputs_are_told(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(files["image"].read_bytes()[:60])
    (tmp_path / "file").write_text("in the way")
    np.save(tmp_path / "small.npy", np.ones((4, 4, 3), np.float32))
    for path, said in (("broken.png", "cannot be decoded"), ("none.png", "no such file"), ("none.mp4", "no such file")):
        with pytest.raises(InputError, match=f"{path}: .*{said}"):
            make_figures([tmp_path / path], tmp_path / "out", model="neutral")
    with pytest.raises(InputError, match=r"file: .*choose another --output folder"):
        make_figures([files["image"]], tmp_path / "file", model="neutral")
    with pytest.raises(InputError, match=r"this truth is 4x4, still.png is 64x48"):
        make_figures([files["image"]], tmp_path / "out", model="neutral", truths=[tmp_path / "small.npy"])
