// What stands in place of pictures: nothing found, something wrong, a key that is needed.

import { signIn, signOut } from "./api.js";
import { $ } from "./dom.js";
import { text } from "./texts.js";

// Faults of what was asked; trying the same again would not help.
const ASKERS = [
  "query_too_long", "invalid_query", "invalid_request", "collection_not_found", "picture_unreadable",
  "picture_too_large", "request_too_large", "not_found", "forbidden", "no_picture",
];
const SIGNED_IN = "clip-text signed in"; // whether there is a cookie that no script can see

let act = () => {};

export function hide() {
  $("notice").hidden = true;
  $("key").hidden = true;
}

// The action is {label, run}, or null.
export function show(heading, words, { detail = "", action = null } = {}) {
  hide();
  $("notice-title").textContent = heading;
  $("notice-text").textContent = words;
  $("notice-detail").textContent = detail;
  $("retry").hidden = !action;
  if (action) {
    $("retry").textContent = action.label;
    act = action.run;
  }
  $("notice").hidden = false;
}

export function showError(error, retry) {
  if (error.status === 401) {
    askForKey();
    return;
  }
  const [heading, words] = text.errors[error.type] ?? text.errors.other;
  const action = ASKERS.includes(error.type) ? null : { label: text.retry, run: retry };
  show(heading, words, { detail: error.message, action });
}

export function askForKey() {
  hide();
  $("key-wrong").textContent = "";
  $("key").hidden = false;
  $("key-entry").focus();
}

function remember(isSignedIn) {
  try {
    if (isSignedIn) localStorage.setItem(SIGNED_IN, "yes");
    else localStorage.removeItem(SIGNED_IN);
  } catch {
    // Where nothing may be stored, the button shows until the page is left.
  }
  $("sign-out").hidden = !isSignedIn;
}

function wasSignedIn() {
  try {
    return localStorage.getItem(SIGNED_IN) !== null;
  } catch {
    return false;
  }
}

// entered() comes when the service has taken a key, left() when it has forgotten it.
export function listen({ entered, left }) {
  $("retry").addEventListener("click", () => act());
  $("sign-out").hidden = !wasSignedIn();
  $("sign-out").addEventListener("click", async () => {
    await signOut().catch(() => {});
    remember(false);
    left();
  });
  $("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const entry = $("key-entry");
    const key = entry.value.trim();
    if (!key) return;
    try {
      await signIn(key);
    } catch (error) {
      const [heading] = text.errors[error.type] ?? text.errors.other;
      $("key-wrong").textContent = error.status === 401 ? text.keyWrong : heading;
      entry.select();
      return;
    }
    entry.value = "";
    remember(true);
    hide();
    entered();
  });
}
