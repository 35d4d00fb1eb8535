// The grid of tiles, and moving in it with the keyboard.

import { $, make } from "./dom.js";
import { TILE, isSmall, nameOf, thumbnail } from "./hits.js";
import { text } from "./texts.js";

const grid = $("grid");

export function clear() {
  grid.replaceChildren();
  delete grid.dataset.filled;
}

export function isEmpty() {
  return !grid.childElementCount;
}

export function showGhosts() {
  grid.replaceChildren(...Array.from({ length: 12 }, () => make("li", { class: "ghost", "aria-hidden": "true" })));
}

export function setBusy(busy) {
  grid.setAttribute("aria-busy", String(busy));
}

// Appends tiles; the first of them has the given place.
export function add(hits, place, open) {
  if (!place) clear();
  grid.append(...hits.map((hit, index) => make("li", {}, makeTile(hit, place + index, open))));
  grid.dataset.filled = "";
}

function makeTile(hit, index, open) {
  const name = nameOf(hit);
  const score = hit.score.toFixed(3);
  const frame = make("span", { class: "frame" });
  const image = make("img", {
    alt: "", // the tile says it
    loading: index < 12 ? "eager" : "lazy",
    decoding: "async",
    src: thumbnail(hit, TILE),
  });
  // Drawings lose their outline when cropped, and small pictures blur when enlarged.
  if (hit.metadata.emoji) frame.classList.add("whole");
  image.addEventListener("load", () => {
    if (isSmall(image)) frame.classList.add("whole");
  });
  image.addEventListener("error", () => {
    frame.classList.add("lost");
    frame.append(make("span", { class: "lost-note" }, text.missing));
  });
  frame.append(image);
  const bar = make("span", { class: "bar" });
  bar.style.setProperty("--share", Math.max(0, Math.min(1, hit.score)));
  const tile = make(
    "button",
    {
      class: "tile",
      type: "button",
      tabindex: index ? -1 : 0,
      "aria-label": `${hit.rank}. ${name.words}, ${text.score} ${score}`,
    },
    frame,
    make(
      "span",
      { class: "words" },
      make("span", { class: "caption", lang: name.lang, title: name.words }, name.words),
      make("span", { class: "measure", title: text.scoreHint }, bar, score),
    ),
  );
  tile.addEventListener("click", () => open(index));
  return tile;
}

function tiles() {
  return grid.getElementsByClassName("tile"); // live: a thousand of them are not copied
}

export function focus(index) {
  const tile = tiles()[index];
  if (!tile) return false;
  for (const other of grid.querySelectorAll('.tile[tabindex="0"]')) other.setAttribute("tabindex", -1);
  tile.setAttribute("tabindex", 0);
  tile.focus();
  tile.scrollIntoView({ block: "nearest" });
  return true;
}

function columns(all) {
  const top = all[0].parentElement.offsetTop;
  let number = 1;
  while (number < all.length && all[number].parentElement.offsetTop === top) number += 1;
  return number;
}

// Goes back to the box above the first row.
export function listen(leave) {
  grid.addEventListener("keydown", (event) => {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    const all = tiles();
    const from = [...grid.children].indexOf(tile.parentElement);
    const row = columns(all);
    const to = {
      ArrowLeft: from - 1,
      ArrowRight: from + 1,
      ArrowUp: from - row,
      ArrowDown: from + row,
      Home: 0,
      End: all.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (focus(to)) return;
    if (event.key === "ArrowUp") leave();
    // The last row may be shorter than the one above it.
    else if (event.key === "ArrowDown" && Math.floor(from / row) < Math.floor((all.length - 1) / row)) {
      focus(all.length - 1);
    }
  });
}
