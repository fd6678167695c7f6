// The line at the foot: what runs, how fast, and what was lowered to hold the rate.

const byId = (id) => document.getElementById(id);

export class StatusLine {
  setDevice(device) {
    this.device = device;
  }

  connected(on) {
    byId("link").textContent = on ? "connected" : "not connected";
    if (!on) for (const id of ["rate", "latency", "dropped", "machine", "quality"]) byId(id).textContent = "";
  }

  /** A `state` message. */
  state({ playing, frames_per_second: rate, latency_ms: latency, dropped, device, precision, model, stages, quality }) {
    byId("link").textContent = playing ? "" : "paused";
    byId("rate").textContent = playing && rate ? `${rate.toFixed(1)} frames/s` : "";
    const took = latency < 1000 ? `${Math.round(latency)} ms` : `${(latency / 1000).toFixed(1)} s`;
    byId("latency").textContent = latency ? (playing ? `${took} behind` : `picture after ${took}`) : "";
    byId("latency").title = "From the moment a frame is due or asked for until its picture goes to the browser";
    byId("dropped").textContent = playing ? `${dropped || "none"} dropped` : "";
    byId("machine").textContent = [device ?? this.device, precision, model].filter(Boolean).join(" · ");
    byId("machine").title = stages?.length ? `Stages: ${stages.join(", ")}` : "";
    const lowered = byId("quality");
    lowered.textContent = quality?.text || (playing ? "full quality" : "");
    lowered.classList.toggle("lowered", Boolean(quality?.text));
  }

  /** How HDR is shown. */
  shown(video, wanted) {
    byId("shown").textContent = video ? "real HDR video on screen" : wanted ? "tone-mapped still; HDR video while playing" : "tone-mapped for this SDR screen";
  }
}
