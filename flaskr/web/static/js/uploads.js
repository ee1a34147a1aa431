/** Choosing files, foretelling what comes out of them, and sending them. */

import { ApiError, call, forgetAccess, problem, token } from "./api.js";
import { announce, byId, h, number, say, show, size } from "./dom.js";
import { described } from "./facts.js";
import { probe } from "./probe.js";
import { fitted, Settings } from "./settings.js";
import { coded, t } from "./texts.js";

const AT_ONCE = 2; // uploads side by side: more only share the same line
const MOST = 500;
const PLANNED = 30; // files whose plan is asked for; the rest are told when they are read

export class Uploads {
  /** onuploaded(task): called for every file that became a task. */
  constructor(catalogue, onuploaded) {
    this.catalogue = catalogue;
    this.onuploaded = onuploaded;
    this.inputs = new Set(catalogue.inputs);
    this.staged = [];
    this.queue = [];
    this.plans = new Map();
    this.planning = 0;
    this.send = h("button", { type: "submit", class: "main" }, t("convert"));
    this.general = h("p", { class: "error", role: "alert", hidden: true });
    this.list = h("ul", { class: "plain-list", "aria-label": t("chosen") });
    byId("staged").replaceChildren(this.list, this.general, this.send);
    byId("settings").replaceChildren();
    this.settings = new Settings(byId("settings"), catalogue, () => this.foretell());
    this.send.addEventListener("click", () => this.start());
    byId("settings").addEventListener("submit", () => this.start());
    byId("files").accept = ["audio/*", ...catalogue.inputs.map((ext) => `.${ext}`)].join(",");
    const some = ["mp3", "wav", "flac", "ogg", "m4a", "mp4"].filter((ext) => this.inputs.has(ext)).join(", ");
    say(byId("readable"), t("readable", { count: catalogue.inputs.length, some }));
    this.listen();
    this.showStaged();
  }

  listen() {
    const drop = byId("drop");
    byId("choose").onclick = () => byId("files").click();
    byId("files").onchange = () => {
      this.add([...byId("files").files]);
      byId("files").value = ""; // the same file may be chosen again
    };
    // The whole page takes drops: a file that misses the field must not replace the page.
    document.ondragover = (event) => {
      event.preventDefault();
      drop.classList.add("over");
    };
    document.ondragleave = (event) => {
      if (!event.relatedTarget) drop.classList.remove("over");
    };
    document.ondrop = (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      this.add([...event.dataTransfer.files]);
    };
    onbeforeunload = (event) => {
      if (this.queue.some((item) => item.busy)) {
        event.preventDefault();
        event.returnValue = t("leave"); // older browsers ask only when this is set
      }
    };
    addEventListener("online", () => {
      for (const item of this.queue) if (item.resumable) this.again(item);
    });
  }

  /** Stop everything: the person signed out. */
  clear() {
    onbeforeunload = document.ondrop = document.ondragover = document.ondragleave = null;
    for (const item of this.queue) this.cancel(item);
    this.queue = [];
    this.staged = [];
    byId("upload-list").replaceChildren();
    byId("staged").replaceChildren();
    byId("settings").replaceChildren();
    show(byId("uploads"), false);
  }

  add(files) {
    const room = MOST - this.staged.length;
    this.complain(files.length > room ? t("tooMany", { most: number(MOST) }) : "");
    for (const file of files.slice(0, room)) {
      const entry = { file, wrong: this.unfit(file), facts: null };
      const facts = h("p", { class: "hint" });
      entry.say = (text) => say(facts, text);
      entry.notes = h("ul", { class: "notes" });
      entry.element = h("li", { class: "file" },
        h("div", { class: "file-text" }, h("p", { class: "name" }, h("bdi", {}, file.name), " ",
          h("span", { class: "hint" }, size(file.size))),
          entry.wrong ? h("p", { class: "error" }, entry.wrong) : facts, entry.notes),
        h("button", {
          type: "button", class: "plain", "aria-label": t("removeFile", { name: file.name }),
          onclick: () => this.unstage(entry),
        }, t("remove")));
      this.staged.push(entry);
      this.list.append(entry.element);
    }
    this.showStaged();
    this.foretell();
  }

  unfit(file) {
    const dot = file.name.lastIndexOf(".");
    const extension = file.name.slice(dot + 1).toLowerCase();
    if (dot < 1 || !extension) return t("noExtension");
    if (!this.inputs.has(extension)) return t("unreadable", { ext: extension.slice(0, 16) });
    return file.size === 0 ? t("emptyFile") : "";
  }

  unstage(entry) {
    this.staged = this.staged.filter((one) => one !== entry);
    entry.element.remove();
    this.showStaged();
    byId("choose").focus();
  }

  showStaged() {
    const count = this.staged.filter((entry) => !entry.wrong).length;
    this.send.disabled = count === 0;
    say(this.send, count === 0 ? t("convert") : count === 1 ? t("convertOne") : t("convertCount", { count: number(count) }));
    show(this.list, this.staged.length > 0);
  }

  complain(text) {
    say(this.general, text);
    show(this.general, Boolean(text));
  }

  /** Ask for the plan of every chosen file, one after the other; a newer change of the settings takes over. */
  async foretell() {
    if (!this.settings) return; // the form is being built
    const round = ++this.planning;
    await new Promise((resolve) => { setTimeout(resolve, 250); });
    const settings = this.settings.value(false);
    for (const entry of this.staged.filter((one) => !one.wrong).slice(0, PLANNED)) {
      if (round !== this.planning || !settings) return;
      await this.look(entry);
      if (!entry.facts.codec) {
        entry.say(t("unplanned"));
        continue;
      }
      try {
        const plan = await this.plan(entry.facts, fitted(settings, entry.facts.durationSeconds));
        if (round === this.planning) this.showPlan(entry, plan, settings.newFormat);
      } catch (error) {
        if (round !== this.planning) return;
        entry.notes.replaceChildren();
        const sentences = Object.values(error.fields ?? {}).flat();
        entry.say(error.status === 400 ? sentences.join(" ") || error.message : t("unplanned"));
        if (error.status !== 400) return;
      }
    }
  }

  async plan(facts, { newFormat, options }) {
    const json = { probe: facts, newFormat, options };
    const key = JSON.stringify(json);
    if (!this.plans.has(key)) {
      const answer = await call("/api/formats/plan", { method: "POST", json });
      this.plans.set(key, await answer.json());
    }
    return this.plans.get(key);
  }

  showPlan(entry, plan, name) {
    const what = described(plan, this.catalogue.outputs[name].title);
    const estimate = plan.estimatedBytes;
    const text = estimate ? t("plannedSize", { what, size: size(estimate) }) : t("planned", { what });
    entry.say(plan.copied ? `${text} ${t("copied")}` : text);
    entry.notes.replaceChildren(...plan.warnings.map(({ code, message }) => {
      const [sentence, lang] = coded(code, message);
      return h("li", { lang }, sentence);
    }));
  }

  async start() {
    const settings = this.settings.checked();
    const fit = this.staged.filter((entry) => !entry.wrong);
    if (!settings || !fit.length) return;
    this.complain("");
    this.staged = this.staged.filter((entry) => entry.wrong);
    this.showStaged();
    for (const entry of fit) entry.element.remove();
    for (const entry of fit) {
      if (settings.shrinks) await this.look(entry); // how long it is decides what is asked
      this.enqueue(entry.file, fitted(settings, entry.facts?.durationSeconds));
      this.pump();
    }
  }

  /** Find out what a chosen file is, once. */
  async look(entry) {
    entry.facts ??= (await probe(entry.file).catch(() => null)) ?? {};
  }

  enqueue(file, settings) {
    const item = { file, settings, state: "waiting", tries: 0, sent: 0, resumable: false, busy: true };
    item.status = h("p", { class: "hint" });
    item.bar = h("progress", { max: 100, value: 0, "aria-label": t("progressOf", { name: file.name }) });
    item.buttons = h("div", { class: "actions" });
    item.element = h("li", { class: "file upload" },
      h("div", { class: "file-text" }, h("p", { class: "name" }, h("bdi", {}, file.name)), item.bar, item.status), item.buttons);
    this.queue.push(item);
    byId("upload-list").append(item.element);
    show(byId("uploads"), true);
    this.turn(item, "waiting", t("waiting"));
  }

  pump() {
    const running = this.queue.filter((item) => item.state === "sending").length;
    const next = this.queue.filter((item) => item.state === "waiting").slice(0, Math.max(0, AT_ONCE - running));
    for (const item of next) this.upload(item);
  }

  /** Show a new state and the buttons that belong to it. */
  turn(item, state, text, lang = null) {
    item.state = state;
    item.busy = ["waiting", "sending", "later"].includes(state);
    item.status.className = state === "failed" ? "error" : "hint";
    if (lang) item.status.lang = lang;
    else item.status.removeAttribute("lang");
    say(item.status, text);
    show(item.bar, item.busy);
    const name = item.file.name;
    const had = item.buttons.contains(document.activeElement);
    const button = (key, label, act) =>
      h("button", { type: "button", class: "plain", "aria-label": t(label, { name }), onclick: act }, t(key));
    item.buttons.replaceChildren(...(item.busy
      ? [button("cancel", "cancelName", () => this.cancel(item))]
      : [button("retry", "retryName", () => this.again(item)), button("dismiss", "dismissName", () => this.forget(item))]));
    if (had) item.buttons.firstChild.focus();
    if (state === "failed") announce(`${name}: ${text}`);
  }

  async upload(item) {
    item.resumable = false;
    item.cancelled = false;
    item.sent = 0;
    item.tries += 1;
    this.turn(item, "sending", t("sending", { done: size(0), total: size(item.file.size), percent: 0 }));
    try {
      const task = await this.post(item).catch((error) => {
        if (error.status !== 401 || item.cancelled) throw error;
        forgetAccess();
        return this.post(item);
      });
      this.forget(item);
      announce(t("uploaded", { name: item.file.name }));
      this.onuploaded(task);
    } catch (error) {
      if (item.cancelled) this.turn(item, "cancelled", t("cancelled"));
      else this.failed(item, error);
    }
    this.pump();
  }

  failed(item, error) {
    const total = item.file.size;
    if (error.status === 0) {
      // Sent in part cannot have become a task, so it goes again by itself; sent whole, it may have.
      const partly = item.sent < total;
      item.resumable = partly;
      const text = partly ? t("interrupted", { done: size(item.sent), total: size(total) }) : t("unanswered");
      if (partly && item.tries < 6 && navigator.onLine) this.later(item, text, Math.min(30, 2 ** item.tries));
      else this.turn(item, "failed", text);
    } else if ((error.status === 429 || error.status === 503) && item.tries < 20) {
      this.later(item, error.message, error.retryAfter || 5);
    } else {
      const field = this.settings.refuse(error.fields ?? {});
      this.turn(item, "failed", field.join(" ") || error.message, error instanceof ApiError && error.status > 0 ? "en" : null);
    }
  }

  later(item, reason, seconds) {
    this.turn(item, "later", t("retryIn", { reason, seconds: number(seconds) }));
    item.timer = setTimeout(() => this.again(item), seconds * 1000);
  }

  again(item) {
    clearTimeout(item.timer);
    item.resumable = false;
    this.turn(item, "waiting", t("waiting"));
    this.pump();
  }

  /** Send one file; resolves to its task. The bar shows the bytes that left this machine. */
  async post(item) {
    const bearer = await token();
    if (item.cancelled) throw new ApiError(0, t("cancelled"));
    const form = new FormData();
    form.append("filename", item.file.name);
    form.append("newFormat", item.settings.newFormat);
    for (const [name, value] of Object.entries(item.settings.options)) form.append(name, String(value));
    form.append("audio", item.file);
    const total = item.file.size;
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      item.request = request;
      request.open("POST", "/api/tasks");
      request.setRequestHeader("Authorization", `Bearer ${bearer}`);
      request.upload.onprogress = (event) => {
        item.sent = Math.min(total, event.loaded); // the form around the file is some hundred bytes
        const percent = Math.floor((100 * item.sent) / total);
        item.bar.value = percent;
        say(item.status, t("sending", { done: size(item.sent), total: size(total), percent: number(percent) }));
      };
      request.upload.onload = () => {
        item.sent = total;
        item.bar.removeAttribute("value");
        say(item.status, t("storing"));
      };
      request.onload = () => {
        if (request.status === 200) resolve(JSON.parse(request.responseText).task);
        else reject(problem(request.status, request.responseText, request.getResponseHeader("Retry-After")));
      };
      request.onerror = () => reject(new ApiError(0, t("noConnection")));
      request.onabort = () => reject(new ApiError(0, t("cancelled")));
      request.send(form);
    });
  }

  cancel(item) {
    clearTimeout(item.timer);
    item.cancelled = true;
    if (item.state === "sending") item.request?.abort();
    else if (item.busy) this.turn(item, "cancelled", t("cancelled"));
  }

  forget(item) {
    const had = item.element.contains(document.activeElement);
    this.queue = this.queue.filter((one) => one !== item);
    item.element.remove();
    show(byId("uploads"), this.queue.length > 0);
    if (had) byId("choose").focus();
  }
}
