// Real HDR: fragments of 10-bit PQ video, played through Media Source Extensions while the drive plays.

const AHEAD_SECONDS = 1.2; // further than this behind the newest frame: jump
const TARGET_SECONDS = 0.25;
const KEPT_SECONDS = 6; // what has been played is dropped
const QUEUE_FRAGMENTS = 64;

/** Whether the screen (or the operating system) says that it shows HDR now. */
export const screenIsHdr = () => matchMedia("(dynamic-range: high)").matches;

/** The first of these codec strings that this browser plays, or "". */
export function playable(codecs) {
  if (typeof MediaSource === "undefined") return "";
  return codecs.find((codec) => MediaSource.isTypeSupported(`video/mp4; codecs="${codec}"`)) ?? "";
}

export class HdrVideo {
  /** onFrame(turn, seconds of the source) for each frame that is shown (turns as in pictures.js); onFailure(text) when the browser gives up */
  constructor(video, { onFrame, onFailure }) {
    Object.assign(this, { video, onFrame, onFailure, queue: [], pieces: [] });
    video.addEventListener("error", () => this.source && this.fail(video.error?.message || "the browser cannot decode it"));
  }

  /** Whether frames have come out since the last stop. */
  get showing() {
    return this.frames > 0;
  }

  /** header of a video message and the segment */
  push(header, bytes) {
    if (header.init && header.codec !== this.codec) this.restart(header.codec);
    if (!this.source) return;
    this.queue.push({ header, bytes });
    if (this.queue.length > QUEUE_FRAGMENTS) return this.fail("the browser does not take the video fast enough");
    this.feed();
  }

  restart(codec) {
    this.stop();
    this.codec = codec;
    const source = new MediaSource();
    this.source = source;
    this.address = URL.createObjectURL(source);
    this.video.src = this.address;
    source.addEventListener("sourceopen", () => {
      if (source !== this.source) return;
      URL.revokeObjectURL(this.address);
      try {
        this.buffer = source.addSourceBuffer(`video/mp4; codecs="${codec}"`);
      } catch (error) {
        return this.fail(error.message);
      }
      this.buffer.addEventListener("updateend", () => this.updated());
      this.feed();
    }, { once: true });
    this.watch();
  }

  /** Frees the decoder and all that waits. */
  stop() {
    this.queue = [];
    this.pieces = [];
    this.frames = 0;
    this.end = 0;
    this.codec = "";
    this.source = this.buffer = null;
    if (this.handle !== undefined) this.video.cancelVideoFrameCallback?.(this.handle);
    this.handle = undefined;
    if (this.video.hasAttribute("src")) {
      this.video.removeAttribute("src");
      this.video.load();
    }
  }

  fail(text) {
    this.stop();
    this.onFailure(text);
  }

  feed() {
    if (!this.buffer || this.buffer.updating || !this.queue.length) return;
    const { header, bytes } = this.queue.shift();
    try {
      // The player's own time line has no gaps and no jumps back: each segment begins where the last one ended.
      if (!header.init) {
        this.buffer.timestampOffset = this.end - header.seconds;
        const last = this.pieces.at(-1) ?? { turn: 0, seconds: -1 };
        this.pieces.push({ from: this.end, seconds: header.seconds, turn: last.turn + (header.seconds < last.seconds) });
        this.end += header.duration_seconds;
      }
      this.buffer.appendBuffer(bytes);
    } catch (error) {
      this.fail(error.message);
    }
  }

  updated() {
    if (!this.buffer) return;
    const { buffered } = this.video;
    if (buffered.length) {
      const [first, last] = [buffered.start(0), buffered.end(buffered.length - 1)];
      const now = this.video.currentTime;
      if (now < first || last - now > AHEAD_SECONDS) this.video.currentTime = Math.max(first, last - TARGET_SECONDS);
      if (this.video.paused) this.video.play().catch(() => {});
      if (now - first > 2 * KEPT_SECONDS && !this.buffer.updating) {
        this.buffer.remove(0, now - KEPT_SECONDS);
        this.pieces = this.pieces.filter(({ from }) => from > now - 2 * KEPT_SECONDS);
        return;
      }
    }
    this.feed();
  }

  watch() {
    if (!this.video.requestVideoFrameCallback) {
      this.frames = 1;
      return;
    }
    const seen = (_, { mediaTime }) => {
      this.frames += 1;
      const piece = this.pieces.findLast(({ from }) => from <= mediaTime + 0.001);
      if (piece) this.onFrame(piece.turn, piece.seconds + mediaTime - piece.from);
      this.handle = this.video.requestVideoFrameCallback(seen);
    };
    this.handle = this.video.requestVideoFrameCallback(seen);
  }
}
