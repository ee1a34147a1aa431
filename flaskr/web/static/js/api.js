/**
 * The session and every call to the API.
 *
 * The access token lives in this module's memory alone. The refresh token is what survives a reload: in this tab's
 * sessionStorage, or in localStorage when the person asked to stay signed in. The page's policy lets no script run
 * but its own files, so nothing else on it can read either; signing out ends the session on the server as well.
 */

import { t } from "./texts.js";

const KEY = "swnube.session";

let access = null;
let renewAt = 0; // before the token's end, so that a call on its way does not meet it
let refresh = read();
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
    return JSON.parse(sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "null");
  } catch {
    return null; // storage is shut off in this browser: the session lives as long as the page
  }
}

function store(session, stay) {
  refresh = session;
  try {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
    if (session) (stay ? localStorage : sessionStorage).setItem(KEY, JSON.stringify(session));
  } catch {
    // as above
  }
}

export const session = {
  get active() {
    return refresh !== null;
  },
  get email() {
    return refresh?.email ?? "";
  },
  /** Call `listener(reason)` whenever the session ends: "out" or "expired". */
  onEnd(listener) {
    listeners.add(listener);
  },
  async begin(email, password, stay) {
    const answer = await send("/api/auth/login", { method: "POST", json: { email, password } });
    const body = await answer.json();
    take(body);
    store({ token: body.refreshToken, email }, stay);
  },
  async end() {
    // While the API cannot be told, the session stays: a sign-out that only looks like one is none.
    const answer = await call("/api/auth/logout", { method: "POST" }).catch((error) => {
      if (error.status === 401) return null;
      throw error;
    });
    await answer?.text();
    close("out");
  },
};

function close(reason) {
  access = null;
  store(null, false);
  for (const listener of listeners) listener(reason);
}

// Signed out in another tab: this one follows.
addEventListener("storage", (event) => {
  if (event.key === KEY && event.newValue === null && refresh && !sessionStorage.getItem(KEY)) close("out");
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
    if (!refresh) throw new ApiError(401, t("sessionEnded"));
    try {
      const answer = await send("/api/auth/refresh", { method: "POST", bearer: refresh.token });
      const body = await answer.json();
      take(body);
      // Each refresh token is good for one use: its successor takes its place, where it was kept.
      store({ ...refresh, token: body.refreshToken }, localStorage.getItem(KEY) !== null);
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
export async function send(path, { method = "GET", json, bearer, signal } = {}) {
  const headers = {};
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method, headers, signal, credentials: "omit", body: json === undefined ? undefined : JSON.stringify(json),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, t("noConnection"));
  }
  if (answer.ok) return answer;
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
