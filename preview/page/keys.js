// Keyboard shortcuts and the page that lists them.

const byId = (id) => document.getElementById(id);

export class Keys {
  /** list: [[keys to show, what they do]]; actions: {key as events name it, "Shift+" before: function}; hold(on): for the key A */
  constructor(list, actions, { hold, escape }) {
    this.actions = actions;
    const card = byId("help-card");
    this.card = card;
    for (const [shown, text] of list) {
      const row = document.createElement("div");
      const names = document.createElement("dt");
      for (const name of shown.split(" / ")) names.append(Object.assign(document.createElement("kbd"), { textContent: name }), " ");
      row.append(names, Object.assign(document.createElement("dd"), { textContent: text }));
      byId("shortcuts").append(row);
    }
    card.querySelector(".close").onclick = () => card.close();
    card.addEventListener("click", (event) => event.target === card && card.close());
    byId("help").onclick = () => this.help();
    addEventListener("keydown", (event) => this.down(event, hold, escape));
    addEventListener("keyup", (event) => event.key.toLowerCase() === "a" && hold(false));
    addEventListener("blur", () => hold(false));
    addEventListener("pointerdown", (event) => (this.clicked = event.target.closest("button, summary, input")));
  }

  help() {
    if (this.card.open) this.card.close();
    else this.card.showModal();
  }

  down(event, hold, escape) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target;
    if (event.key === "Escape") return escape();
    if (event.key === "?") return this.help();
    if (this.card.open || at.matches("input[type=number], select, textarea")) return;
    const onSlider = at.matches("input[type=range], [role=slider]");
    if (onSlider && /^(Arrow|Home|End|Page)/.test(event.key)) return;
    if (at.matches("[role=radio]") && event.key.startsWith("Arrow")) return;
    // A button reached with the keyboard is pressed by space or enter; one that was clicked leaves space to playing.
    if (event.key === " " && at !== this.clicked && at.matches("button, summary, input[type=checkbox]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "a" && !event.repeat) return hold(true);
    const act = this.actions[event.shiftKey && key.length > 1 ? `Shift+${key}` : key];
    if (!act) return;
    event.preventDefault();
    if (at.matches("button")) at.blur(); // else letting go of space would press it
    act();
  }
}

/** Arrow keys move within a group of radio buttons, as they do in a native one. */
export function radioKeys(group, choose) {
  group.addEventListener("click", (event) => {
    const button = event.target.closest("[role=radio]");
    if (button) choose(button);
  });
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const buttons = [...group.querySelectorAll("[role=radio]")];
    const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
    next.focus();
    choose(next);
  });
}
