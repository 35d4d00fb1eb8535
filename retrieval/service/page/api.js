// Talking to the service: what it is asked, what it refuses, and when to ask again.

const TRIES = 6; // of a request that the service has no time for
const LONGEST_WAIT = 60; // seconds

export class ServiceError extends Error {
  constructor(type, message, status = 0) {
    super(message);
    this.type = type;
    this.status = status;
  }
}

function address(path, collection, parameters = {}) {
  const asked = new URLSearchParams(parameters);
  if (collection) asked.set("collection", collection);
  const written = asked.toString();
  return written ? `${path}?${written}` : path;
}

async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("network", "");
  }
}

async function read(response) {
  // A proxy in between may answer with a page of its own.
  const body = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null;
  });
  if (response.ok && body) return body;
  const given = body?.error ?? {};
  const type = given.type ?? (response.status === 413 ? "request_too_large" : "other");
  throw new ServiceError(type, given.message ?? `HTTP ${response.status}`, response.status);
}

function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("given up", "AbortError"));
    });
  });
}

// Asks again where the service says that it will have time later. Others were told the same:
// a little chance keeps them from coming back all at once.
async function ask(path, options, onBusy) {
  for (let turn = 1; ; turn += 1) {
    const response = await send(path, options);
    const named = Number.parseInt(response.headers.get("retry-after"), 10);
    const isBusy = response.status === 429 || (response.status === 503 && named > 0);
    if (!isBusy || turn >= TRIES || named > LONGEST_WAIT) return read(response);
    const seconds = Math.max(1, named || turn);
    onBusy?.(seconds);
    await sleep(seconds + Math.random() / 2, options.signal);
  }
}

function json(body, signal) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
}

export function search(body, collection, { signal, onBusy }) {
  return ask(address("v1/search", collection), json(body, signal), onBusy);
}

// Pictures are Blobs; each is wanted, or to be stayed away from.
export function searchPictures(body, pictures, collection, { signal, onBusy }) {
  const form = new FormData();
  form.append("request", JSON.stringify(body));
  for (const { blob, name, not } of pictures) form.append(not ? "without_image" : "image", blob, name);
  return ask(address("v1/search/upload", collection), { method: "POST", body: form, signal }, onBusy);
}

export async function suggest(words, collection, signal) {
  const asked = address("v1/suggest", collection, { q: words, limit: 8 });
  return (await read(await send(asked, { signal }))).suggestions;
}

// None where the service is older than this page and does not tell.
export async function collections() {
  try {
    return (await read(await send("v1/collections", {}))).collections;
  } catch (error) {
    if (error instanceof ServiceError && error.status !== 401) return [];
    throw error;
  }
}

// With the key in the header, the service gives a cookie that may search: pictures need one.
export async function signIn(key) {
  let headers;
  try {
    headers = new Headers({ Authorization: `Bearer ${key}` });
  } catch {
    throw new ServiceError("unauthorized", "", 401); // no header can hold it
  }
  const response = await send("v1/session", { method: "POST", headers });
  if (!response.ok) await read(response);
}

export async function signOut() {
  await send("v1/session", { method: "DELETE" });
}
