/**
 * The session and every call to the API.
 *
 * The access token lives in this module's memory alone, the refresh token in a cookie that no script can read and that
 * goes to /api/auth only. What is stored is who is signed in: no secret, but enough to know whether to try the cookie,
 * and to follow when another tab signs out or somebody else in.
 */

import { t } from "./texts.js";

const KEY = "swnube.session";
const COOKIE = { "X-Refresh-In": "cookie" };

let access = null;
let renewAt = 0; // before the token's end, so that a call on its way does not meet it
let email = read();
let renewing = null;
const listeners = new Set();

/** What the API, or the way to it, said no with. status: 0 when no answer came. fields: sentences by field. */
export class ApiError extends Error {
  constructor(status, message, fields = {}, retryAfter = 0) {
    super(message);
    this.status = status;
    this.fields = fields;
    this.retryAfter = retryAfter;
  }
}

function read() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // storage is shut off in this browser: the session lives as long as the page
  }
}

function remember(who) {
  email = who;
  try {
    if (who) localStorage.setItem(KEY, who);
    else localStorage.removeItem(KEY);
  } catch {
    // as above
  }
}

/** One at a time in all tabs: a refresh token is good for one use, and a second one ends the session. */
function alone(act) {
  return navigator.locks ? navigator.locks.request("swnube-refresh", act) : act();
}

export const session = {
  get active() {
    return email !== null;
  },
  get email() {
    return email ?? "";
  },
  /** Call `listener(reason)` whenever the session ends: "out" or "expired". */
  onEnd(listener) {
    listeners.add(listener);
  },
  async begin(who, password, stay) {
    const json = { email: who, password, refreshIn: "cookie", stay };
    const answer = await alone(() => send("/api/auth/login", { method: "POST", json, cookie: true }));
    take(await answer.json());
    remember(who);
  },
  async end() {
    // While the API cannot be told, the session stays: a sign-out that only looks like one is none.
    await alone(() => send("/api/auth/logout", { method: "POST", cookie: true }).catch((error) => {
      if (error.status !== 401) throw error;
    }));
    close("out");
  },
};

function close(reason) {
  access = null;
  remember(null);
  for (const listener of listeners) listener(reason);
}

// The cookie is all tabs': signed out in another one, or somebody else in, this one follows.
addEventListener("storage", (event) => {
  if (event.key !== KEY || email === null || event.newValue === email) return;
  if (event.newValue === null) close("out");
  else location.reload();
});

function take(body) {
  access = body.token;
  renewAt = Date.now() + body.expiresIn * 1000 - Math.min(60_000, body.expiresIn * 250);
}

/** Return an access token that lives for a while; concurrent callers share one renewal. */
export async function token() {
  if (access && Date.now() < renewAt) return access;
  return renew();
}

function renew() {
  renewing ??= (async () => {
    if (!email) throw new ApiError(401, t("sessionEnded"));
    try {
      // keepalive: a reload in the middle must not lose the next cookie.
      const ask = () => send("/api/auth/refresh", { method: "POST", cookie: true, keepalive: true });
      take(await (await alone(ask)).json());
      return access;
    } catch (error) {
      if (error.status === 401) close("expired");
      throw error;
    }
  })().finally(() => {
    renewing = null;
  });
  return renewing;
}

/** Drop the access token: the next call gets a new one. */
export function forgetAccess() {
  access = null;
}

/** Call the API as the signed-in person; a token that died in between is renewed once. Raises ApiError. */
export async function call(path, options = {}) {
  const bearer = await token();
  try {
    return await send(path, { ...options, bearer });
  } catch (error) {
    if (error.status !== 401) throw error;
    forgetAccess();
    return send(path, { ...options, bearer: await renew() });
  }
}

/** One request. Raises ApiError for everything that is not a success. */
export async function send(path, { method = "GET", json, bearer, cookie = false, keepalive = false, etag, signal } = {}) {
  const headers = cookie ? { ...COOKIE } : {};
  if (etag) headers["If-None-Match"] = etag;
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method, headers, signal, keepalive, credentials: cookie ? "same-origin" : "omit", cache: "no-store",
      body: json === undefined ? undefined : JSON.stringify(json),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, t("noConnection"));
  }
  if (answer.ok || answer.status === 304) return answer;
  throw problem(answer.status, await answer.text().catch(() => ""), answer.headers.get("Retry-After"));
}

/** The ApiError of an answer; balancers answer in other shapes than the API. */
export function problem(status, text, retryAfter) {
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // not the API's own answer
  }
  const message = body?.error ?? body?.detail ?? t("status", { status });
  return new ApiError(status, message, body?.errors ?? {}, Number(retryAfter) || 0);
}
