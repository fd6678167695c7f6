"""Preview's parts by themselves: knobs, ladder, outbox, feeds, tone map, scopes."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import itertools
import json
import shlex
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st

from configs.schema import RANGES, load_config, profiles, result_settings, settings_hash
from pipeline import light, transfer
from pipeline.color import OutputSpec, pack
from pipeline.engine import PackedFrame, Restored
from pipeline.errors import InputError
from pipeline.overlay import OverlayBox
from preview.engines import Engines, shrunk
from preview.feeds import VideoFeed
from preview.knobs import Settings
from preview.ladder import FIRST_PATIENCE_SECONDS, LEAST_FRAMES, Ladder, Rung, plan_at, rungs_of, said, size_at
from preview.limits import AHEAD_FRAMES, PICTURES_IN_FLIGHT, TEXTS_WAITING, VIDEO_FRAGMENTS_WAITING
from preview.media import Media, Planned
from preview.outbox import Outbox
from preview.pictures import Made, picture
from preview.scopes import COLUMNS, ROWS, Scopes
from preview.sources import video_source, with_own_outputs
from preview.tonemapping import tone_mapped
from tests.clips import make_clip

MODELS = ("auto", "neutral", "small", "tiny")
HDR10 = OutputSpec("pq", 203.0, 1000.0)
grade_values = st.fixed_dictionaries(
    {},
    optional={
        "grade.exposure_stops": st.floats(-4, 4),
        "grade.saturation": st.floats(0, 2),
        "grade.shoulder": st.floats(0.1, 1),
        "grade.white_nits": st.floats(50, 1000),
        "grade.peak_nits": st.floats(1000, 10000),
        "temporal.radius": st.integers(0, 3),
        "reconstruct.scale": st.sampled_from([1, 0.5]),
        "overlay.find": st.booleans(),
        "model": st.sampled_from(MODELS),
    },
)


def hashed(config: object) -> str:
    return settings_hash(result_settings(config))


@runs(max_examples=25)
@given(st.sampled_from(profiles()), grade_values, st.sampled_from([[], ["grade.exposure_stops=1", "output.crf=12"]]))
def test_yaml_and_command_give_the_same_settings(profile: str, values: dict, words: list[str]) -> None:
    settings = Settings("dashcam", None, words, MODELS)
    settings.set(values | {"profile": profile})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "saved.yaml"
        file.write_text(settings.yaml("run_pipeline.py convert 'a b.mp4'\nrm -rf /"))
        assert hashed(load_config("dashcam", file)) == hashed(settings.config)
    line = shlex.split(settings.command(["a b.mp4"], Path("o ut.mp4")))
    assert line[:5] == ["run_pipeline.py", "convert", "a b.mp4", "--output", "o ut.mp4"]
    named = line[line.index("--profile") + 1] if "--profile" in line else "dashcam"
    assert hashed(load_config(named, None, [word for word in line[5:] if "=" in word])) == hashed(settings.config)
    assert set(settings.turned) <= set(values)


def test_a_saved_file_says_only_what_differs() -> None:
    settings = Settings("dashcam", None, [], MODELS)
    assert yaml.safe_load(settings.yaml("x")) in ({}, None)
    settings.set({"grade.peak_nits": 600, "temporal.radius": 0})
    assert yaml.safe_load(settings.yaml("x")) == {"temporal": {"radius": 0}, "grade": {"peak_nits": 600.0}}
    settings.set({"grade.peak_nits": 1000})
    assert settings.turned == {"temporal.radius": 0}
    settings.set({"profile": "night"})
    assert settings.turned == {}, "a profile resets the knobs"
    settings.reset()
    assert settings.profile == "dashcam"


@runs(max_examples=25)
@given(
    st.dictionaries(
        st.text(max_size=20),
        st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.lists(st.none())),
        min_size=1,
    )
)
def test_unknown_knobs_are_refused(values: dict) -> None:
    settings = Settings("dashcam", None, [], MODELS)
    with pytest.raises(InputError, match="no such knob"):
        settings.set(values)
    assert settings.turned == {}


@runs(max_examples=25)
@given(
    st.sampled_from(sorted(key for key in RANGES if key.startswith("grade."))),
    st.floats() | st.integers() | st.text() | st.booleans(),
)
def test_only_legal_numbers_turn_a_knob(key: str, value: object) -> None:
    settings = Settings("dashcam", None, [], MODELS)
    try:
        settings.set({key: value})
    except InputError:
        assert settings.turned == {}
        return
    low, high = RANGES[key]
    assert type(value) in (int, float)
    assert low <= value <= high


def test_two_sources_with_one_output_are_refused(tmp_path: Path) -> None:
    one, other = video_source(tmp_path / "a" / "x.mp4", tmp_path), video_source(tmp_path / "b" / "x.mov", tmp_path)
    with pytest.raises(InputError, match="one by one"):
        with_own_outputs([one, other])
    with pytest.raises(InputError, match="nothing to show"):
        with_own_outputs([])


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    clip = make_clip(tmp_path_factory.mktemp("parts") / "a.mp4", frames=50, gop=25, width=96, height=64)
    return Media(video_source(clip, None)).plan(
        load_config("dashcam", None, ["model=neutral", "overlay.boxes=[[9,7,41,17]]"])
    )


RUNGS = (
    Rung(True, 1.0),
    Rung(False, 1.0),
    Rung(False, 0.5),
    *(Rung(False, 0.5, Fraction(*of)) for of in ((3, 2), (2, 1), (3, 1))),
)


def test_rungs_are_taken_in_order_and_said_in_words(planned: Planned) -> None:
    assert rungs_of(planned.plan) == RUNGS
    half = dataclasses.replace(planned.plan, scale=0.5, stages=("reconstruct", "grade"))
    assert rungs_of(half) == RUNGS[2:]
    assert said(RUNGS[0], RUNGS[0]) == ""
    assert said(RUNGS[1], RUNGS[0]).startswith("No smoothing over time, to keep up")
    assert (
        said(RUNGS[5], RUNGS[0])
        == "No smoothing over time, picture at 1/3 of its size, network on half the picture's size, to keep up while playing. Pause to see full quality."
    )
    costs = [rung.cost for rung in RUNGS]
    assert costs == sorted(costs, reverse=True)


@given(st.floats(0.001, 2.0), st.floats(0.01, 0.2))
def test_the_ladder_ends_on_a_rung_that_holds_or_on_the_last(work_seconds: float, budget: float) -> None:
    """A machine whose frame takes work_seconds on the best rung, and less as costs say."""
    ladder, now, places = Ladder(RUNGS, budget), 0.0, []
    for _ in range(4000):
        seconds = work_seconds * ladder.rung.cost / RUNGS[0].cost
        now += max(seconds, budget)
        ladder.saw(seconds, now)
        places.append(ladder.place)
    holds = [place for place, rung in enumerate(RUNGS) if work_seconds * rung.cost / RUNGS[0].cost <= 1.1 * budget]
    assert places[-1] >= (holds[0] if holds else len(RUNGS) - 1) - 1
    assert ladder.place == len(RUNGS) - 1 or work_seconds * ladder.rung.cost / RUNGS[0].cost <= 1.1 * budget
    late = places[2000:]
    assert sum(one != other for one, other in itertools.pairwise(late)) <= 8, "it does not swing"


def test_the_ladder_climbs_back_with_care_and_with_more_after_a_fall() -> None:
    ladder, now = Ladder(RUNGS, 0.1), 100.0
    while ladder.place == 0:
        now += 0.1
        ladder.saw(0.3, now)
    fallen = now
    while ladder.place > 1:
        now += 0.1
        ladder.saw(0.01, now)
    assert now - fallen >= FIRST_PATIENCE_SECONDS
    waits = []
    for _ in range(3):
        while ladder.place == 1:
            now += 0.1
            ladder.saw(0.01, now)
        climbed = now
        while ladder.place == 0:
            now += 0.1
            ladder.saw(0.13, now)
        fell = now
        assert fell - climbed <= 0.1 * (LEAST_FRAMES + 1)
        while ladder.place > 1:
            now += 0.1
            ladder.saw(0.01, now)
        while ladder.place == 1:
            now += 0.1
            ladder.saw(0.01, now)
        waits.append(now - fell)
    assert waits[2] > waits[0] + 3


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_gives_a_picture_of_its_size(planned: Planned, rung: Rung) -> None:
    from preview.stills import decoded

    (planes,) = decoded(planned, 3, range(3, 4))
    made = Engines().make_alone(planes, planned.plan, rung, 3)
    assert (made.width, made.height) == size_at(96, 64, rung)
    small = picture(made, "sdr").astype(float)
    whole = picture(Engines().make_alone(planes, planned.plan, None, 3), "sdr").astype(float)
    assert np.abs(small.mean((0, 1)) - whole.mean((0, 1))).max() < 3, "the same light"
    assert plan_at(planned.plan, rung).tracks[0].radius in (0, planned.track.radius)


def test_boxes_shrink_with_the_picture(planned: Planned) -> None:
    box: OverlayBox = planned.track.overlays[0]
    small = plan_at(planned.plan, RUNGS[4]).tracks[0].overlays[0]
    assert (small.x, small.y) == (box.x // 2, box.y // 2)
    assert len(small.text) == len(small.outline) == small.width * small.height
    assert small.width >= box.width / 2


def test_planes_are_averaged_over_areas() -> None:
    luma = torch.tensor([[0, 100], [100, 200]], dtype=torch.uint8).repeat(8, 8)
    chroma = torch.full((8, 8), 90, dtype=torch.uint8)
    from pipeline.color import PixelLayout

    small = shrunk((luma, chroma, chroma), PixelLayout("420", 8), 8, 8, RUNGS[4])
    assert [tuple(plane.shape) for plane in small] == [(8, 8), (4, 4), (4, 4)]
    assert (small[0] == 100).all()
    assert (small[1] == 90).all()


async def everything(outbox: Outbox) -> list[dict]:
    found = []
    while True:
        try:
            message = await asyncio.wait_for(outbox.next(), 0.05)
        except TimeoutError:
            return found
        if isinstance(message, bytes):
            length = int.from_bytes(message[:4], "big")
            found.append(json.loads(message[4 : 4 + length]) | {"rest": message[4 + length :]})
        else:
            found.append(json.loads(message))


def test_an_outbox_keeps_the_newest_picture_and_bounds_all_else() -> None:
    async def run() -> None:
        outbox = Outbox(asyncio.get_running_loop())
        for frame in range(50):
            outbox.picture({"frame": frame}, [("sdr", "image/png", b"abc"), ("hdr", "image/png", b"de")])
        first = (await everything(outbox))[0]
        assert (first["frame"], first["rest"]) == (49, b"abcde")
        assert [part["bytes"] for part in first["parts"]] == [3, 2]
        for frame in range(50, 60):
            outbox.picture({"frame": frame}, [])
            await everything(outbox)
        outbox.picture({"frame": 60}, [])
        assert await everything(outbox) == [], f"{PICTURES_IN_FLIGHT} are in flight"
        assert not outbox.wait_for_room(0)
        outbox.ack(first["number"])
        assert [one["frame"] for one in await everything(outbox)] == [60]
        outbox.ack(10**6)
        assert outbox.wait_for_room(0)
        for number in range(200):
            outbox.text("state", {"frame": number})
            outbox.text("error", {"text": str(number)})
            outbox.fragment({"seconds": number}, b"x")
        texts = await everything(outbox)
        assert [one["frame"] for one in texts if one["is"] == "state"] == [199]
        assert sum(one["is"] == "error" for one in texts) == TEXTS_WAITING - 1
        assert sum(one["is"] == "video" for one in texts) == VIDEO_FRAGMENTS_WAITING
        outbox.close()
        assert await outbox.next() is None

    asyncio.run(run())


def test_a_feed_passes_over_frames_that_nobody_took_in_time(planned: Planned) -> None:
    feed, after, numbers, late = VideoFeed(planned, 10), -1, [], []
    try:
        while not feed.ended and len(numbers) < 100:
            due = feed.newest(after, 2)
            assert feed.error is None
            if due is None:
                continue
            late.append(time.monotonic() - due.at)
            after = due.number
            numbers.append(after)
            assert due.seconds == pytest.approx(after / 25)
            assert 1 <= len(due.window) <= 5
            assert len(feed._frames) <= AHEAD_FRAMES + 6
            time.sleep(0.15)
    finally:
        feed.close()
    assert numbers[0] >= 10
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 49, "the last frame is shown"
    assert len(numbers) < 40, "frames of 40 ms cannot all be taken at 150 ms each"


def made_of(light_of_it: torch.Tensor, out: OutputSpec = HDR10) -> Made:
    """A frame whose light (3,H,W) is as given, SDR white = 1."""
    frames = light_of_it[None]
    y, u, v = pack(frames, out, torch.tensor([0]))
    packed = PackedFrame(y[0], u[0], v[0], light.measure(y, u, v, out.transfer)[0], 0.0)
    return Made(0, packed, Restored(frames.clamp(0, 1), frames, frames.clamp(0, 1)), out)


def shown(value: float, stops: float = 0.0) -> int:
    """Green of the tone-mapped picture of a grey frame."""
    return int(picture(made_of(torch.full((3, 16, 16), value)), "hdr", stops)[8, 8, 1])


def test_the_tone_map_keeps_mid_tones_rolls_highlights_in_and_dives() -> None:
    for value in (0.02, 0.18, 0.45):
        assert abs(shown(value) - round(255 * transfer.srgb_inverse(value))) <= 2
    values = [shown(value) for value in (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 4.9)]
    assert values == sorted(set(values)), "brighter is brighter"
    assert values[2] < 250
    assert values[-1] >= 253
    assert shown(4.0, -2) < shown(4.0, -1) < shown(4.0)
    assert abs(shown(0.18, 1) - round(255 * transfer.srgb_inverse(0.36))) <= 2


def test_the_tone_map_keeps_hue() -> None:
    color = torch.tensor([4.0, 2.0, 1.0])[:, None, None].expand(3, 16, 16).contiguous()
    red, green, blue = (transfer.srgb(int(code) / 255) for code in picture(made_of(color), "hdr")[8, 8])
    assert green / red == pytest.approx(0.5, abs=0.03)
    assert blue / red == pytest.approx(0.25, abs=0.03)


def test_the_tone_map_sees_hlg_as_it_sees_pq() -> None:
    grey = torch.full((3, 16, 16), 0.7)
    pq, hlg = (
        picture(made_of(grey, OutputSpec(name, 203.0, 1000.0)), "hdr")[8, 8].astype(int) for name in ("pq", "hlg")
    )
    assert np.abs(pq - hlg).max() <= 3


def test_a_picture_of_light_beyond_the_table_is_white() -> None:
    assert (tone_mapped(torch.full((3, 4, 4), 10000.0), OutputSpec("pq", 50.0, 1000.0), 4.0) == 255).all()


def test_scopes_count_every_pixel_where_its_light_is() -> None:
    frame = torch.full((3, 64, 128), 0.1)
    frame[:, :, 64:] = 3.0
    scopes = Scopes()
    facts = scopes.of(made_of(frame))
    edges, shares = facts["histogram"]["edges_nits"], facts["histogram"]["hdr"]
    for nits in (20.3, 609.0):
        place = next(number for number in range(len(shares)) if edges[number] <= nits < edges[number + 1])
        assert sum(shares[place - 1 : place + 2]) == pytest.approx(0.5, abs=0.02)
    assert facts["max_cll_nits"] == pytest.approx(609, rel=0.02)
    assert facts["max_fall_nits"] == pytest.approx((20.3 + 609) / 2, rel=0.02)
    assert facts["restored_share"] == pytest.approx(0.5, abs=0.01)
    wave = np.frombuffer(base64.b64decode(facts["waveform"]["hdr"]), np.uint8).reshape(ROWS, COLUMNS)
    top = transfer.pq_inverse_eotf(facts["waveform"]["high_nits"])
    for column, nits in ((30, 20.3), (200, 609.0)):
        row = ROWS - 1 - int(transfer.pq_inverse_eotf(nits) / top * ROWS)
        assert abs(int(wave[:, column].argmax()) - row) <= 1
    dark = scopes.of(made_of(torch.full((3, 64, 128), 0.1)))
    assert dark["max_cll_so_far_nits"] == facts["max_cll_nits"]
    scopes.forget()
    assert scopes.of(made_of(torch.full((3, 64, 128), 0.1)))["max_cll_so_far_nits"] < 30
