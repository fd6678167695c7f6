"""The preview from outside: a server of its own and one client that draws everything at once.

    python -m bench.preview CLIP

CLIP: an SDR video, for example ../shared/data/clips/highway_960x540.mp4. Measured: from the command to the first picture; from a knob to its
first and to its exact picture; frames a second while playing; how the server's memory grows while it plays. Run it on a machine that does
nothing else. A browser takes time of its own to start and to draw.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.results_files import write_results

Message = dict[str, Any]
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
GRADE = {
    "grade.exposure_stops": (0.5, -0.5),
    "grade.highlights": (0.5, 1.5),
    "grade.saturation": (0.7, 1.2),
    "grade.shoulder": (0.6, 0.9),
    "grade.white_nits": (180.0, 220.0),
    "grade.peak_nits": (700.0, 1200.0),
}
NETWORK = {
    "reconstruct.scale": (0.5, 1),
    "temporal.radius": (0, 1, 2),
    "overlay.find": (False, True),
    "model": ("small", "tiny"),
}


@dataclass
class Client:
    """socket: of the page; came: what came so far, with the time"""

    socket: aiohttp.ClientWebSocketResponse
    came: list[tuple[float, Message]] = field(default_factory=list)

    async def send(self, do: str, **facts: Any) -> float:  # noqa: ANN401
        sent = time.monotonic()
        await self.socket.send_str(json.dumps({"do": do, **facts}))
        return sent

    async def receive(self) -> None:
        """Take in all that comes, and say of each picture at once that it is drawn."""
        async for message in self.socket:
            now = time.monotonic()
            if message.type == aiohttp.WSMsgType.TEXT:
                self.came.append((now, json.loads(message.data)))
            elif message.type == aiohttp.WSMsgType.BINARY:
                head = json.loads(message.data[4 : 4 + int.from_bytes(message.data[:4], "big")])
                self.came.append((now, head))
                if head["is"] == "picture":
                    await self.send("ack", number=head["number"])

    async def wait(self, wanted: Callable[[Message], bool], since: float) -> tuple[float, Message]:
        """The first message after `since` that is wanted, and when it came."""
        until, place = time.monotonic() + 120, 0
        while time.monotonic() < until:
            while place < len(self.came):
                at, message = self.came[place]
                place += 1
                if at >= since and wanted(message):
                    return at, message
            await asyncio.sleep(0.002)
        raise TimeoutError("the preview did not answer within two minutes")


def has_hdr(message: Message) -> bool:
    return message["is"] == "picture" and any(part["layer"] == "hdr" for part in message["parts"])


def is_exact(message: Message) -> bool:
    return has_hdr(message) and message["exact"]


async def turn(client: Client, key: str, values: tuple, rounds: int, *, step: bool) -> dict[str, float]:
    """Median seconds from a knob's message to the first picture and to the exact one. step: each turn on another frame, of which nothing is
    kept with other settings"""
    first, exact = [], []
    for number in range(rounds):
        if step:
            asked = await client.send("show", frame=10 + 7 * number)
            await client.wait(lambda one, frame=10 + 7 * number: is_exact(one) and one["frame"] == frame, asked)
        value = values[number % len(values)]
        sent = await client.send("set", values={key: value})
        await client.wait(lambda one, value=value: one["is"] == "settings" and one["values"][key] == value, sent)
        settled = time.monotonic()
        first.append((await client.wait(has_hdr, settled))[0] - sent)
        exact.append((await client.wait(is_exact, settled))[0] - sent)
        await asyncio.sleep(0.1)
    await client.send("reset")
    await asyncio.sleep(3)
    return {"first_seconds": statistics.median(first), "exact_seconds": statistics.median(exact)}


async def play(client: Client, seconds: float, pid: int) -> dict[str, Any]:
    """Frames a second in the second half, its state, and memory at 10 s and at the end."""
    began = await client.send("play", loop=True)
    await asyncio.sleep(min(10.0, seconds / 2))
    memory, half = resident_bytes(pid), time.monotonic()
    await asyncio.sleep(seconds - (half - began))
    ended, memory_in_the_end = time.monotonic(), resident_bytes(pid)
    pictures = [one for at, one in client.came if half <= at < ended and one["is"] == "picture"]
    state = [one for at, one in client.came if one["is"] == "state" and one["playing"]][-1]
    stopped = await client.send("pause")
    await client.wait(is_exact, stopped)
    return {
        "frames_per_second": len(pictures) / (ended - half),
        "latency_ms": statistics.median(one["latency_ms"] for one in pictures),
        "quality": state["quality"],
        "resident_bytes": [memory, memory_in_the_end],
        "seconds": seconds,
    }


def resident_bytes(pid: int) -> int:
    """Memory in RAM of the server, which is the child of the process that the command started."""
    server = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
    return int(Path(f"/proc/{server}/statm").read_text().split()[1]) * PAGE_BYTES


async def serve_and_measure(clip: Path, profile: str, measure: Callable[[Client, float, int], Any]) -> Any:  # noqa: ANN401
    """Start a preview, open its source, and measure. measure(client, when the command was given, process id)"""
    began = time.monotonic()
    command = [
        sys.executable,
        "run_pipeline.py",
        "preview",
        str(clip),
        "--port",
        "0",
        "--no-browser",
        "--profile",
        profile,
    ]
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        address = (await server.stdout.readline()).decode().split()[-1]
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{address}ws", max_msg_size=0) as socket:
            client = Client(socket)
            receiving = asyncio.create_task(client.receive())
            await client.send("view", layers=["sdr", "hdr"], width=960, scopes=True)
            await client.send("open", source=0)
            try:
                return await measure(client, began, server.pid)
            finally:
                receiving.cancel()
    finally:
        server.terminate()
        await server.wait()


async def first_pictures(client: Client, began: float, pid: int) -> dict[str, float]:
    sdr = await client.wait(lambda one: one["is"] == "picture", began)
    hdr = await client.wait(has_hdr, began)
    exact = await client.wait(is_exact, began)
    return {"sdr_seconds": sdr[0] - began, "hdr_seconds": hdr[0] - began, "exact_seconds": exact[0] - began}


async def measure_all(clip: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Everything, in three servers one after another."""

    async def knobs(client: Client, began: float, pid: int) -> dict[str, Any]:
        await first_pictures(client, began, pid)
        grade = {key: await turn(client, key, values, rounds, step=False) for key, values in GRADE.items()}
        return {
            "grade": grade,
            "network": {key: await turn(client, key, values, rounds, step=True) for key, values in NETWORK.items()},
        }

    async def playing(client: Client, began: float, pid: int) -> dict[str, Any]:
        await first_pictures(client, began, pid)
        return await play(client, seconds, pid)

    return {
        "first": await serve_and_measure(clip, "dashcam", first_pictures),
        "knobs": await serve_and_measure(clip, "dashcam", knobs),
        "playing": {name: await serve_and_measure(clip, name, playing) for name in ("preview", "dashcam")},
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    first = results["first"]
    lines = ["| from the command to | s |", "|---|---|"]
    lines += [f"| the {name.removesuffix('_seconds')} picture | {value:.2f} |" for name, value in first.items()]
    for group in ("grade", "network"):
        lines += ["", f"| {group} knob, median | first picture, s | exact picture, s |", "|---|---|---|"]
        lines += [
            f"| `{key}` | {found['first_seconds']:.3f} | {found['exact_seconds']:.3f} |"
            for key, found in results["knobs"][group].items()
        ]
    lines += [
        "",
        "| playing, profile | frames/s | latency, ms | picture | quality lowered | MB at 10 s | MB at the end |",
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, found in results["playing"].items():
        quality, memory = found["quality"], [f"{value / 1e6:.0f}" for value in found["resident_bytes"]]
        lines.append(
            f"| `{name}`, {found['seconds']:.0f} s | {found['frames_per_second']:.1f} | {found['latency_ms']:.0f} | "
            f"{quality['width']}x{quality['height']} | {quality['text'] or 'nothing'} | {' | '.join(memory)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, help="a video")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each knob (default 10)")
    parser.add_argument("--seconds", type=float, default=70, help="of playing (default 70)")
    parser.add_argument("--output", type=Path, default=Path("bench/results"), help="folder of the tables")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    results = asyncio.run(measure_all(args.clip, args.rounds, args.seconds))
    header = (
        f"`python -m bench.preview {args.clip.name}`: {len(os.sched_getaffinity(0))} cores, load average before it {load:.1f}; "
        "layers SDR and HDR, scopes on."
    )
    text = f"{header}\n\n{table(results)}"
    write_results(args.output, "preview", text, {"header": header, "results": results})
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
