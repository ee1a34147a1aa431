/** The picture of a result, which is also where one is in it: a click or the arrow keys move the player. */

import { clock, h } from "./dom.js";
import { t } from "./texts.js";

const SPACE = "http://www.w3.org/2000/svg";
const BARS = 160; // as many as fit on a phone, at two pixels each
const STEP = 5; // seconds that an arrow key moves
let count = 0;

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export class Waveform {
  /** name: the file's; onseek(seconds): where the person wants to be; ontoggle(): play or pause. */
  constructor(name, onseek, ontoggle) {
    count += 1;
    this.onseek = onseek;
    this.duration = 0;
    this.position = 0;
    const clip = `heard-${count}`;
    this.heard = svg("rect", { x: 0, y: 0, width: 0, height: 100 });
    this.bars = svg("path", { class: "wave-bars" });
    this.played = svg("path", { class: "wave-played", "clip-path": `url(#${clip})` });
    this.picture = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" },
      svg("defs", {}, svg("clipPath", { id: clip }, this.heard)), this.bars, this.played);
    this.element = h("div", {
      class: "wave", role: "slider", tabindex: "0", "aria-label": t("waveform", { name }), "aria-valuemin": "0", hidden: true,
    }, this.picture);
    this.element.addEventListener("click", (event) => {
      const box = this.element.getBoundingClientRect();
      this.seek(((event.clientX - box.left) / box.width) * this.duration);
    });
    this.element.addEventListener("keydown", (event) => {
      const to = {
        ArrowRight: this.position + STEP, ArrowUp: this.position + STEP, ArrowLeft: this.position - STEP,
        ArrowDown: this.position - STEP, PageUp: this.position + this.duration / 10,
        PageDown: this.position - this.duration / 10, Home: 0, End: this.duration,
      }[event.key];
      if (to !== undefined) this.seek(to);
      else if (event.key === " " || event.key === "Enter") ontoggle();
      else return;
      event.preventDefault();
    });
  }

  /** peaks: numbers from 0 to full; seconds: how long it all lasts. */
  draw({ peaks, full }, seconds) {
    this.duration = seconds;
    const bars = Math.min(BARS, peaks.length);
    const path = [];
    for (let bar = 0; bar < bars; bar += 1) {
      const part = peaks.slice(Math.floor((bar * peaks.length) / bars), Math.floor(((bar + 1) * peaks.length) / bars));
      // The ear hears ratios: drawn as they are, soft passages would be a line.
      const height = Math.max(1, 48 * (Math.max(...part) / full) ** 0.6);
      path.push(`M${bar * 3} ${(50 - height).toFixed(1)}h2v${(2 * height).toFixed(1)}h-2z`);
    }
    this.picture.setAttribute("viewBox", `0 0 ${bars * 3 - 1} 100`);
    this.width = bars * 3 - 1;
    this.bars.setAttribute("d", path.join(""));
    this.played.setAttribute("d", path.join(""));
    this.element.setAttribute("aria-valuemax", String(Math.round(seconds)));
    this.element.hidden = peaks.length === 0;
    this.at(0);
  }

  /** Show where the player is. */
  at(seconds) {
    this.position = Math.min(Math.max(0, seconds), this.duration);
    this.heard.setAttribute("width", this.duration ? (this.width * this.position) / this.duration : 0);
    this.element.setAttribute("aria-valuenow", String(Math.round(this.position)));
    this.element.setAttribute("aria-valuetext", t("position", { at: clock(this.position), of: clock(this.duration) }));
  }

  clear() {
    this.element.hidden = true;
  }

  seek(seconds) {
    this.at(seconds);
    this.onseek(this.position);
  }
}
