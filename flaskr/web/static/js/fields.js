/** A labelled field with its hint and its error beside it; screen readers hear both with the field. */

import { h } from "./dom.js";

let count = 0;

export class Field {
  /** control: an input or select. hint: shown under it. */
  constructor(label, control, hint = "") {
    count += 1;
    this.control = control;
    control.id = `field-${count}`;
    this.error = h("p", { id: `${control.id}-error`, class: "error", hidden: true });
    this.hint = hint ? h("p", { id: `${control.id}-hint`, class: "hint" }, hint) : null;
    const name = h("label", { for: control.id }, label);
    const parts = control.type === "checkbox" ? [h("div", { class: "check" }, control, name)] : [name, control];
    this.element = h("div", { class: "field" }, ...parts, this.hint, this.error);
    this.complain("");
    control.addEventListener("input", () => this.complain(""));
  }

  /** Show an error, or none. foreign: whether the sentence is the API's own, which speaks English. */
  complain(sentence, foreign = false) {
    this.error.textContent = sentence;
    this.error.hidden = !sentence;
    if (foreign) this.error.lang = "en";
    else this.error.removeAttribute("lang");
    const described = [this.hint?.id, sentence ? this.error.id : null].filter(Boolean).join(" ");
    if (described) this.control.setAttribute("aria-describedby", described);
    else this.control.removeAttribute("aria-describedby");
    if (sentence) this.control.setAttribute("aria-invalid", "true");
    else this.control.removeAttribute("aria-invalid");
  }
}

/** Put the API's sentences beside their fields and the cursor into the first; return those that have no field here. */
export function complainAll(fields, errors) {
  const homeless = [];
  let first = null;
  for (const [name, sentences] of Object.entries(errors)) {
    const field = fields[name];
    if (!field) {
      homeless.push(...sentences);
      continue;
    }
    field.complain(sentences.join(" "), true);
    first ??= field;
  }
  if (first) reveal(first);
  return homeless;
}

/** Bring a field with an error before the eyes, also out of a folded part of the form. */
export function reveal(field) {
  const folded = field.control.closest("details");
  if (folded) folded.open = true;
  field.control.focus();
}
