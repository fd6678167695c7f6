// Play, pause, step, loop and the scrubber.

const PATIENCE_MS = 700; // how long a scrubbed frame may take before the next one is asked for
const byId = (id) => document.getElementById(id);

/** Seconds as 1:02.34, with hours where there are some. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 60) % 60, (seconds - whole + (whole % 60)).toFixed(2).padStart(5, "0")];
  const hours = Math.floor(whole / 3600);
  return hours ? `${hours}:${String(parts[0]).padStart(2, "0")}:${parts[1]}` : parts.join(":");
}

export class Transport {
  /** send(message) to the server */
  constructor(send) {
    Object.assign(this, { send, playing: false, loop: true, frame: 0, frames: 1, fps: 25, live: false, asked: null, next: null });
    this.scrub = byId("scrub");
    this.scrub.addEventListener("input", () => this.show(Number(this.scrub.value)));
    for (const end of ["change", "pointerup"]) this.scrub.addEventListener(end, () => (this.dragging = false));
    this.scrub.addEventListener("pointerdown", () => (this.dragging = true));
    byId("play").onclick = () => this.toggle();
    byId("step-back").onclick = () => this.step(-1);
    byId("step-on").onclick = () => this.step(1);
    byId("loop").onclick = () => this.setLoop(!this.loop);
  }

  open({ frames, fps, live }) {
    Object.assign(this, { frames: frames || 1, fps: fps || 25, live: Boolean(live), asked: null, next: null, frame: 0 });
    this.scrub.max = Math.max(0, this.frames - 1);
    for (const part of [this.scrub, byId("step-back"), byId("step-on"), byId("loop")]) part.disabled = this.live;
    byId("of").textContent = this.live ? "live" : `of ${this.frames - 1}`;
    this.place(0, 0);
  }

  /** Show exactly this frame, and stop there. While one is on its way only the newest wish is kept. */
  show(frame) {
    const wanted = Math.min(Math.max(0, frame), this.frames - 1);
    this.place(wanted, wanted / this.fps);
    if (this.asked !== null && performance.now() - this.asked.at < PATIENCE_MS) {
      this.next = wanted;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.askNext(), PATIENCE_MS);
      return;
    }
    this.asked = { frame: wanted, at: performance.now() };
    this.send({ do: "show", frame: wanted });
  }

  askNext() {
    clearTimeout(this.timer);
    this.asked = null;
    if (this.next === null) return;
    const wanted = this.next;
    this.next = null;
    this.show(wanted);
  }

  /** A picture of this frame has been drawn. */
  drawn(frame, seconds) {
    if (this.asked?.frame === frame) this.askNext();
    if (this.asked === null && !this.dragging) this.place(frame, seconds);
  }

  place(frame, seconds) {
    this.frame = frame;
    this.scrub.value = frame;
    const time = clock(seconds);
    this.scrub.setAttribute("aria-valuetext", `frame ${frame}, ${time}`);
    this.scrub.style.setProperty("--filled", `${(100 * frame) / Math.max(1, this.frames - 1)}%`);
    byId("time").textContent = time;
    byId("frame").textContent = frame;
  }

  step(frames) {
    if (this.live) return;
    // A step answers a press at once, so steps add up even while pictures are on their way.
    this.show((this.next ?? this.asked?.frame ?? this.frame) + frames);
  }

  toggle() {
    if (this.playing) this.send({ do: "pause" });
    else this.play();
  }

  play() {
    this.next = this.asked = null;
    this.send({ do: "play", loop: this.loop });
  }

  pause() {
    if (this.playing) this.send({ do: "pause" });
  }

  setLoop(on) {
    this.loop = on;
    byId("loop").setAttribute("aria-pressed", String(on));
    if (this.playing) this.play();
  }

  /** What the server says. */
  setPlaying(playing) {
    this.playing = playing;
    const button = byId("play");
    button.querySelector("use").setAttribute("href", playing ? "#i-pause" : "#i-play");
    button.querySelector(".unseen").textContent = playing ? "Pause" : "Play";
  }
}
