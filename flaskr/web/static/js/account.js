/** Signing up and in. */

import { session, send } from "./api.js";
import { byId, h, say, show } from "./dom.js";
import { complainAll, Field, reveal } from "./fields.js";
import { t } from "./texts.js";

/** Show the form; `entered()` is called once the person is in. notice: why they are here, if there is a reason. */
export function showEntrance(entered, notice = "", signingUp = false) {
  const form = byId("entrance-form");
  const say_ = (text) => {
    say(byId("entrance-notice"), text);
    show(byId("entrance-notice"), Boolean(text));
  };
  say(byId("entrance-title"), t(signingUp ? "signUp" : "signIn"));
  say_(notice);

  const input = (type, autocomplete) => h("input", { type, autocomplete, required: true, maxLength: 1000 });
  const fields = signingUp
    ? {
        user: new Field(t("user"), input("text", "username")),
        email: new Field(t("email"), input("email", "email")),
        password1: new Field(t("password"), input("password", "new-password")),
        password2: new Field(t("password2"), input("password", "new-password")),
      }
    : {
        email: new Field(t("email"), input("email", "email")),
        password: new Field(t("password"), input("password", "current-password")),
      };
  for (const [name, field] of Object.entries(fields)) field.control.name = name;
  const stay = h("input", { type: "checkbox", name: "stay" });
  const button = h("button", { type: "submit" }, t(signingUp ? "signUp" : "signIn"));
  const general = h("p", { class: "error", role: "alert", hidden: true });
  const fail = (text) => {
    say(general, text);
    show(general, Boolean(text));
  };
  form.replaceChildren(...Object.values(fields).map((field) => field.element), new Field(t("stay"), stay).element, general, button);

  form.onsubmit = async (event) => {
    event.preventDefault();
    fail("");
    if (!sound(fields)) return;
    const value = (name) => fields[name].control.value;
    button.disabled = true;
    try {
      if (signingUp) {
        const json = Object.fromEntries(Object.keys(fields).map((name) => [name, value(name)]));
        await send("/api/auth/signup", { method: "POST", json });
      }
      await session.begin(value("email").trim(), value(signingUp ? "password1" : "password"), stay.checked);
      form.replaceChildren(); // no password stays in the page
      entered();
    } catch (error) {
      if (error.status === 401) {
        fields[signingUp ? "password1" : "password"].complain(t("wrong"));
        reveal(fields[signingUp ? "password1" : "password"]);
      } else {
        const homeless = complainAll(fields, error.fields ?? {});
        if (homeless.length || !Object.keys(error.fields ?? {}).length) fail(homeless.join(" ") || error.message);
      }
    } finally {
      button.disabled = false;
    }
  };

  const other = byId("entrance-switch");
  say(other, t(signingUp ? "toSignIn" : "toSignUp"));
  other.onclick = () => {
    showEntrance(entered, "", !signingUp);
    form.querySelector("input").focus();
  };
  show(byId("entrance"), true);
}

/** What can be told without asking the API; the rest it tells. */
function sound(fields) {
  let first = null;
  for (const [name, field] of Object.entries(fields)) {
    const value = field.control.value;
    let wrong = "";
    if (!value.trim()) wrong = t("needed");
    else if (name === "email" && !/^\S+@\S+$/.test(value.trim())) wrong = t("notEmail");
    else if (name === "password2" && value !== fields.password1.control.value) wrong = t("different");
    field.complain(wrong);
    if (wrong) first ??= field;
  }
  if (first) reveal(first);
  return first === null;
}
