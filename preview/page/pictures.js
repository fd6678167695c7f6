// Picture messages: decoded, drawn in their order, and told to the server, which sends no more than two ahead.

/** What is held back while HDR video plays a little behind the SDR pictures: about a second, and no memory beyond that. */
const MOST_HELD = 24;

export class Pictures {
  /** viewer.draw(bitmaps); acknowledge(number); onDrawn(header) after each picture */
  constructor({ viewer, acknowledge, onDrawn }) {
    Object.assign(this, { viewer, acknowledge, onDrawn });
    this.drawn = -1;
    this.held = [];
    this.holding = false;
  }

  /** A new connection counts from the start. */
  restart() {
    this.drawn = -1;
    this.release();
    this.held = [];
  }

  /** While on, pictures wait until `drawUntil` calls for them. Off: those that wait are dropped. */
  hold(on) {
    this.holding = on;
    if (!on) this.release();
  }

  release() {
    for (const { bitmaps } of this.held) close(bitmaps);
    this.held = [];
  }

  /** header of a picture message, and the bytes of its parts one after another */
  async take(header, bytes) {
    let at = 0;
    const parts = header.parts.map(({ layer, type, bytes: length }) => {
      const blob = new Blob([bytes.subarray(at, (at += length))], { type });
      return createImageBitmap(blob, { colorSpaceConversion: "none" }).then((bitmap) => [layer, bitmap]);
    });
    const bitmaps = Object.fromEntries(await Promise.all(parts));
    if (header.number < this.drawn) close(bitmaps);
    else if (this.holding && !header.exact) {
      this.held.push({ header, bitmaps });
      while (this.held.length > MOST_HELD) close(this.held.shift().bitmaps);
    } else this.draw(header, bitmaps);
    this.acknowledge(header.number);
  }

  draw(header, bitmaps) {
    this.drawn = header.number;
    this.viewer.draw(bitmaps);
    this.onDrawn(header);
  }

  /** Draw the newest picture that is due at this time of the source (seconds). */
  drawUntil(seconds) {
    let due = null;
    while (this.held.length && this.held[0].header.seconds <= seconds) {
      if (due) close(due.bitmaps);
      due = this.held.shift();
    }
    if (due) this.draw(due.header, due.bitmaps);
  }
}

function close(bitmaps) {
  for (const bitmap of Object.values(bitmaps)) bitmap.close();
}
