"""The report of one converted file: a single HTML page that needs nothing else, neither other files nor the net nor scripts.

A person who knows nothing of video shall be able to read it: every word of the trade is told at the end of the page. The same facts give the
same bytes; the timings among them are of course other ones each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from pipeline.encode import publish
from pipeline.errors import ConversionError
from pipeline.frame_stats import BIN_EDGES_NITS, RESTORED_GAIN
from pipeline.version import VERSION
from reporting import charts, pictures
from reporting.charts import Series, clock
from reporting.facts import ReportFacts, TrackFacts
from reporting.pictures import FramePictures
from reporting.style import CSS

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy: a browser fetches nothing and runs nothing, whatever a file name may hold."""

WHY = {
    "most restored": "The frame in which the network restored the largest part of the picture.",
    "darkest": "The frame with the least light on average.",
    "brightest": "The frame with the most light on average.",
    "most flicker": "The frame whose average light leaps most against its two neighbours.",
}


def write_report(output: Path, facts: ReportFacts) -> Path:
    """Write the page to `output` under a temporary name, sync, rename. Returns output.

    Decodes the telling frames of source and result. Raises InputError or ConversionError when one of them cannot be read or there are no
    statistics, OSError when the page cannot be written.
    """
    text = page(facts)
    partial = output.with_name(output.name + ".part")
    partial.write_text(text, encoding="utf-8")
    publish(partial, output)
    return output


def page(facts: ReportFacts) -> str:
    """The whole page. Raises as `write_report` does."""
    if not facts.tracks or not all(len(track.stats) for track in facts.tracks):
        raise ConversionError(
            f"{facts.result}: there are no frame statistics to report on; convert it again with --report."
        )
    title = f"Report on {facts.result.name}"
    body = [f"<h1>{escape(title)}</h1>", _summary(facts)]
    body += [f'<p class="warning">{escape(warning)}</p>' for warning in facts.warnings]
    for number, track in enumerate(facts.tracks, 1):
        if len(facts.tracks) > 1:
            body.append(f"<h2>Video {number} of {len(facts.tracks)}</h2>")
        body += _track(facts, track)
    body += [_streams(facts), _timings(facts), _made_with(facts), _words(facts)]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(title)}</title><style>{CSS}</style></head>\n'
        f"<body><main>\n{chr(10).join(body)}\n</main></body></html>\n"
    )


def _summary(facts: ReportFacts) -> str:
    stats = np.concatenate([track.stats for track in facts.tracks])
    first = facts.tracks[0]
    seconds = _seconds(first)
    length = float(seconds[-1] + first.source_index.frame_duration[-1] * first.source_index.time_base)
    restored = 100 * float(stats["restored_share"].mean())
    what = (
        f"On average {_percent(restored)} of each picture's pixels were restored: the network made them clearly brighter than the camera "
        "recorded them. The others it changed little or not at all."
        if facts.restores_highlights
        else "The checkpoint restores nothing: the picture is the camera's own, in an HDR file."
    )
    cells = [
        (str(len(stats)), "frames converted"),
        (clock(length, length < 60), f"long, {first.width} x {first.height} pixels, {_rate(first)} frames a second"),
        (f"{float(stats['max_cll_nits'].max()):.0f} nits", "the brightest pixel (MaxCLL)"),
        (f"{float(stats['fall_nits'].max()):.0f} nits", "the brightest frame on average (MaxFALL)"),
        (_percent(restored), "of all pixels restored"),
    ]
    boxes = "".join(f"<div><b>{escape(value)}</b>{escape(words)}</div>" for value, words in cells)
    return (
        f"<p><strong>{escape(facts.source.name)}</strong>, a video of the usual brightness range (SDR), was turned into "
        f"<strong>{escape(facts.result.name)}</strong>, which holds brighter highlights (HDR). {what}</p>"
        f'<div class="numbers">{boxes}</div>'
    )


def _track(facts: ReportFacts, track: TrackFacts) -> list[str]:
    shown = pictures.take(facts, track)
    parts = [
        "<h2>Before and after</h2>",
        '<p class="soft">An ordinary screen cannot show HDR. So the result is shown twice: with its highlights folded into what this screen can show, '
        "which makes it look duller than it is; and, like the source, as if all light were dimmed alike, so that only highlights are left. On an HDR "
        "screen they are shown as bright as they are.</p>",
    ]
    parts += [_telling(facts, track, one) for one in shown]
    parts += [_light(facts, track), _restored(facts, track), _overlays(facts, track, shown[0].telling.frame)]
    return parts


def _telling(facts: ReportFacts, track: TrackFacts, one: FramePictures) -> str:
    row = track.stats[one.telling.frame]
    at = clock(float(_seconds(track)[one.telling.frame]), True)
    why = " ".join(WHY[reason] for reason in one.telling.reasons)
    name = " and ".join(one.telling.reasons)
    dark = f"{2**one.stops} times darker"
    images = (
        (one.before, "Before: the source"),
        (one.after, "After: the result, folded for this screen"),
        (one.before_dark, f"Before, {dark}"),
        (one.after_dark, f"After, {dark}: what is still bright here is the restored and recorded highlight"),
    )
    figures = "".join(
        f'<figure><img src="{uri}" alt="{escape(words)}, frame {one.telling.frame}">'
        f"<figcaption>{escape(words)}</figcaption></figure>"
        for uri, words in images
    )
    top = float(max(np.max(one.after_nits), np.max(one.before_nits)))
    scale = charts.nits_scale(top)
    mark = (facts.white_nits, f"SDR white, {facts.white_nits:g} nits")
    wave = charts.waveform(
        f"Waveform of frame {one.telling.frame}", pictures.waveform_png(one.after_nits, scale.top), scale, mark
    )
    counts = [
        (np.histogram(nits, BIN_EDGES_NITS)[0], kind) for nits, kind in ((one.after_nits, "a"), (one.before_nits, "b"))
    ]
    bars = charts.histogram(f"Histogram of frame {one.telling.frame}", BIN_EDGES_NITS, counts, mark)
    legend = _legend([("a", "result"), ("b", "source")])
    return (
        f"<h3>{escape(name.capitalize())}: frame {one.telling.frame}, at {at}</h3><p>{why} Brightest pixel {row['max_cll_nits']:.0f} nits, average "
        f"{row['fall_nits']:.0f} nits, {_percent(100 * row['restored_share'])} restored.</p>"
        f'<div class="pairs">{figures}'
        f'<figure class="card">{wave}<figcaption>Waveform of the result: each column is a column of the picture, each dot a pixel at its brightness '
        "in nits.</figcaption></figure>"
        f'<figure class="card">{bars}{legend}<figcaption>Histogram: how much of the picture is how bright, in nits.</figcaption></figure></div>'
    )


def _light(facts: ReportFacts, track: TrackFacts) -> str:
    stats, seconds = track.stats, _seconds(track)
    told = ", which the file tells to screens" if facts.transfer == "pq" else ""
    white = (facts.white_nits, f"SDR white, {facts.white_nits:g} nits")
    lines = [
        Series("brightest pixel", stats["max_cll_nits"], "a", True),
        Series("average of all pixels", stats["fall_nits"], "b", True),
    ]
    scale = charts.nits_scale(float(stats["max_cll_nits"].max()))
    chart = charts.over_time("Brightest pixel and average light over time, in nits", seconds, lines, scale, white)
    whole = charts.histogram(
        "Histogram of the whole video", BIN_EDGES_NITS, [(stats["histogram"].sum(axis=0, dtype=np.int64), "a")], white
    )
    return (
        '<h2>Light</h2><div class="grid2">'
        f'<figure class="card">{chart}{_legend([("a", "brightest pixel"), ("b", "average of all pixels")])}<figcaption>Each frame&#8217;s brightest pixel '
        f"and its average, in nits. The highest points are MaxCLL, {stats['max_cll_nits'].max():.0f} nits, and MaxFALL, "
        f"{stats['fall_nits'].max():.0f} nits{told}.{_stretch_words(len(stats))}</figcaption></figure>"
        f'<figure class="card">{whole}<figcaption>All frames together: how much of the video is how bright, by the largest of red, green and blue, in '
        "nits.</figcaption></figure></div>"
    )


def _restored(facts: ReportFacts, track: TrackFacts) -> str:
    share = track.stats["restored_share"]
    if not facts.restores_highlights:
        return ""
    line = Series("restored", share, "a", False)
    chart = charts.over_time(
        "Share of restored pixels over time", _seconds(track), [line], charts.share_scale(float(share.max()))
    )
    return (
        f'<h2>What was restored</h2><div class="grid2"><figure class="card">{chart}<figcaption>Share of each picture&#8217;s pixels that the network made '
        f"brighter by more than {100 * (RESTORED_GAIN - 1):.0f} %: between {_percent(100 * share.min())} and {_percent(100 * share.max())}."
        f"{_stretch_words(len(share))}</figcaption></figure><div><p>Where the camera was blinded, by sky, sun, lamps or wet road, its picture is plain white. "
        "The network estimates from what surrounds such places how bright they were and what was in them. It is an estimate, not a record: use "
        "nothing of it to read number plates or to prove what was there.</p></div></div>"
    )


def _overlays(facts: ReportFacts, track: TrackFacts, frame: int) -> str:
    head = "<h2>Text burnt into the picture</h2>"
    if not track.overlays:
        return f"{head}<p>None was found: no clock, speed, place or logo that stays in place.</p>"
    rows = [
        (str(number), f"{box.width} x {box.height} pixels at {box.x}, {box.y}", box.words)
        for number, box in enumerate(track.overlays, 1)
    ]
    picture = pictures.overlay_picture(facts, track, frame)
    return (
        f"{head}<p>These places are text, not light: they stay no brighter than paper white.</p>"
        f'<div class="grid2"><figure><img src="{picture}" alt="The source with {len(rows)} boxes around burnt-in text"><figcaption>The source, frame '
        f"{frame}</figcaption></figure><div>{_table(('', 'where', 'what'), rows)}</div></div>"
    )


def _streams(facts: ReportFacts) -> str:
    rows = [(one.name, one.what, one.outcome, one.reason) for one in facts.streams]
    kept = _table(("where", "what", "became", "why"), rows) if rows else "<p>There was nothing else in the source.</p>"
    beside = _table(("file", "what"), list(facts.files_beside)) if facts.files_beside else ""
    return f"<h2>Everything else in the file</h2>{kept}" + (
        f"<h3>Written beside the result</h3>{beside}" if beside else ""
    )


def _timings(facts: ReportFacts) -> str:
    longest = max((seconds for _, seconds in facts.timings), default=0.0)
    rows = "".join(
        f'<tr><td>{escape(stage)}</td><td class="number">{seconds:.1f} s</td><td style="width:50%">'
        f'<span class="bar" style="width:{100 * seconds / longest if longest else 0:.1f}%"></span></td></tr>'
        for stage, seconds in facts.timings
    )
    return (
        f"<h2>Where the time went</h2><table>{rows}</table><p class=soft>{escape(facts.timings_of.capitalize())}.</p>"
    )


def _made_with(facts: ReportFacts) -> str:
    return "<h2>How it was made</h2>" + _table(("what", "value"), [*facts.made_with, ("Sunvisor", VERSION)])


def _words(facts: ReportFacts) -> str:
    curve = "PQ" if facts.transfer == "pq" else "HLG"
    words = (
        ("nit", "The unit of brightness (one candela a square metre). An office screen gives 200 to 400 nits; white paper has about 130 under office light and about 25 000 in the sun."),
        ("SDR, HDR", "Standard and high dynamic range: video that ends at white, and video that has room above it for lamps, sun and sky."),
        ("SDR white", f"The brightest code of the source. Here it is shown at {facts.white_nits:g} nits, and highlights reach up to {facts.peak_nits:g} nits."),
        (curve, "The rule by which the HDR file writes brightness down as numbers. The charts space brightness by PQ too, because the eye sees equal steps about alike."),
        ("MaxCLL, MaxFALL", "The brightest pixel of the whole video, and the largest average of a frame: two numbers by which an HDR10 screen prepares itself."),
        ("restored", "A pixel whose light the network raised well above what the camera recorded."),
        ("flicker", "Brightness that jumps from frame to frame although the scene does not."),
        ("frame, stream", "One picture of the video; one of the tracks of a file, such as video, sound or position data."),
        ("codec", "The way in which a stream is compressed."),
        ("checkpoint", "The file that holds what the network has learnt."),
    )  # fmt: skip
    rows = "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in words)
    return f"<h2>What the words mean</h2><dl>{rows}</dl>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(word)}</th>" for word in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _legend(rows: Sequence[tuple[str, str]]) -> str:
    return (
        '<div class="legend">'
        + "".join(f'<span><i class="{kind}"></i>{escape(words)}</span>' for kind, words in rows)
        + "</div>"
    )


def _seconds(track: TrackFacts) -> np.ndarray:
    """(F,) time of each frame from the first, in seconds."""
    index = track.source_index
    return (index.frame_pts - index.frame_pts[0]) * float(index.time_base)


def _rate(track: TrackFacts) -> str:
    return f"{float(track.rate):.3f}".rstrip("0").rstrip(".")


def _percent(value: float) -> str:
    """1.2 %, and never 0 % for what is not none."""
    if 0 < value < 0.01:
        return "less than 0.01 %"
    return f"{value:.2f} %" if value < 1 else f"{value:.1f} %"


def _stretch_words(frames: int) -> str:
    if frames <= charts.MOST_POINTS:
        return ""
    return f" Each point stands for about {round(frames / charts.MOST_POINTS)} frames."
