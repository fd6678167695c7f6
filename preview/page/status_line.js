// The line at the foot: what runs, how fast, and what was lowered to hold the rate.

const byId = (id) => document.getElementById(id);

export class StatusLine {
  setDevice(device) {
    this.device = device;
  }

  connected(on) {
    byId("link").textContent = on ? "" : "not connected";
    if (!on) for (const id of ["rate", "latency", "dropped", "machine", "quality"]) byId(id).textContent = "";
  }

  /** A `state` message. */
  state({ playing, frames_per_second: rate, latency_ms: latency, dropped, device, precision, model, stages, quality }) {
    byId("link").textContent = playing ? "" : "paused";
    byId("rate").textContent = playing && rate ? `${rate.toFixed(1)} frames/s` : "";
    byId("latency").textContent = latency ? `${Math.round(latency)} ms behind` : "";
    byId("latency").title = "From decoding a frame to handing its picture to the browser";
    byId("dropped").textContent = dropped ? `${dropped} dropped` : playing ? "none dropped" : "";
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
