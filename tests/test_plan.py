"""Planning spans: pure functions, checked for every frame pattern that hypothesis thinks of."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.index import VideoIndex
from pipeline.plan import cut_spans, longest_group_seconds

TARGET = {"target_seconds": 4.0, "min_seconds": 2.0, "max_seconds": 10.0}


def make_index(
    durations: list[int], keys: set[int], time_base: Fraction = Fraction(1, 1000), start: int = 0
) -> VideoIndex:
    """Index of a stream without reordering: one packet a frame."""
    count = len(durations)
    pts = start + np.concatenate([[0], np.cumsum(durations[:-1])]).astype(np.int64)
    keyframe = np.zeros(count, bool)
    keyframe[sorted({0} | {key for key in keys if key < count})] = True
    return VideoIndex(
        pts=pts,
        keyframe=keyframe,
        discard=np.zeros(count, bool),
        size=np.ones(count, np.int64),
        digest=np.zeros((count, 16), np.uint8),
        frame_pts=pts,
        frame_duration=np.asarray(durations, np.int64),
        time_base=time_base,
        restamped=False,
    )


frame_lists = st.lists(st.integers(1, 120), min_size=1, max_size=900)


@given(frame_lists, st.sets(st.integers(0, 900)), st.integers(0, 9), st.integers(0, 9), st.integers(-5000, 5000))
def test_every_frame_is_owned_once_and_needed_packets_are_read(
    durations: list[int], keys: set[int], lead_in: int, lead_out: int, start: int
) -> None:
    index = make_index(durations, keys, start=start)
    spans = cut_spans(index, **TARGET, lead_in=lead_in, lead_out=lead_out)
    assert spans[0].first_frame == 0
    assert sum(span.frames for span in spans) == len(durations)
    for span, after in zip(spans, [*spans[1:], None], strict=True):
        owned = index.frame_pts[span.first_frame : span.first_frame + span.frames]
        assert span.frames >= 1
        assert span.first_pts == owned[0] and owned[-1] < span.end_pts
        if after is not None:
            assert span.end_pts == after.first_pts
            assert after.first_frame == span.first_frame + span.frames
        assert index.keyframe[span.seek_packet]
        wanted = index.frame_pts[span.first_frame - span.lead_in : span.first_frame + span.frames + span.lead_out]
        fed = index.pts[span.seek_packet : span.end_packet]
        assert set(wanted.tolist()) <= set(fed.tolist())
        assert span.lead_in == min(lead_in, span.first_frame)
        assert span.lead_out == min(lead_out, len(durations) - span.first_frame - span.frames)


@given(st.integers(1, 4000), st.sampled_from([12, 24, 25, 30, 60]), st.sets(st.integers(0, 4000)))
def test_constant_rate_spans_are_two_to_ten_seconds(count: int, fps: int, keys: set[int]) -> None:
    index = make_index([1] * count, keys, Fraction(1, fps))
    spans = cut_spans(index, **TARGET, lead_in=0, lead_out=0)
    seconds = [span.frames / fps for span in spans]
    if count / fps < 2:
        assert len(spans) == 1
    else:
        assert all(2 - 1 / fps <= length <= 10 for length in seconds)


def test_one_keyframe_still_gives_several_spans() -> None:
    index = make_index([1] * 171, set(), Fraction(1, 30))
    assert [span.frames for span in cut_spans(index, **TARGET, lead_in=0, lead_out=0)] == [86, 85]


def test_a_very_long_group_gets_longer_spans() -> None:
    index = make_index([1] * 3000, set(), Fraction(1, 30))
    assert longest_group_seconds(index) == 100.0
    assert {span.frames for span in cut_spans(index, **TARGET, lead_in=0, lead_out=0)} == {200}
    often = make_index([1] * 3000, set(range(0, 3000, 60)), Fraction(1, 30))
    assert longest_group_seconds(often) == 2.0


def test_cuts_fall_on_keyframes_that_are_near() -> None:
    index = make_index([1] * 240, {50, 100, 150, 200}, Fraction(1, 24))
    starts = [span.first_frame for span in cut_spans(index, **TARGET, lead_in=0, lead_out=0)]
    assert starts == [0, 100, 150]


def test_the_plan_does_not_depend_on_anything_but_the_source() -> None:
    index = make_index([33, 34, 33] * 200, {120, 240, 360}, Fraction(1, 1000))
    assert cut_spans(index, **TARGET, lead_in=2, lead_out=1) == cut_spans(index, **TARGET, lead_in=2, lead_out=1)
