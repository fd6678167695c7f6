// The page of the preview: ties the connection, the picture, the knobs, the scopes and the cards together.

import { Cards } from "./cards.js";
import { Connection, Latest } from "./connection.js";
import { HdrVideo, playable, screenIsHdr } from "./hdr_video.js";
import { Keys, radioKeys } from "./keys.js";
import { Knobs } from "./knobs.js";
import { Lines } from "./lines.js";
import { Pictures } from "./pictures.js";
import { Scopes } from "./scopes.js";
import { StatusLine } from "./status_line.js";
import { Transport } from "./transport.js";
import { LAYERS, Viewer } from "./viewer.js";

const VIEW_GAP_MS = 80;
const byId = (id) => document.getElementById(id);

const lines = new Lines(byId("lines"));
const status = new StatusLine();
let hello = null; // the server's list of what there is
let opened = null; // the source that is shown
let remembered = null; // {name, frame, values} to come back to after the connection was lost
let resumes = false; // playing was stopped because the tab went out of sight

const send = (message) => connection.send(message);
const viewLater = new Latest(() => sendView(), VIEW_GAP_MS);
const viewer = new Viewer({
  onMode: () => {
    if (!showsLight()) waitFor("Making the picture…");
    viewLater.give();
    tellDisplay();
  },
  onSize: () => viewLater.give(),
});
const transport = new Transport(send);
const scopes = new Scopes();
const cards = new Cards(send);
const knobs = new Knobs((values) => send({ do: "set", values }));
const video = new HdrVideo(byId("layer-video"), {
  onFrame: (turn, seconds) => {
    pictures.drawUntil(turn, seconds + 0.5 / transport.fps);
    tellDisplay();
  },
  onFailure: (text) => {
    lines.show("video", `HDR video stopped: ${text}. The picture is tone-mapped instead.`);
    videoFailed = true;
    sendView();
  },
});
let videoFailed = false;
const pictures = new Pictures({
  viewer,
  acknowledge: (number) => send({ do: "ack", number }),
  onDrawn: (header) => {
    document.body.classList.remove("empty");
    if (showsLight() || header.parts.some(({ layer }) => layer === viewer.mode)) byId("waiting").hidden = true;
    transport.drawn(header.frame, header.seconds);
    if (header.exact) showBadge("Exact", ": as convert hands it to the encoder");
    else if (!transport.playing) showBadge("Quick look…");
    document.body.dataset.picture = `${header.number}:${header.frame}:${header.exact ? "exact" : "quick"}`;
  },
});

/** Say over the picture why there is none. */
function waitFor(text) {
  byId("waiting").textContent = text;
  byId("waiting").hidden = false;
}

/** What kind of picture this is, in its corner. more: left out on small screens */
function showBadge(text, more = "") {
  const badge = byId("exact");
  badge.hidden = !text;
  badge.firstChild.textContent = text;
  badge.lastChild.textContent = more;
  badge.classList.toggle("is-exact", text === "Exact");
}

/** Whether HDR is wanted as real video: what the user chose, else what screen and browser say. */
function wantsVideo() {
  const choice = byId("display").value;
  if (videoFailed || choice === "tone" || !playable(hello?.video_codecs ?? [])) return false;
  return choice === "video" || screenIsHdr();
}

/** Whether the mode shows pictures whose exposure can be turned. */
const showsLight = () => !(viewer.mode in viewer.layers);
const viewExposure = () => Number(byId("view-exposure").value);

function sendView() {
  const wanted = wantsVideo();
  const pixels = Math.round(viewer.paneSize().width * viewer.zoom * devicePixelRatio);
  send({
    do: "view",
    layers: LAYERS[viewer.mode],
    exposure_stops: showsLight() ? viewExposure() : 0,
    width: Math.min(Math.max(pixels, 160), opened?.width ?? 4096),
    scopes: byId("scopes").open && byId("scopes").checkVisibility(),
    video: wanted,
    ...(wanted && { codec: playable(hello.video_codecs) }),
  });
  if (!wanted) stopVideo();
  tellDisplay();
}

function stopVideo() {
  video.stop();
  pictures.hold(false);
  tellDisplay();
}

/** Put up what moves (video or canvas), and say which. */
function tellDisplay() {
  const shows = transport.playing && video.showing && wantsVideo();
  viewer.setVideo(shows);
  pictures.holding = shows;
  const stops = shows || !showsLight() ? 0 : viewExposure();
  const taken = stops ? `, view ${stops > 0 ? "+" : "−"}${Math.abs(stops)} stops` : "";
  viewer.setExposure(stops);
  byId("sdr-tag").textContent = `SDR${taken}`;
  const tag = byId("hdr-tag");
  if (viewer.mode === "difference") tag.textContent = "Difference from SDR";
  else if (viewer.mode === "mask") tag.textContent = "Restored pixels, coloured";
  else if (shows) tag.textContent = `HDR: ${video.codec.startsWith("av01") ? "AV1" : "HEVC"} 10-bit PQ`;
  else tag.textContent = `HDR, tone-mapped${taken}`;
  status.shown(shows, wantsVideo());
  byId("view-exposure").disabled = shows || !showsLight();
}

function begin(message) {
  hello = message;
  videoFailed = false;
  const choice = byId("source");
  choice.replaceChildren(...hello.sources.map(({ name }) => Object.assign(document.createElement("option"), { textContent: name })));
  choice.disabled = hello.sources.length < 2;
  knobs.build(hello.knobs);
  status.setDevice(hello.device);
  const codec = playable(hello.video_codecs);
  byId("display").options[2].disabled = !codec;
  byId("display").title = codec ? "Real HDR needs an HDR screen" : "This browser cannot play the 10-bit video the server offers";
  const source = Math.max(0, remembered ? hello.sources.findIndex(({ name }) => name === remembered.name) : 0);
  choice.selectedIndex = source;
  pictures.restart();
  sendView();
  send({ do: "open", source });
  if (remembered?.name === hello.sources[source]?.name) {
    if (Object.keys(remembered.values).length) send({ do: "set", values: remembered.values });
    if (remembered.frame) send({ do: "show", frame: remembered.frame });
  } else remembered = null;
}

function open(message) {
  opened = message;
  document.body.dataset.opened = message.source;
  byId("source").selectedIndex = message.source;
  byId("facts").textContent = `${message.width} × ${message.height}${message.fps ? ` · ${Number(message.fps.toFixed(3))} fps` : ""}${message.live ? " · live" : ""}`;
  document.title = `${message.name} · Sunvisor preview`;
  viewer.open(message.width, message.height);
  const frame = remembered?.frame ?? 0;
  transport.open(message);
  if (frame) transport.place(frame, frame / transport.fps);
  scopes.clear();
  cards.setSource(message.name, !message.live);
  stopVideo();
  viewLater.give();
  if (message.warnings?.length) lines.show("notice", message.warnings.join(" "));
}

function settle({ values, defaults, command }) {
  knobs.take(values, defaults);
  document.body.dataset.settings = String(Number(document.body.dataset.settings ?? 0) + 1);
  if (command) cards.setCommand(command);
}

function follow(message) {
  if (message.playing !== transport.playing) {
    pictures.begin();
    stopVideo();
  }
  transport.setPlaying(message.playing);
  status.state(message);
  if (message.note) lines.show("note", message.note);
  else lines.drop("note");
  if (message.playing) showBadge(message.quality?.text ? "Quality lowered to keep up" : "");
  tellDisplay();
}

const handlers = {
  hello: begin,
  opened: open,
  settings: settle,
  state: follow,
  scopes: (message) => scopes.draw(message),
  saved: (message) => cards.saved(message),
  conversion: (message) => cards.conversion(message),
  notice: ({ text }) => lines.show("notice", text, 8000),
  video_failed: ({ text }) => video.fail(text),
  error: ({ text }) => {
    knobs.refuse();
    lines.show("error", text);
  },
};

const connection = new Connection({
  onMessage: (message) => handlers[message.is]?.(message),
  onBinary: (header, bytes) => {
    if (header.is === "picture") {
      pictures.take(header, bytes).catch((error) => lines.show("error", `A picture could not be drawn: ${error.message}`));
    } else if (header.is === "video" && wantsVideo()) video.push(header, bytes);
  },
  onOpen: () => {
    lines.drop("lost");
    status.connected(true);
    document.body.classList.remove("lost");
  },
  onLost: (reason, seconds) => {
    if (opened) remembered = { name: opened.name, frame: transport.frame, values: knobs.values ?? {} };
    transport.setPlaying(false);
    stopVideo();
    status.connected(false);
    document.body.classList.add("lost");
    const wait = seconds < 1 ? "Trying again" : `Trying again in ${Math.round(seconds)} s`;
    lines.show("lost", reason ? `Not connected: ${reason} ${wait}…` : `No connection to the preview server. ${wait}; is it still running?`);
  },
});

byId("source").onchange = (event) => {
  remembered = null;
  waitFor("Opening…");
  send({ do: "open", source: event.target.selectedIndex });
};
byId("display").onchange = () => {
  videoFailed = false;
  sendView();
};
matchMedia("(dynamic-range: high)").addEventListener("change", sendView);
byId("scopes").addEventListener("toggle", () => viewLater.give());

const exposure = byId("view-exposure");
const setExposure = (stops) => {
  exposure.value = stops;
  const value = viewExposure();
  byId("view-exposure-value").textContent = `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value)}`;
  exposure.setAttribute("aria-valuetext", `${value} stops`);
  viewLater.give();
  tellDisplay();
};
exposure.oninput = () => setExposure(exposure.value);
byId("dive").addEventListener("dblclick", () => setExposure(0));

byId("zoom-in").onclick = () => viewer.zoomBy(1.5);
byId("zoom-out").onclick = () => viewer.zoomBy(1 / 1.5);
byId("zoom-fit").onclick = () => viewer.fit();
byId("reset").onclick = () => send({ do: "reset" });
radioKeys(byId("modes"), (button) => viewer.setMode(button.dataset.mode));
const hold = byId("hold");
hold.addEventListener("pointerdown", (event) => {
  hold.setPointerCapture(event.pointerId);
  viewer.hold(true);
});
for (const end of ["pointerup", "pointercancel"]) hold.addEventListener(end, () => viewer.hold(false));
hold.addEventListener("keydown", (event) => [" ", "Enter"].includes(event.key) && viewer.hold(true));
for (const end of ["keyup", "blur"]) hold.addEventListener(end, () => viewer.hold(false));

function togglePanel() {
  const closed = document.body.classList.toggle("no-panel");
  byId("panel-toggle").setAttribute("aria-expanded", String(!closed));
  viewLater.give();
}
byId("panel-toggle").onclick = togglePanel;
// On a phone the picture comes first: the scopes begin folded.
if (matchMedia("(max-width: 760px)").matches) byId("scopes").open = false;

const mode = (name) => () => viewer.setMode(name);
new Keys(
  [
    ["space", "play or pause"],
    ["← / →", "one frame back or on; with shift ten"],
    ["Home / End", "first or last frame"],
    ["L", "loop"],
    ["hold A", "show SDR"],
    ["1 / 2 / 3 / 4 / 5", "split, side by side, A/B flip, difference, restored pixels"],
    ["[ / ]", "move the split"],
    [", / .", "view exposure down or up: look into the highlights"],
    ["+ / − / 0", "zoom in, out, fit"],
    ["S", "save the settings"],
    ["C", "convert this file"],
    ["R", "all knobs back to the start"],
    ["P", "show or hide knobs and scopes"],
    ["F", "full screen"],
    ["?", "this list"],
    ["Esc", "close what is open"],
  ],
  {
    " ": () => transport.toggle(),
    k: () => transport.toggle(),
    l: () => transport.setLoop(!transport.loop),
    s: () => cards.save(),
    c: () => byId("convert").disabled || cards.toggleConvert(),
    r: () => send({ do: "reset" }),
    p: togglePanel,
    f: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
    ArrowLeft: () => transport.step(-1),
    ArrowRight: () => transport.step(1),
    "Shift+ArrowLeft": () => transport.step(-10),
    "Shift+ArrowRight": () => transport.step(10),
    Home: () => transport.live || transport.show(0),
    End: () => transport.live || transport.show(transport.frames - 1),
    1: mode("split"),
    2: mode("side"),
    3: mode("flip"),
    4: mode("difference"),
    5: mode("mask"),
    "[": () => viewer.setSplit(viewer.split - 0.05),
    "]": () => viewer.setSplit(viewer.split + 0.05),
    ",": () => setExposure(viewExposure() - 0.5),
    ".": () => setExposure(viewExposure() + 0.5),
    "+": () => viewer.zoomBy(1.25),
    "=": () => viewer.zoomBy(1.25),
    "-": () => viewer.zoomBy(0.8),
    0: () => viewer.fit(),
  },
  { hold: (on) => viewer.hold(on), escape: () => cards.close() || lines.dropAll() },
);

viewer.setMode("split");

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    resumes = transport.playing;
    transport.pause();
  } else if (resumes) {
    resumes = false;
    transport.play();
  }
});
