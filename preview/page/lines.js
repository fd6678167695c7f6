// Lines under the header: errors, notices, a lost connection. Each kind has one, which can be dismissed.

export class Lines {
  constructor(place) {
    Object.assign(this, { place, lines: new Map() });
  }

  /** Show a line of a kind in place of the one before; milliseconds: gone after this long, 0 = when dismissed */
  show(kind, text, milliseconds = 0) {
    let line = this.lines.get(kind);
    if (!line) {
      const root = document.createElement("p");
      root.className = `line ${kind}`;
      const words = document.createElement("span");
      const close = Object.assign(document.createElement("button"), { className: "icon", title: "Dismiss", textContent: "×", ariaLabel: "Dismiss" });
      close.onclick = () => this.drop(kind);
      root.append(words, close);
      this.place.append(root);
      line = { root, words };
      this.lines.set(kind, line);
    }
    if (line.words.textContent !== text) line.words.textContent = text;
    clearTimeout(line.timer);
    if (milliseconds) line.timer = setTimeout(() => this.drop(kind), milliseconds);
  }

  drop(kind) {
    const line = this.lines.get(kind);
    if (!line) return;
    clearTimeout(line.timer);
    line.root.remove();
    this.lines.delete(kind);
  }

  dropAll() {
    for (const kind of [...this.lines.keys()]) this.drop(kind);
  }
}
