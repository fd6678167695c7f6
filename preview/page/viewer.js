// The picture area: which layers show, the split, zoom and pan. It knows nothing of the server.

const SHARPEST = 16; // screen pixels a picture pixel
const EDGE_KEYS = { ArrowLeft: -0.02, ArrowRight: 0.02, ArrowDown: -0.02, ArrowUp: 0.02, PageDown: -0.1, PageUp: 0.1 };

/** The layers that each mode needs from the server. */
export const LAYERS = {
  split: ["sdr", "hdr"],
  side: ["sdr", "hdr"],
  flip: ["sdr", "hdr"],
  difference: ["sdr", "difference"],
  mask: ["sdr", "mask"],
};

const byId = (id) => document.getElementById(id);
const between = (low, value, high) => Math.min(Math.max(low, value), Math.max(low, high));

export class Viewer {
  /** onMode(mode) after a change of mode; onSize() after the area or zoom changed, so that other pictures may be wanted */
  constructor({ onMode, onSize }) {
    Object.assign(this, { onMode, onSize });
    this.area = byId("viewer");
    this.panes = { sdr: byId("pane-sdr"), hdr: byId("pane-hdr") };
    this.layers = Object.fromEntries(["sdr", "hdr", "difference", "mask"].map((name) => [name, byId(`layer-${name}`)]));
    this.video = byId("layer-video");
    this.handle = byId("split");
    this.mode = "split";
    this.split = 0.5;
    this.width = 16;
    this.height = 9;
    this.zoom = 1;
    this.center = { x: 0.5, y: 0.5 };
    this.held = false;
    this.showVideo = false;
    this.pointers = new Map();
    new ResizeObserver(() => {
      this.layOut();
      this.onSize();
    }).observe(this.area);
    this.listen();
  }

  /** A source of this many pixels: everything starts anew. */
  open(width, height) {
    if (width !== this.width || height !== this.height) this.fit();
    Object.assign(this, { width, height });
    this.layOut();
  }

  setMode(mode) {
    this.mode = mode;
    for (const button of document.querySelectorAll("#modes [role=radio]")) {
      const chosen = button.dataset.mode === mode;
      button.setAttribute("aria-checked", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
    }
    for (const name of ["difference", "mask"]) if (name !== mode) clear(this.layers[name]);
    this.layOut();
    this.onMode(mode);
  }

  /** Draw decoded pictures, {layer: ImageBitmap}, all at once. The bitmaps are closed. */
  draw(bitmaps) {
    for (const [name, bitmap] of Object.entries(bitmaps)) {
      const canvas = this.layers[name];
      if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
        canvas.width = bitmap.width;
        canvas.height = bitmap.height;
      }
      canvas.getContext("2d", { alpha: false }).drawImage(bitmap, 0, 0);
      bitmap.close();
    }
  }

  /** Show the HDR layer as video or as tone-mapped pictures. */
  setVideo(on) {
    this.showVideo = on;
    this.layOut();
  }

  /** Show SDR as light that many stops brighter: signals are near a power of 2.2 of light, and both sides of the split then match. */
  setExposure(stops) {
    this.layers.sdr.style.filter = stops ? `brightness(${2 ** (stops / 2.2)})` : "none";
  }

  /** SDR while held. */
  hold(on) {
    this.held = on;
    byId("hold").classList.toggle("on", on);
    this.layOut();
  }

  /** Where the picture lies in a pane of this size: CSS pixels. */
  placed(width, height) {
    const scale = Math.min(width / this.width, height / this.height) * this.zoom;
    const [w, h] = [this.width * scale, this.height * scale];
    const at = (size, pane, center) => (size <= pane ? (pane - size) / 2 : between(pane - size, pane / 2 - center * size, 0));
    return { left: at(w, width, this.center.x), top: at(h, height, this.center.y), w, h, scale };
  }

  paneSize() {
    const { clientWidth: width, clientHeight: height } = this.area;
    if (this.mode !== "side") return { width, height };
    const fits = (across, down) => Math.min(across / this.width, down / this.height);
    // One above the other only where that makes them clearly larger, as on a phone held upright.
    return fits(width, height / 2) > 1.3 * fits(width / 2, height) ? { width, height: height / 2 } : { width: width / 2, height };
  }

  layOut() {
    const { width, height } = this.paneSize();
    if (!width || !height) return;
    const { left, top, w, h, scale } = this.placed(width, height);
    this.center = { x: (width / 2 - left) / w, y: (height / 2 - top) / h };
    for (const layer of [...Object.values(this.layers), this.video]) {
      layer.style.width = `${w}px`;
      layer.style.height = `${h}px`;
      layer.style.transform = `translate(${left}px, ${top}px)`;
    }
    this.area.dataset.mode = this.mode;
    this.area.classList.toggle("stacked", height < this.area.clientHeight);
    this.area.classList.toggle("held", this.held);
    this.area.classList.toggle("zoomed", this.zoom > 1);
    this.area.classList.toggle("pixels", scale * devicePixelRatio >= 3);
    this.layers.hdr.hidden = this.showVideo || !["split", "side", "flip"].includes(this.mode);
    this.video.hidden = !this.showVideo || !["split", "side", "flip"].includes(this.mode);
    for (const name of ["difference", "mask"]) this.layers[name].hidden = this.mode !== name;
    this.layOutSplit(width, left, w);
  }

  layOutSplit(width, left, w) {
    const [first, last] = [Math.max(0, left), Math.min(width, left + w)];
    const x = first + this.split * (last - first);
    this.splitSpan = { first, last };
    this.handle.style.left = `${x}px`;
    this.handle.hidden = this.mode !== "split" || this.held;
    this.handle.setAttribute("aria-valuenow", String(Math.round(100 * this.split)));
    this.handle.setAttribute("aria-valuetext", `${Math.round(100 * this.split)} % SDR`);
    this.panes.hdr.style.clipPath = this.held && this.mode !== "side" ? "inset(0 0 0 100%)" : this.mode === "split" ? `inset(0 0 0 ${x}px)` : "none";
  }

  /** Where the split lies, 0 (all HDR) to 1 (all SDR) of the picture that is seen. */
  setSplit(share) {
    this.split = between(0, share, 1);
    this.layOut();
  }

  fit() {
    this.zoom = 1;
    this.center = { x: 0.5, y: 0.5 };
    this.layOut();
  }

  /** Zoom by a factor and keep the point (client pixels; default: the middle) where it is. */
  zoomBy(factor, clientX, clientY) {
    const { width, height } = this.paneSize();
    const area = this.area.getBoundingClientRect();
    const x = clientX === undefined ? width / 2 : (clientX - area.left) % width;
    const y = clientY === undefined ? height / 2 : (clientY - area.top) % height;
    const before = this.placed(width, height);
    const most = Math.max(1, (SHARPEST * this.zoom) / (before.scale * devicePixelRatio));
    this.zoom = between(1, this.zoom * factor, most);
    const after = this.placed(width, height);
    this.center = {
      x: ((x - before.left) / before.w) - (x - width / 2) / after.w,
      y: ((y - before.top) / before.h) - (y - height / 2) / after.h,
    };
    this.layOut();
    this.onSize();
  }

  panBy(dx, dy) {
    const { width, height } = this.paneSize();
    const { w, h } = this.placed(width, height);
    this.center = { x: this.center.x - dx / w, y: this.center.y - dy / h };
    this.layOut();
  }

  listen() {
    this.area.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : event.ctrlKey ? 0.01 : 0.0015)), event.clientX, event.clientY);
    }, { passive: false });
    this.area.addEventListener("dblclick", (event) => {
      if (event.target.closest("button, #lines, #split")) return;
      if (this.zoom > 1) this.fit();
      else {
        const { scale } = this.placed(this.paneSize().width, this.paneSize().height);
        this.zoomBy(Math.max(2, 1 / (scale * devicePixelRatio)), event.clientX, event.clientY);
      }
    });
    this.area.addEventListener("pointerdown", (event) => this.pointerDown(event));
    this.area.addEventListener("pointermove", (event) => this.pointerMove(event));
    for (const end of ["pointerup", "pointercancel"]) this.area.addEventListener(end, (event) => this.pointerEnd(event));
    this.handle.addEventListener("keydown", (event) => {
      const move = { ...EDGE_KEYS, Home: -1, End: 1 }[event.key];
      if (move === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      this.setSplit(this.split + move);
    });
  }

  pointerDown(event) {
    if (event.button > 0 || event.target.closest("button, #lines")) return;
    this.area.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const onHandle = event.target.closest("#split");
    // Without zoom there is nothing to move but the split: then it follows a drag anywhere.
    this.dragsSplit = Boolean(onHandle) || (this.mode === "split" && this.zoom === 1 && this.pointers.size === 1);
    if (onHandle) this.handle.focus();
    if (this.mode === "flip" && this.pointers.size === 1) this.hold(true);
    this.area.classList.add("dragging");
  }

  pointerMove(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    this.pointers.set(event.pointerId, now);
    if (others.length) {
      const [other] = others;
      const spread = (point) => Math.max(20, Math.hypot(point.x - other.x, point.y - other.y));
      this.dragsSplit = false;
      this.zoomBy(spread(now) / spread(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
      this.panBy((now.x - before.x) / 2, (now.y - before.y) / 2);
    } else if (this.dragsSplit) {
      const { first, last } = this.splitSpan;
      this.setSplit((now.x - this.area.getBoundingClientRect().left - first) / (last - first));
    } else this.panBy(now.x - before.x, now.y - before.y);
  }

  pointerEnd(event) {
    this.pointers.delete(event.pointerId);
    if (this.pointers.size) return;
    this.area.classList.remove("dragging");
    if (this.mode === "flip") this.hold(false);
  }
}

function clear(canvas) {
  canvas.getContext("2d", { alpha: false }).clearRect(0, 0, canvas.width, canvas.height);
}
