// Scopes: histogram and waveform of luminance on a nits scale spaced as PQ spaces it (SMPTE ST 2084), and the light levels.

const TICKS = [0.1, 1, 10, 100, 1000, 10000];
const INK = { text: "#b4b4b4", grid: "#3a3a3a", sdr: "#8c8c8c", hdr: "#f2f2f2", mark: "#ffffff", ground: "#121212" };
const byId = (id) => document.getElementById(id);

/** Nits to the PQ signal, 0 to 1 (SMPTE ST 2084, equation 5.2). */
export function pq(nits) {
  const y = Math.max(0, nits / 10000) ** 0.1593017578125;
  return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375;
}

const short = (nits) => (nits >= 1000 ? `${nits / 1000}k` : String(nits));

/** A value in nits for people. */
export function nitsText(nits) {
  if (nits === null || nits === undefined) return "–";
  return `${nits >= 100 ? Math.round(nits) : nits >= 1 ? nits.toFixed(1) : nits.toFixed(2)} nits`;
}

export class Scopes {
  constructor() {
    this.histogram = byId("histogram");
    this.waveform = byId("waveform");
    this.strip = document.createElement("canvas");
    new ResizeObserver(() => this.last && this.draw(this.last)).observe(this.histogram);
  }

  /** A `scopes` message. */
  draw(message) {
    this.last = message;
    byId("max-cll-so-far").textContent = nitsText(message.max_cll_so_far_nits);
    byId("max-cll").textContent = nitsText(message.max_cll_nits);
    byId("max-fall").textContent = nitsText(message.max_fall_nits);
    byId("restored").textContent = message.restored_share === null ? "–" : `${(100 * message.restored_share).toFixed(1)} %`;
    if (this.histogram.clientWidth) {
      if (message.histogram) this.drawHistogram(message);
      if (message.waveform) this.drawWaveform(message);
    }
  }

  clear() {
    this.last = null;
    for (const canvas of [this.histogram, this.waveform]) canvas.width = canvas.width;
    for (const id of ["max-cll-so-far", "max-cll", "max-fall", "restored"]) byId(id).textContent = "–";
  }

  drawHistogram({ histogram, white_nits: white, peak_nits: peak }) {
    const { ink, width, height } = fresh(this.histogram);
    const edges = histogram.edges_nits.map(pq);
    const [low, high] = [edges[0], edges.at(-1)];
    const foot = height - 15;
    const x = (nits) => ((pq(nits) - low) / (high - low)) * width;
    const at = edges.map((edge) => ((edge - low) / (high - low)) * width);
    ink.fillStyle = INK.text;
    ink.textAlign = "center";
    for (const tick of TICKS.filter((nits) => pq(nits) > low && pq(nits) < high)) {
      line(ink, INK.grid, x(tick), 0, x(tick), foot);
      ink.fillText(short(tick), Math.min(Math.max(x(tick), 10), width - 10), height - 3);
    }
    // The square root lets small shares be seen beside large ones.
    const top = Math.sqrt(Math.max(1e-6, ...histogram.hdr, ...histogram.sdr));
    const y = (share) => foot - (Math.sqrt(share) / top) * (foot - 16);
    const steps = (shares) => {
      ink.beginPath();
      ink.moveTo(at[0], foot);
      shares.forEach((share, bin) => {
        ink.lineTo(at[bin], y(share));
        ink.lineTo(at[bin + 1], y(share));
      });
      ink.lineTo(at.at(-1), foot);
    };
    steps(histogram.sdr);
    ink.fillStyle = INK.sdr;
    ink.globalAlpha = 0.55;
    ink.fill();
    ink.globalAlpha = 1;
    steps(histogram.hdr);
    ink.strokeStyle = INK.hdr;
    ink.lineWidth = 1.25;
    ink.stroke();
    for (const [nits, name, align] of [[white, `SDR clips ${Math.round(white)}`, "right"], [peak, `peak ${Math.round(peak)}`, "left"]]) {
      const place = Math.round(x(nits)) + 0.5;
      line(ink, INK.mark, place, 12, place, foot, [3, 3]);
      ink.fillStyle = INK.mark;
      const fits = align === "left" ? place + 4 + ink.measureText(name).width < width : place - ink.measureText(name).width > 4;
      ink.textAlign = fits ? align : align === "left" ? "right" : "left";
      ink.fillText(name, Math.min(Math.max(place, 0), width - (fits ? 0 : 1)), 10);
    }
  }

  drawWaveform({ waveform, white_nits: white, peak_nits: peak }) {
    const { columns, rows, low_nits: lowNits, high_nits: highNits } = waveform;
    const { ink, width, height } = fresh(this.waveform);
    const data = Uint8Array.from(atob(waveform.hdr), (sign) => sign.charCodeAt(0));
    if (this.strip.width !== columns || this.strip.height !== rows) Object.assign(this.strip, { width: columns, height: rows });
    const brush = this.strip.getContext("2d");
    const picture = brush.createImageData(columns, rows);
    for (let i = 0; i < data.length; i += 1) picture.data.set([255, 255, 255, data[i]], 4 * i);
    brush.putImageData(picture, 0, 0);
    const left = 30;
    const [low, high] = [pq(lowNits), pq(highNits)];
    const y = (nits) => Math.round(height * (1 - (pq(nits) - low) / (high - low))) + 0.5;
    ink.textAlign = "right";
    for (const tick of TICKS.filter((nits) => pq(nits) > low && pq(nits) < high)) {
      line(ink, INK.grid, left, y(tick), width, y(tick));
      ink.fillStyle = INK.text;
      ink.fillText(short(tick), left - 4, Math.min(y(tick) + 4, height - 2));
    }
    ink.drawImage(this.strip, left, 0, width - left, height);
    for (const [nits, name] of [[white, "white"], [peak, "peak"]]) {
      line(ink, INK.mark, left, y(nits), width, y(nits), [3, 3]);
      const wide = ink.measureText(name).width + 6;
      ink.fillStyle = INK.ground;
      ink.fillRect(width - wide, y(nits) - 3 < 10 ? y(nits) + 1 : y(nits) - 13, wide, 12);
      ink.fillStyle = INK.mark;
      ink.fillText(name, width - 2, y(nits) - 3 < 10 ? y(nits) + 11 : y(nits) - 3);
    }
  }
}

/** A canvas made as large as it is shown and emptied; drawing is in CSS pixels. */
function fresh(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const [across, down] = [Math.round(width * devicePixelRatio), Math.round(height * devicePixelRatio)];
  if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
  const ink = canvas.getContext("2d");
  ink.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  ink.clearRect(0, 0, width, height);
  ink.font = "11px system-ui, sans-serif";
  return { ink, width, height };
}

function line(ink, color, x1, y1, x2, y2, dash = []) {
  ink.strokeStyle = color;
  ink.lineWidth = 1;
  ink.setLineDash(dash);
  ink.beginPath();
  ink.moveTo(x1, y1);
  ink.lineTo(x2, y2);
  ink.stroke();
  ink.setLineDash([]);
}
