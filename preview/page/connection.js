// The WebSocket to the preview server: messages in and out, and a new try after each loss.

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5000;

/** The token of the address (?token=...), kept for this tab only and taken out of the address bar. "" where none is needed. */
export function takeToken() {
  const address = new URL(location.href);
  const token = address.searchParams.get("token");
  if (token) {
    sessionStorage.setItem("token", token);
    address.searchParams.delete("token");
    history.replaceState(null, "", address);
  }
  return sessionStorage.getItem("token") ?? "";
}

/** A binary message: 4 bytes of length (big-endian), a JSON header, then the bytes. */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { header, bytes: new Uint8Array(buffer, 4 + length) };
}

export class Connection {
  /** onMessage(message), onBinary(header, bytes), onOpen(), onLost(reason, seconds until the next try) */
  constructor({ onMessage, onBinary, onOpen, onLost }) {
    Object.assign(this, { onMessage, onBinary, onOpen, onLost });
    this.token = takeToken();
    this.wait = FIRST_WAIT_MS;
    this.connect();
  }

  get connected() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  connect() {
    const address = new URL("/ws", location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    if (this.token) address.searchParams.set("token", this.token);
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.onOpen();
    socket.onmessage = ({ data }) => {
      this.wait = FIRST_WAIT_MS;
      if (typeof data === "string") return this.onMessage(JSON.parse(data));
      const { header, bytes } = unpack(data);
      this.onBinary(header, bytes);
    };
    socket.onclose = ({ reason }) => {
      this.onLost(reason, this.wait / 1000);
      setTimeout(() => this.connect(), this.wait * (0.8 + 0.4 * Math.random()));
      this.wait = Math.min(2 * this.wait, LONGEST_WAIT_MS);
    };
    this.socket = socket;
  }

  /** False when there is nobody to hear it. */
  send(message) {
    if (!this.connected) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }
}

/** Sends the newest of what it is given, at most once in `gapMs`; what is overtaken is never sent. */
export class Latest {
  constructor(send, gapMs) {
    Object.assign(this, { send, gapMs, value: undefined, timer: 0, last: -Infinity });
  }

  give(value) {
    this.value = value;
    if (this.timer) return;
    const wait = Math.max(0, this.last + this.gapMs - performance.now());
    this.timer = setTimeout(() => {
      this.timer = 0;
      this.last = performance.now();
      this.send(this.value);
    }, wait);
  }

  drop() {
    clearTimeout(this.timer);
    this.timer = 0;
  }
}
