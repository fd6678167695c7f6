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
    this.begin();
  }

  /** Playing begins: times are counted from here. A turn ends where the time goes back, as in a loop. */
  begin() {
    this.turn = 0;
    this.seconds = -1;
  }

  /** A new connection counts from the start. */
  restart() {
    this.drawn = -1;
    this.release();
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
    if (header.seconds < this.seconds) this.turn += 1;
    this.seconds = header.seconds;
    const turn = this.turn;
    let at = 0;
    const parts = header.parts.map(({ layer, type, bytes: length }) => {
      const blob = new Blob([bytes.subarray(at, (at += length))], { type });
      return createImageBitmap(blob, { colorSpaceConversion: "none" }).then((bitmap) => [layer, bitmap]);
    });
    const bitmaps = Object.fromEntries(await Promise.all(parts));
    if (header.number < this.drawn) close(bitmaps);
    else if (this.holding && !header.exact) {
      this.held.push({ header, bitmaps, turn });
      if (this.held.length > MOST_HELD) this.drawHeld();
    } else this.draw(header, bitmaps);
    this.acknowledge(header.number);
  }

  draw(header, bitmaps) {
    this.drawn = header.number;
    this.viewer.draw(bitmaps);
    this.onDrawn(header);
  }

  drawHeld() {
    const { header, bitmaps } = this.held.shift();
    this.draw(header, bitmaps);
  }

  /** Draw the newest picture that is due at this time of the source, in this turn. */
  drawUntil(turn, seconds) {
    const due = (one) => one && (one.turn < turn || (one.turn === turn && one.header.seconds <= seconds));
    while (due(this.held[0])) {
      if (due(this.held[1])) close(this.held.shift().bitmaps);
      else this.drawHeld();
    }
  }
}

function close(bitmaps) {
  for (const bitmap of Object.values(bitmaps)) bitmap.close();
}
