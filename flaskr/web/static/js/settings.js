/** The form for format and options, built from GET /api/formats: it offers only what the chosen format takes. */

import { h } from "./dom.js";
import { complainAll, Field, reveal } from "./fields.js";
import { locale, t } from "./texts.js";

const SOUND = ["bitrateKbps", "quality", "sampleRateHz", "channels", "bitDepth"];
const PART = ["startSeconds", "endSeconds", "fadeInSeconds", "fadeOutSeconds", "loudnessLufs", "keepMetadata", "keepCover"];

/** shrinks: where the recording is shorter than the preset's end, the whole of it is meant. */
const PRESETS = {
  presetPodcast: { newFormat: "mp3", options: { bitrateKbps: 96, channels: 1, loudnessLufs: -16 } },
  presetArchive: { newFormat: "flac", options: {} },
  presetRingtone: { newFormat: "m4a", options: { endSeconds: 30, fadeInSeconds: 1, fadeOutSeconds: 2 }, shrinks: true },
  presetCd: { newFormat: "wav", options: { sampleRateHz: 44100, bitDepth: 16, channels: 2 } },
};

export class Settings {
  /** form: an empty form. onchange: called after every change. The button that sends is the owner's. */
  constructor(form, catalogue, onchange, initial = null) {
    this.outputs = catalogue.outputs;
    this.onchange = onchange;
    this.fields = {};
    this.opened = new Set(); // what the person unfolded
    this.format = h("select", { onchange: () => this.pick(this.format.value, this.rest(), "") });
    for (const [name, entry] of Object.entries(this.outputs)) {
      this.format.append(h("option", { value: name }, `${entry.title} (.${entry.extension})`));
    }
    const possible = Object.entries(PRESETS).filter(([, preset]) => preset.newFormat in this.outputs);
    this.preset = h("select", { onchange: () => this.choosePreset() }, h("option", { value: "" }, t("presetNone")),
      ...possible.map(([name]) => h("option", { value: name }, t(name))));
    this.formatField = new Field(t("to"), this.format);
    this.options = h("div", {});
    form.append(h("div", { class: "grid" }, this.formatField.element, new Field(t("preset"), this.preset).element), this.options);
    form.addEventListener("submit", (event) => event.preventDefault());
    const begin = initial?.newFormat in this.outputs ? initial : { newFormat: Object.keys(this.outputs)[0], options: {} };
    this.pick(begin.newFormat, begin.options, "");
  }

  choosePreset() {
    const preset = PRESETS[this.preset.value];
    if (preset) this.pick(preset.newFormat, preset.options, this.preset.value);
    else this.pick(this.format.value, {}, "");
  }

  /** What is filled in and may mean the same in another format: the part, the fades, the loudness. */
  rest() {
    const { options } = this.value(false) ?? { options: {} };
    return Object.fromEntries(Object.entries(options).filter(([name]) => PART.includes(name)));
  }

  pick(newFormat, values, preset) {
    this.format.value = this.built = newFormat; // the select runs ahead of the fields while it changes
    this.preset.value = preset;
    const known = this.outputs[newFormat].options;
    this.fields = {};
    const build = (name) => (name in known ? this.field(name, known[name], values[name]) : null);
    // Every format has sensible values of its own, and a preset says what it is: the rest is folded away until somebody
    // wants to change it.
    const folded = (title, names) => {
      const open = this.opened.has(title) || (!preset && names.some((name) => values[name] !== undefined));
      const note = (event) => this.opened[event.currentTarget.parentNode.open ? "delete" : "add"](title); // before it turns
      return h("details", { open }, h("summary", { onclick: note }, t(title)), h("div", { class: "grid" }, ...names.map(build)));
    };
    this.options.replaceChildren(folded("quality", SOUND), folded("part", PART));
    this.onchange();
  }

  field(name, spec, value) {
    const changed = () => {
      this.preset.value = ""; // from here on it is the person's own choice
      this.onchange();
    };
    const label = name === "quality" ? t("qualityOption", { best: spec.best }) : t(name);
    let field;
    if (spec.type === "boolean") {
      field = new Field(label, h("input", { type: "checkbox", checked: value ?? spec.default, onchange: changed }));
    } else if (spec.values) {
      const select = h("select", { onchange: changed }, h("option", { value: "" }, t("automatic")),
        ...spec.values.map((one) => h("option", { value: String(one) }, choice(name, one))));
      select.value = value === undefined ? "" : String(value);
      field = new Field(label, select);
    } else {
      const input = h("input", {
        type: "text", inputmode: "decimal", autocomplete: "off", onchange: changed, placeholder: t("automatic"),
        value: value === undefined ? "" : plain(value),
      });
      const range = t("range", { low: shown(spec.minimum), high: shown(spec.maximum) });
      field = new Field(label, input, range);
    }
    this.fields[name] = field;
    return field.element;
  }

  /** Return {newFormat, options, shrinks}, or null where a field is wrong, which `complaining` shows. */
  value(complaining = true) {
    const known = this.outputs[this.built].options;
    const options = {};
    const wrong = {};
    for (const [name, field] of Object.entries(this.fields)) {
      const { control } = field;
      if (control.type === "checkbox") {
        if (control.checked !== known[name].default) options[name] = control.checked;
        continue;
      }
      const text = control.value.trim().replace(",", ".");
      if (!text) continue;
      const value = Number(text);
      if (!Number.isFinite(value)) wrong[name] = t("notNumber");
      else if (value < known[name].minimum || value > known[name].maximum) {
        wrong[name] = t("outOfRange", { low: shown(known[name].minimum), high: shown(known[name].maximum) });
      } else options[name] = value;
    }
    if (options.bitrateKbps !== undefined && options.quality !== undefined) wrong.quality = t("oneOfTwo");
    if (options.endSeconds !== undefined && options.endSeconds <= (options.startSeconds ?? 0)) {
      wrong.endSeconds = t("endBeforeStart");
    }
    const names = Object.keys(wrong);
    if (complaining) {
      for (const [name, field] of Object.entries(this.fields)) field.complain(wrong[name] ?? "");
    }
    if (!names.length) {
      return { newFormat: this.built, options, shrinks: PRESETS[this.preset.value]?.shrinks ?? false };
    }
    if (complaining) this.firstWrong = this.fields[names[0]];
    return null;
  }

  /** Like `value`, and puts the cursor into the first wrong field. */
  checked() {
    const value = this.value();
    if (!value) reveal(this.firstWrong);
    return value;
  }

  /** Show what the API refused; returns the sentences that belong to no field. */
  refuse(errors) {
    return complainAll({ ...this.fields, newFormat: this.formatField }, errors);
  }
}

/** What is asked of one file: a preset's end that lies behind a short recording's own is dropped. */
export function fitted({ newFormat, options, shrinks }, durationSeconds) {
  if (!shrinks || durationSeconds === undefined || durationSeconds > options.endSeconds) return { newFormat, options };
  const { endSeconds: _dropped, ...rest } = options;
  if (durationSeconds > 4) return { newFormat, options: rest };
  const { fadeInSeconds: _in, fadeOutSeconds: _out, ...bare } = rest; // too short for fades
  return { newFormat, options: bare };
}

function choice(name, value) {
  if (name === "channels") return t(`channels${value}`);
  return name === "sampleRateHz" ? shown(value) : String(value);
}

function shown(value) {
  return new Intl.NumberFormat(locale, { maximumFractionDigits: 3 }).format(value);
}

function plain(value) {
  return new Intl.NumberFormat(locale, { maximumFractionDigits: 6, useGrouping: false }).format(value);
}
