/** The list of the person's files: read again when something has changed, which costs little to ask. */

import { call, send } from "./api.js";
import { announce, byId, h, moment, number, say, show, size } from "./dom.js";
import { asked, described } from "./facts.js";
import { Settings } from "./settings.js";
import { coded, t } from "./texts.js";
import { Waveform } from "./waveform.js";

const PAGE = 20;
const FAST = 1_000; // between two looks at the list while something converts; grows while nothing changes
const SLOW = 4_000;
const WAITING = [1_000, 15_000]; // between two questions for changes while files wait: at first, and in the end
const IDLE = [5_000, 30_000]; // nothing under way: another device may add something
const STALE = { waiting: 120_000, idle: 180_000 }; // a change may go unsaid; so the list is read now and then all the same
const OPEN = ["UPLOADED", "PROCESSING"];
const FILTERS = { stateAll: "", stateOpen: "UPLOADED,PROCESSING", PROCESSED: "PROCESSED", FAILED: "FAILED" };
const PHASES = {
  starting: "phaseStarting", downloading: "phaseDownloading", converting: "phaseConverting",
  verifying: "phaseVerifying", uploading: "phaseUploading", measuring: "phaseMeasuring",
};

export class TaskList {
  constructor(catalogue) {
    this.catalogue = catalogue;
    this.cards = new Map();
    this.trail = [""]; // where each page up to this one begins; the last is shown
    this.next = null;
    this.wait = FAST;
    this.watch = null; // the address that tells of changes, and its last word
    this.stopper = new AbortController();
    const { signal } = this.stopper;
    const state = byId("state");
    state.replaceChildren(...Object.entries(FILTERS).map(([name, value]) => h("option", { value }, t(name))));
    byId("search").value = "";
    let typing;
    const again = () => this.from([""]);
    byId("search").addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(again, 250);
    }, { signal });
    state.addEventListener("change", again, { signal });
    byId("filters").addEventListener("submit", (event) => {
      event.preventDefault();
      again();
    }, { signal });
    byId("older").addEventListener("click", () => this.next && this.from([...this.trail, this.next]), { signal });
    byId("newer").addEventListener("click", () => this.from(this.trail.slice(0, -1)), { signal });
    byId("download-all").addEventListener("click", () => this.downloadAll(), { signal });
    document.addEventListener("visibilitychange", () => !document.hidden && this.soon(), { signal });
    addEventListener("online", () => this.soon(), { signal });
    this.refresh();
  }

  stop() {
    this.stopper.abort();
    clearTimeout(this.timer);
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
    show(byId("connection"), false);
  }

  /** All converted files whose name matches the search, as one zip. */
  async downloadAll() {
    const button = byId("download-all");
    const name = byId("search").value.trim();
    button.disabled = true;
    try {
      const answer = await call("/api/tasks/archive", { method: "POST", json: name ? { name } : {} });
      follow((await answer.json()).url, "swnube.zip");
    } catch (error) {
      announce(error.message);
      say(byId("connection"), error.message);
      show(byId("connection"), true);
    } finally {
      button.disabled = false;
    }
  }

  /** A file was uploaded: it is at the top of the first page. */
  arrived() {
    if (this.trail.length > 1) this.from([""]);
    else this.soon();
  }

  /** Show another page. */
  from(trail) {
    this.trail = trail.length ? trail : [""];
    this.refresh();
  }

  soon() {
    this.wait = FAST;
    this.refresh();
  }

  get address() {
    const query = new URLSearchParams({ order: "1", max: String(PAGE) });
    if (byId("state").value) query.set("state", byId("state").value);
    if (byId("search").value.trim()) query.set("name", byId("search").value.trim());
    return this.trail.at(-1) || `/api/tasks?${query}`;
  }

  async refresh() {
    clearTimeout(this.timer);
    const round = (this.round = (this.round ?? 0) + 1);
    if (document.hidden) return; // asked again as soon as somebody looks
    const { signal } = this.stopper;
    try {
      // The word first and the list after it: a change in between is then noticed at the next question.
      if (!this.watch) this.watch = await this.beginWatch(signal);
      const answer = await call(this.address, { signal });
      const tasks = await answer.json();
      if (round !== this.round) return;
      show(byId("connection"), false);
      this.next = following(answer.headers.get("Link"));
      if (!tasks.length && this.trail.length > 1) {
        this.from(this.trail.slice(0, -1)); // the last one of this page was deleted
        return;
      }
      const changed = this.draw(tasks);
      this.wait = changed ? FAST : Math.min(SLOW, this.wait * 1.4);
      if (tasks.some((task) => task.state === "PROCESSING")) {
        this.timer = setTimeout(() => this.refresh(), this.wait); // how far it is, is in the list alone
        return;
      }
      const waiting = tasks.some((task) => OPEN.includes(task.state));
      const [first, last] = waiting ? WAITING : IDLE;
      const stale = Date.now() + (waiting ? STALE.waiting : STALE.idle);
      this.timer = setTimeout(() => this.lookForChanges(round, first, last, stale), first);
    } catch (error) {
      if (error.name === "AbortError" || round !== this.round || error.status === 401) return;
      say(byId("connection"), error.status === 0 ? t("offline") : error.message);
      show(byId("connection"), true);
      this.wait = Math.min(IDLE[1], this.wait * 2);
      this.timer = setTimeout(() => this.refresh(), Math.max(this.wait, (error.retryAfter ?? 0) * 1000));
    }
  }

  /** An address that tells cheaply whether anything changed, or null where the service cannot tell. */
  async beginWatch(signal) {
    try {
      const { url, version, expiresIn } = await (await call("/api/tasks/watch", { method: "POST", signal })).json();
      return { url, version, ends: Date.now() + expiresIn * 900 };
    } catch (error) {
      if (error.status === 503) return null;
      throw error;
    }
  }

  /** Ask whether anything changed, less and less often; the list is read again when it has, or has become old. */
  async lookForChanges(round, pause, last, stale) {
    if (round !== this.round || document.hidden) return;
    const { watch } = this;
    if (Date.now() >= stale || !watch || Date.now() >= watch.ends) {
      if (watch && Date.now() >= watch.ends) this.watch = null;
      this.refresh();
      return;
    }
    try {
      const answer = await send(watch.url, { etag: `"${watch.version}"`, signal: this.stopper.signal });
      if (answer.status !== 304) {
        watch.version = (await answer.json()).version;
        if (round === this.round) this.soon();
        return;
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      this.watch = null;
      if (round === this.round) this.refresh(); // which tells what is wrong
      return;
    }
    const next = Math.min(last, pause * 1.4);
    this.timer = setTimeout(() => this.lookForChanges(round, next, last, stale), next);
  }

  /** Bring the list in line with the tasks, card by card, so that a player goes on playing; return whether it changed. */
  draw(tasks) {
    let changed = false;
    const seen = new Set(tasks.map((task) => task.id));
    for (const [id, card] of this.cards) {
      if (seen.has(id)) continue;
      changed = true;
      card.remove();
      this.cards.delete(id);
    }
    const list = byId("tasks");
    tasks.forEach((task, index) => {
      let card = this.cards.get(task.id);
      if (!card) {
        card = new Card(task, this.catalogue, () => this.soon());
        this.cards.set(task.id, card);
      }
      changed = card.update(task) || changed;
      if (list.children[index] !== card.element) list.insertBefore(card.element, list.children[index] ?? null);
    });
    const filtered = byId("state").value || byId("search").value.trim();
    say(byId("list-empty"), t(filtered ? "noMatch" : "emptyList"));
    show(byId("list-empty"), tasks.length === 0);
    show(byId("download-all"), tasks.some((task) => task.state === "PROCESSED"));
    show(byId("paging"), this.trail.length > 1 || this.next !== null);
    byId("newer").disabled = this.trail.length === 1;
    byId("older").disabled = this.next === null;
    return changed;
  }
}

/** The path of the next page, of this very service, or null. */
function following(link) {
  const path = /<([^>]+)>;\s*rel="?next"?/.exec(link ?? "")?.[1];
  if (!path) return null;
  const address = new URL(path, location.href);
  return address.pathname + address.search;
}

/** Download what is at an address, under a name. */
function follow(url, name) {
  h("a", { href: url, download: name }).click();
}

class Card {
  constructor(task, catalogue, onchange) {
    this.catalogue = catalogue;
    this.onchange = onchange;
    const { name } = task;
    this.badge = h("span", { class: "badge" });
    this.when = h("p", { class: "hint" });
    this.asked = h("p", { class: "hint" });
    this.original = h("p", { class: "hint" });
    this.result = h("p", {});
    this.sizes = h("p", { class: "sizes" });
    this.bar = h("progress", { max: 100, "aria-label": t("progressOf", { name }) });
    this.phase = h("p", { class: "hint" });
    this.error = h("p", { class: "error" });
    this.trouble = h("p", { class: "error", role: "alert", hidden: true });
    this.players = h("div", { class: "players" });
    this.wave = new Waveform(name, (seconds) => this.listen("converted", seconds), () => this.listen("converted"));
    const button = (key, label, act, kind = "plain") =>
      h("button", { type: "button", class: kind, "aria-label": t(label, { name }), onclick: act }, t(key));
    this.download = button("download", "downloadName", () => this.save("converted"), "");
    this.play = button("play", "playName", () => this.listen("converted"));
    this.actions = h("div", { class: "actions" }, this.download, this.play,
      button("playOriginal", "playOriginalName", () => this.listen("original")),
      button("downloadOriginal", "downloadOriginalName", () => this.save("original")),
      button("convertAgain", "convertAgainName", () => this.again()),
      button("delete", "deleteName", () => this.confirm(), "plain danger"));
    this.element = h("li", { class: "task", "data-task": String(task.id) },
      h("div", { class: "task-head" }, h("h3", { tabindex: "-1" }, h("bdi", {}, name)), this.badge),
      this.wave.element, h("div", { class: "facts" }, this.asked, this.original, this.result, this.sizes), this.bar, this.phase, this.error, this.when,
      this.actions, this.trouble, this.players);
    this.watcher = new IntersectionObserver(([entry]) => {
      this.visible = entry.isIntersecting;
      this.show();
    });
    this.watcher.observe(this.element);
  }

  /** Show what the API says of the task now; return whether anything is different. */
  update(task) {
    const told = JSON.stringify(task);
    if (told === this.told) return false;
    this.told = told;
    const before = this.task;
    this.task = task;
    const title = this.catalogue.outputs[task.newFormat]?.title ?? task.newFormat;
    const done = task.state === "PROCESSED";
    const open = OPEN.includes(task.state);
    this.element.dataset.state = task.state;
    say(this.badge, t(task.state));
    say(this.asked, t("asked", { what: asked(title, task.options) }));
    const source = task.source ? described(task.source, task.originalExt.toUpperCase()) : task.originalExt.toUpperCase();
    say(this.original, t("original", { what: source }));
    show(this.result, done && task.result);
    show(this.sizes, done && task.result && task.originalBytes);
    if (done && task.result) {
      say(this.result, t("came", { what: described(task.result, title) }));
      const percent = number((100 * task.result.bytes) / task.originalBytes);
      say(this.sizes, t("sizes", { before: size(task.originalBytes), after: size(task.result.bytes), percent }));
    }
    this.showProgress(task, open);
    show(this.error, task.state === "FAILED");
    if (task.error) {
      const [sentence, lang] = coded(task.error.code, task.error.message);
      say(this.error, sentence);
      this.error.lang = lang;
    }
    say(this.when, moment(task.timestamp));
    show(this.download, done);
    show(this.play, done);
    if (before && before.attempt !== task.attempt) {
      this.stopPlayer("converted");
      this.wave.clear();
    }
    this.show();
    if (before && OPEN.includes(before.state) && !open) announce(t(done ? "done" : "failed", { name: task.name }));
    return true;
  }

  showProgress(task, open) {
    show(this.bar, open);
    show(this.phase, open);
    if (!open) return;
    const percent = task.progress?.percent ?? null;
    if (percent === null) this.bar.removeAttribute("value");
    else this.bar.value = percent;
    if (task.state === "UPLOADED") {
      say(this.phase, t("queued"));
      return;
    }
    const phase = t(PHASES[task.progress?.phase] ?? "PROCESSING");
    say(this.phase, percent === null ? phase : t("percent", { phase, percent: number(percent) }));
  }

  remove() {
    this.watcher.disconnect();
    this.stopPlayer("original");
    this.stopPlayer("converted");
    this.element.remove();
  }

  complain(text) {
    say(this.trouble, text);
    show(this.trouble, Boolean(text));
  }

  nameOf(kind) {
    const { name, convertedExt } = this.task;
    return kind === "original" ? name : `${name.slice(0, name.lastIndexOf("."))}.${convertedExt}`;
  }

  /** An address of a file that needs no token, for a while, or null: then the card says why. */
  async address(kind) {
    this.complain("");
    try {
      const answer = await call(`/api/tasks/${this.task.id}/link`, { method: "POST", json: { file: kind } });
      return (await answer.json()).url;
    } catch (error) {
      this.complain(error.message ?? t("noConnection"));
      return null;
    }
  }

  async save(kind) {
    const url = await this.address(kind);
    if (url) follow(url, this.nameOf(kind));
  }

  player(kind) {
    return this.players.querySelector(`[data-kind="${kind}"] audio`);
  }

  /** Play or pause; from: begin there, in seconds. */
  async listen(kind, from = null) {
    const there = this.player(kind);
    if (there) {
      if (from !== null) there.currentTime = from;
      if (from !== null || there.paused) await there.play().catch(() => {});
      else there.pause();
      return;
    }
    if (this.players.querySelector(`[data-kind="${kind}"]`)) return; // on its way
    const label = t(kind === "original" ? "playerOriginal" : "playerResult", { name: this.nameOf(kind) });
    const box = h("div", { class: "player", "data-kind": kind }, h("p", { class: "hint" }, label));
    this.players.append(box);
    const url = await this.address(kind);
    if (!url || !box.isConnected) {
      box.remove();
      return;
    }
    const audio = h("audio", { controls: true, preload: "auto", "aria-label": label, src: url });
    if (from !== null) audio.currentTime = from;
    if (kind === "converted") audio.addEventListener("timeupdate", () => this.wave.at(audio.currentTime));
    this.mend(audio, kind);
    box.append(audio);
    if (from === null) audio.focus();
    audio.play().catch(() => {}); // not every browser starts by itself; the controls are there
  }

  /** An address lives for minutes, a listener may pause for longer: then the player goes on with a new one. */
  mend(audio, kind) {
    let heard = false;
    audio.addEventListener("canplay", () => {
      heard = true;
    });
    audio.addEventListener("error", async () => {
      const [at, playing] = [audio.currentTime, !audio.paused];
      const url = heard ? await this.address(kind) : null;
      heard = false;
      if (!url) {
        audio.replaceWith(h("p", { class: "hint", role: "status" }, t("unplayable")));
        return;
      }
      audio.src = url;
      audio.currentTime = at;
      if (playing) audio.play().catch(() => {});
    });
  }

  stopPlayer(kind) {
    this.player(kind)?.pause();
    this.players.querySelector(`[data-kind="${kind}"]`)?.remove();
  }

  /** Draw the result's waveform when the card comes into view, once for each attempt. */
  show() {
    const { task } = this;
    if (!this.visible || !task.waveform || this.drawn === task.attempt) return;
    this.drawn = task.attempt;
    call(`/api/tasks/${task.id}/waveform`).then((answer) => answer.json()).then((picture) => {
      if (this.task.attempt === task.attempt) this.wave.draw(picture, task.result.durationSeconds);
    }).catch(() => {
      this.drawn = null; // it is a picture: the next look tries again
    });
  }

  /** Ask for another conversion of the original; the plan is told before it is sent. */
  again() {
    const { id, name } = this.task;
    const form = h("form", { novalidate: "" });
    const plan = h("p", { class: "hint", role: "status" });
    const notes = h("ul", { class: "notes" });
    const trouble = h("p", { class: "error", role: "alert", hidden: true });
    const send = h("button", { type: "submit" }, t("convert"));
    let round = 0;
    let settings = null;
    const foretell = async () => {
      const wish = settings?.value(false);
      const mine = ++round;
      if (!wish) return;
      const { shrinks: _shrinks, ...json } = wish;
      let text = t("unplanned");
      let warnings = [];
      try {
        const answer = await (await call("/api/formats/plan", { method: "POST", json: { ...json, task: id } })).json();
        const what = described(answer, this.catalogue.outputs[wish.newFormat].title);
        text = answer.estimatedBytes ? t("plannedSize", { what, size: size(answer.estimatedBytes) }) : t("planned", { what });
        if (answer.copied) text += ` ${t("copied")}`;
        warnings = answer.warnings;
      } catch (error) {
        if (error.status === 400) text = Object.values(error.fields).flat().join(" ") || error.message;
      }
      if (mine !== round) return;
      say(plan, text);
      notes.replaceChildren(...warnings.map(({ code, message }) => {
        const [sentence, lang] = coded(code, message);
        return h("li", { lang }, sentence);
      }));
    };
    settings = new Settings(form, this.catalogue, foretell, this.task);
    form.append(plan, notes, trouble);
    const dialog = openDialog(t("convertAgainName", { name }), form, send);
    foretell();
    form.addEventListener("submit", async () => {
      const wish = settings.checked();
      if (!wish) return;
      send.disabled = true;
      try {
        await call(`/api/tasks/${id}`, { method: "PUT", json: { newFormat: wish.newFormat, ...wish.options } });
        dialog.close();
        this.onchange();
      } catch (error) {
        const homeless = settings.refuse(error.fields ?? {});
        const text = homeless.join(" ") || (Object.keys(error.fields ?? {}).length ? "" : error.message);
        say(trouble, text);
        show(trouble, Boolean(text));
      } finally {
        send.disabled = false;
      }
    });
  }

  confirm() {
    const { id, name } = this.task;
    const form = h("form", { method: "dialog" }, h("p", {}, t("deleteText", { name })));
    const trouble = h("p", { class: "error", role: "alert", hidden: true });
    const yes = h("button", { type: "submit", class: "danger-main" }, t("delete"));
    form.append(trouble);
    const dialog = openDialog(t("deleteTitle"), form, yes, t("keep"));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      yes.disabled = true;
      try {
        await call(`/api/tasks/${id}`, { method: "DELETE" }).catch((error) => {
          if (error.status !== 404) throw error; // gone already, from elsewhere
        });
        const neighbour = this.element.nextElementSibling ?? this.element.previousElementSibling;
        dialog.close();
        this.remove();
        (neighbour?.querySelector("h3") ?? byId("list-title")).focus();
        announce(t("deleted", { name }));
        this.onchange();
      } catch (error) {
        say(trouble, error.message);
        show(trouble, true);
        yes.disabled = false;
      }
    });
  }
}

/** A modal dialog around a form; Escape and the second button close it, and the focus goes back to where it was. */
function openDialog(title, form, confirm, dismiss = t("close")) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const close = h("button", { type: "button", class: "plain", onclick: () => dialog.close() }, dismiss);
  form.append(h("div", { class: "actions" }, confirm, close));
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, heading, form);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
