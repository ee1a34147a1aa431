/** The page: who is here decides what is shown. */

import { send, session } from "./api.js";
import { showEntrance } from "./account.js";
import { byId, say, show } from "./dom.js";
import { TaskList } from "./tasks.js";
import { t, translate } from "./texts.js";
import { Uploads } from "./uploads.js";

let uploads = null;
let tasks = null;
let catalogue = null;

function enter() {
  show(byId("entrance"), false);
  show(byId("workplace"), true);
  show(byId("sign-out"), true);
  show(byId("who"), true);
  say(byId("who"), t("signedInAs", { email: session.email }));
  byId("content").focus({ preventScroll: true });
  begin();
}

/** Start the workplace; without the list of formats nothing can be asked for. */
async function begin() {
  const complaint = byId("formats-error");
  show(complaint, false);
  try {
    catalogue ??= await (await send("/api/formats")).json();
  } catch {
    say(complaint, `${t("noFormats")} ${t("noConnection")}`);
    show(complaint, true);
    setTimeout(() => session.active && begin(), 5000);
    return;
  }
  if (!session.active || tasks) return;
  tasks = new TaskList(catalogue);
  uploads = new Uploads(catalogue, () => tasks.arrived());
}

function leave(reason) {
  uploads?.clear();
  tasks?.stop();
  uploads = tasks = null;
  show(byId("workplace"), false);
  show(byId("sign-out"), false);
  show(byId("who"), false);
  showEntrance(enter, t(reason === "expired" ? "sessionEnded" : "signedOut"));
}

translate();
session.onEnd(leave);
byId("sign-out").addEventListener("click", async () => {
  byId("sign-out").disabled = true;
  try {
    await session.end();
  } catch (error) {
    say(byId("connection"), error.message);
    show(byId("connection"), true);
  } finally {
    byId("sign-out").disabled = false;
  }
});
if (session.active) enter();
else showEntrance(enter);
