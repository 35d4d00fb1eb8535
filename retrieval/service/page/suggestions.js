// What is suggested while one types: a listbox of the box, worked by mouse and arrow keys.

import { suggest } from "./api.js";
import { $, make } from "./dom.js";
import { clip, count, text } from "./texts.js";

const PAUSE = 120; // milliseconds of no typing before the service is asked
const LONGEST = 60; // characters; what is longer describes a picture, and nothing completes it

const input = $("query");
const list = $("suggestions");
let timer = 0;
let asking = null; // the AbortController of what was asked last
let chosen = -1;
let isThere = true; // until the service says that it has no suggestions

export function isOpen() {
  return !list.hidden;
}

export function close() {
  clearTimeout(timer);
  asking?.abort();
  asking = null;
  list.hidden = true;
  choose(-1);
  input.setAttribute("aria-expanded", "false");
}

// Never while an input method is open: its letters are no words yet.
export function typed(words, collection) {
  clearTimeout(timer);
  asking?.abort();
  asking = null;
  if (!isThere || !words.trim() || words.length > LONGEST) {
    close();
    return;
  }
  timer = setTimeout(() => look(words.trim(), collection), PAUSE);
}

async function look(words, collection) {
  const mine = new AbortController();
  asking = mine;
  try {
    const found = await suggest(words, collection, mine.signal);
    if (asking === mine) show(found.filter((each) => each.text !== words));
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status === 404 && error.type === "not_found") isThere = false; // an older service
    if (asking === mine) close(); // they are a help, and no more
  }
}

function show(found) {
  list.replaceChildren(...found.map(makeOption));
  list.hidden = !found.length || document.activeElement !== input;
  input.setAttribute("aria-expanded", String(!list.hidden));
  list.scrollTop = 0;
  choose(-1);
}

function makeOption({ text: words, kind, count: pictures }, place) {
  const about = [text.suggested[kind] ?? kind, pictures > 1 ? count(pictures) : ""].filter(Boolean).join(" ");
  return make(
    "li",
    { role: "option", id: `suggestion-${place}`, "aria-selected": "false", "data-words": words },
    make("span", { class: "suggested" }, clip(words, 60)),
    make("span", { class: "kind" }, about),
  );
}

function choose(place) {
  chosen = place;
  [...list.children].forEach((option, index) => option.setAttribute("aria-selected", String(index === place)));
  if (place < 0) input.removeAttribute("aria-activedescendant");
  else {
    input.setAttribute("aria-activedescendant", `suggestion-${place}`);
    list.children[place].scrollIntoView({ block: "nearest" });
  }
}

export function words() {
  return chosen < 0 ? null : list.children[chosen].dataset.words;
}

// Takes the arrow keys while the list is open; true if it took one.
export function takeKey(key) {
  if (!isOpen()) return false;
  const last = list.childElementCount - 1;
  if (key === "ArrowDown") choose(chosen >= last ? -1 : chosen + 1);
  else if (key === "ArrowUp") choose(chosen < 0 ? last : chosen - 1);
  else return false;
  return true;
}

export function listen(take) {
  // On pointerdown, the box would lose the focus and the list go before the click.
  list.addEventListener("pointerdown", (event) => event.preventDefault());
  list.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) take(option.dataset.words);
  });
  input.addEventListener("blur", close);
}
