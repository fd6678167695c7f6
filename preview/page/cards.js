// The two cards under the header: what was saved, and the conversion.

const byId = (id) => document.getElementById(id);
const STATES = { idle: "Convert with these settings", running: "Converting", paused: "Paused", done: "Done", failed: "It failed" };

/** Seconds left, in words. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "time left unknown";
  if (seconds < 90) return `${Math.round(seconds)} s left`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min left`;
  return `${(seconds / 3600).toFixed(1)} h left`;
}

export class Cards {
  /** send(message) to the server */
  constructor(send) {
    this.send = send;
    this.cards = { save: byId("save-card"), convert: byId("convert-card") };
    byId("save").onclick = () => this.save();
    byId("convert").onclick = () => this.toggleConvert();
    for (const card of Object.values(this.cards)) card.querySelector(".close").onclick = () => this.close();
    for (const command of ["start", "pause", "resume", "cancel"]) {
      byId(`convert-${command}`).onclick = () => send({ do: "convert", command });
    }
    for (const button of document.querySelectorAll(".copy")) button.onclick = () => copy(button);
    this.conversion({ state: "idle" });
  }

  /** True when a card was open. */
  close() {
    const open = Object.entries(this.cards).filter(([, card]) => !card.hidden);
    for (const [name, card] of open) {
      card.hidden = true;
      byId(name).focus();
    }
    byId("convert").setAttribute("aria-expanded", "false");
    return open.length > 0;
  }

  open(name) {
    for (const [other, card] of Object.entries(this.cards)) card.hidden = other !== name;
    byId("convert").setAttribute("aria-expanded", String(name === "convert"));
    this.cards[name].querySelector(".close").focus({ preventScroll: true });
  }

  save() {
    this.send({ do: "save" });
  }

  toggleConvert() {
    if (!this.cards.convert.hidden) this.close();
    else this.open("convert");
  }

  /** A `saved` message: the file goes to the downloads. */
  saved({ name, yaml, command }) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([yaml], { type: "application/yaml" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    byId("saved-name").textContent = name;
    byId("saved-yaml").textContent = yaml;
    byId("saved-command").textContent = command;
    this.open("save");
  }

  /** The command that converts with the settings of now. */
  setCommand(command) {
    byId("convert-command").textContent = command;
  }

  setSource(name, convertible) {
    this.source = name;
    byId("convert").disabled = !convertible;
    byId("convert").title = convertible ? `Convert ${name} with these settings (C)` : "A live source cannot be converted";
  }

  /** A `conversion` message. */
  conversion(message) {
    const { state, output, frames_done: done = 0, frames = 0, frames_per_second: fps, eta_seconds: eta, text } = message;
    const busy = state === "running" || state === "paused";
    byId("convert-title").textContent = STATES[state] ?? state;
    byId("convert-text").textContent = text || (state === "idle" ? `${this.source ?? "The file"} is converted with the knobs as they are now. You can go on looking meanwhile.` : "");
    byId("convert-output").textContent = output ? (state === "done" ? `Written: ${output}` : `To: ${output}`) : "";
    byId("convert-progress").hidden = byId("convert-numbers").hidden = !busy;
    const share = frames ? done / frames : 0;
    byId("convert-progress").value = share;
    const speed = fps ? `, ${fps.toFixed(fps < 10 ? 1 : 0)} frames/s` : "";
    byId("convert-numbers").textContent = `${done} of ${frames || "?"} frames${speed}${state === "running" ? `, ${duration(eta)}` : ""}`;
    byId("convert-start").hidden = busy;
    byId("convert-start").textContent = state === "idle" ? "Start converting" : "Convert again";
    byId("convert-pause").hidden = state !== "running";
    byId("convert-resume").hidden = state !== "paused";
    byId("convert-cancel").hidden = !busy;
    const button = byId("convert");
    button.classList.toggle("busy", busy);
    button.style.setProperty("--share", `${100 * share}%`);
    button.firstElementChild.replaceChildren(...this.buttonText(state, share));
  }

  buttonText(state, share) {
    const wide = Object.assign(document.createElement("span"), { className: "wide" });
    if (state === "running" || state === "paused") {
      wide.textContent = state === "running" ? "Converting " : "Paused ";
      return [wide, `${Math.floor(100 * share)} %`];
    }
    if (state === "done") return ["Converted"];
    wide.textContent = " this file";
    return ["Convert", wide];
  }
}

async function copy(button) {
  const source = byId(button.dataset.of);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source); // no clipboard outside a secure context: select it, so that Ctrl-C copies
    button.textContent = "Selected: press Ctrl-C";
  }
  setTimeout(() => (button.textContent = "Copy command"), 3000);
}
