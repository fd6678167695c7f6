// The knobs, made from what the server lists. The newest values are sent, one message at a time.

const GAP_MS = 40;
const PATIENCE_MS = 1500; // after this long without an answer the next values go out all the same
const START = ["profile", "model"]; // what all else starts from stands at the top
const NOTCHES = 240; // of a slider with a logarithmic scale

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

const shown = (value) => (typeof value === "number" ? String(Math.round(value * 1000) / 1000) : value === null ? "auto" : String(value));

/** One knob: `set(value)` shows a value, `onInput(value)` tells of the user's. */
class Knob {
  constructor(facts, onInput) {
    Object.assign(this, { facts, onInput, standard: facts.default, value: facts.value });
    const id = `knob-${facts.key}`;
    this.label = element("label", { htmlFor: id, textContent: facts.label });
    this.note = element("span", { className: "default" });
    this.back = element("button", { className: "icon back", type: "button" });
    this.back.append(element("span", { ariaHidden: "true", textContent: "↺" }), element("span", { className: "unseen", textContent: `${facts.label}: back to default` }));
    this.back.onclick = () => this.reset();
    const help = element("span", { id: `${id}-help`, className: "unseen", textContent: facts.help ?? "" });
    this.head = element("div", { className: "head" }, this.label, this.back, this.note);
    this.root = element("div", { className: `knob ${facts.kind}`, title: facts.help ?? "" }, this.head, help);
    this.root.dataset.key = facts.key;
    this.make(id);
    this.main.id = id;
    this.main.setAttribute("aria-describedby", help.id);
    this.set(facts.value);
  }

  reset() {
    this.set(this.standard);
    this.onInput(this.standard);
  }

  tell(value) {
    this.set(value);
    this.onInput(value);
  }

  setStandard(value) {
    this.standard = value;
    this.set(this.value);
  }

  set(value) {
    this.value = value;
    this.show(value);
    const unit = this.facts.unit ? ` ${this.facts.unit}` : "";
    this.note.textContent = `default ${this.name(this.standard)}`;
    this.back.title = `Back to ${this.name(this.standard)}${unit}`;
    const same = this.name(value) === this.name(this.standard);
    this.root.classList.toggle("changed", !same);
  }

  name(value) {
    return shown(value);
  }
}

class NumberKnob extends Knob {
  make(id) {
    const { low, high, step, unit, label } = this.facts;
    this.logarithmic = unit === "nits" && low > 0 && high / low >= 10;
    this.step = step || 0.01;
    const scale = this.logarithmic ? { min: 0, max: NOTCHES, step: 1 } : { min: low, max: high, step: this.step };
    this.main = element("input", { type: "range", ...scale });
    this.entry = element("input", { type: "number", min: low, max: high, step: this.step, ariaLabel: `${label}${unit ? `, ${unit}` : ""}`, id: `${id}-entry` });
    this.head.append(element("span", { className: "value" }, this.entry, element("span", { className: "unit", textContent: unit ?? "" })));
    this.root.append(this.main);
    this.main.oninput = () => this.tell(this.fromSlider(Number(this.main.value)));
    this.entry.onchange = () => this.entry.value !== "" && this.tell(Math.min(Math.max(low, Number(this.entry.value)), high));
    this.entry.onkeydown = (event) => ["Enter", "Escape"].includes(event.key) && this.entry.blur(); // keys are the page's again
    for (const place of [this.main, this.label]) place.addEventListener("dblclick", () => this.reset());
  }

  fromSlider(position) {
    const { low, high } = this.facts;
    const value = this.logarithmic ? low * (high / low) ** (position / NOTCHES) : position;
    // Notches on the scale are rounded to what one would choose by hand: 3 figures at most.
    const step = this.logarithmic ? Math.max(this.step, 10 ** (Math.floor(Math.log10(value)) - 2)) : this.step;
    return Number(Math.min(Math.max(low, Math.round(value / step) * step), high).toFixed(6));
  }

  show(value) {
    const { low, high, unit } = this.facts;
    const number = value ?? low;
    this.main.value = this.logarithmic ? (NOTCHES * Math.log(number / low)) / Math.log(high / low) : number;
    this.main.setAttribute("aria-valuetext", `${shown(value)}${unit ? ` ${unit}` : ""}`);
    this.main.style.setProperty("--filled", `${(100 * (this.main.value - this.main.min)) / (this.main.max - this.main.min)}%`);
    if (document.activeElement !== this.entry || !this.entry.matches(":focus-visible")) this.entry.value = value === null ? "" : shown(value);
    this.entry.placeholder = "auto";
  }
}

class ChoiceKnob extends Knob {
  make() {
    this.choices = this.facts.choices.map((choice) => (typeof choice === "object" && choice !== null ? choice : { value: choice, label: shown(choice) }));
    this.main = element("select");
    for (const { label } of this.choices) this.main.append(element("option", { textContent: label }));
    this.main.onchange = () => this.tell(this.choices[this.main.selectedIndex].value);
    this.head.append(element("span", { className: "value" }, this.main, element("span", { className: "unit", textContent: this.facts.unit ?? "" })));
    this.label.addEventListener("dblclick", () => this.reset());
  }

  show(value) {
    let at = this.choices.findIndex((choice) => shown(choice.value) === shown(value));
    if (at < 0) {
      at = this.choices.push({ value, label: shown(value) }) - 1;
      this.main.append(element("option", { textContent: shown(value) }));
    }
    this.main.selectedIndex = at;
  }

  name(value) {
    return this.choices.find((choice) => shown(choice.value) === shown(value))?.label ?? shown(value);
  }
}

class SwitchKnob extends Knob {
  make() {
    this.main = element("input", { type: "checkbox", className: "switch" });
    this.main.setAttribute("role", "switch");
    this.main.onchange = () => this.tell(this.main.checked);
    this.head.append(element("span", { className: "value" }, this.main));
    this.label.addEventListener("dblclick", (event) => {
      event.preventDefault();
      this.reset();
    });
  }

  show(value) {
    this.main.checked = Boolean(value);
  }

  name(value) {
    return value ? "on" : "off";
  }
}

const KINDS = { number: NumberKnob, choice: ChoiceKnob, switch: SwitchKnob };

export class Knobs {
  /** send(values) gives values by key to the server */
  constructor(send) {
    Object.assign(this, { send, knobs: new Map(), waiting: {}, sent: null, timer: 0 });
    const place = (id) => document.querySelector(`#${id} .knobs`);
    this.places = { start: place("start"), grade: place("grade"), network: place("network") };
  }

  build(facts) {
    this.knobs.clear();
    for (const place of Object.values(this.places)) place.replaceChildren();
    for (const one of facts) {
      const knob = new KINDS[one.kind](one, (value) => this.give(one.key, value));
      this.knobs.set(one.key, knob);
      this.places[START.includes(one.key) ? "start" : one.group].append(knob.root);
    }
    this.waiting = {};
    this.sent = null;
  }

  give(key, value) {
    this.waiting[key] = value;
    if (!this.timer) this.timer = setTimeout(() => this.flush(), GAP_MS);
  }

  flush() {
    this.timer = 0;
    if (this.sent && performance.now() - this.sent.at < PATIENCE_MS) {
      this.timer = setTimeout(() => this.flush(), GAP_MS);
      return;
    }
    if (!Object.keys(this.waiting).length) return;
    this.sent = { at: performance.now() };
    this.send(this.waiting);
    this.waiting = {};
  }

  /** What the server has now, and what it calls default. Knobs the user has moved since keep their place. */
  take(values, defaults = {}) {
    this.sent = null;
    this.values = values;
    for (const [key, knob] of this.knobs) {
      if (key in defaults) knob.setStandard(defaults[key]);
      if (key in values && !(key in this.waiting)) knob.set(values[key]);
    }
  }

  /** The server refused: back to what it has. */
  refuse() {
    if (this.values) this.take(this.values);
  }
}
