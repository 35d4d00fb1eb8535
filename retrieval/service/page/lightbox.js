// One picture, large, with what is known about it.

import { $, make } from "./dom.js";
import { TILE, describeNames, describeRest, isSmall, nameOf, tagsOf, thumbnail } from "./hits.js";
import { percent, text } from "./texts.js";

const NAMES = 6; // of a picture, shown at once; further languages unfold

const lightbox = $("lightbox");
let hits = () => []; // those of the latest answer
let makeTag = (words) => words;
let opened = 0; // the place of the one that is shown

export function isOpen() {
  return lightbox.open;
}

export function close() {
  lightbox.close();
}

export function open(index) {
  // An entry in the history, because on a phone "back" is how one closes a picture.
  if (!lightbox.open) {
    history.pushState({ picture: true }, "", location.href);
    lightbox.showModal();
    lightbox.focus(); // not one of its buttons: arrow keys are for the picture
  }
  show(index);
}

export function step(by) {
  const index = opened + by;
  if (index >= 0 && index < hits().length) show(index);
}

function show(index) {
  opened = index;
  const hit = hits()[index];
  const name = nameOf(hit);
  showFull(hit, name.words);
  $("original").href = hit.image_url;
  const heading = $("lightbox-title");
  heading.textContent = name.words;
  heading.lang = name.lang ?? "";
  const line = [`${text.score} ${hit.score.toFixed(4)}`, `${hit.rank} / ${hits().length}`];
  if (typeof hit.probability === "number") line.splice(1, 0, text.likely(percent(hit.probability)));
  $("lightbox-score").textContent = line.join(" · ");
  $("lightbox-score").title = text.scoreHint;
  $("lightbox-tags").replaceChildren(...tagsOf(hit).map((tag) => make("li", {}, makeTag(tag))));
  const names = describeNames(hit);
  $("lightbox-names").replaceChildren(...names.slice(0, NAMES).flat());
  $("lightbox-more-names").replaceChildren(...names.slice(NAMES).flat());
  $("lightbox-more").hidden = names.length <= NAMES;
  $("lightbox-about").replaceChildren(...describeRest(hit));
  $("facts").scrollTop = 0;
  $("previous").disabled = index === 0;
  $("next").disabled = index === hits().length - 1;
  // A button that is switched off loses the focus, which has to stay in the dialog.
  if (!lightbox.contains(document.activeElement)) lightbox.focus();
}

// The tile's picture at once, and the original in its place when it has come.
function showFull(hit, words) {
  const full = make("img", { id: "full", alt: words });
  const missing = $("full-missing");
  const original = new Image();
  full.addEventListener("load", () => full.classList.toggle("small", isSmall(full)));
  full.addEventListener("error", () => {
    full.hidden = true;
    missing.hidden = false;
  });
  original.addEventListener("load", () => (full.src = original.src));
  // Browsers cannot show every format that can be indexed; thumbnails are WebP.
  original.addEventListener("error", () => (full.src = thumbnail(hit, 1024)));
  missing.hidden = true;
  $("full").replaceWith(full);
  full.src = thumbnail(hit, TILE);
  original.src = hit.image_url;
}

// Args: hits gives those of the latest answer; tag makes a link of a tag; like(row, not) goes on
// with the picture as a term; closed(index) comes after the last look.
export function listen({ hits: given, tag, like, closed }) {
  hits = given;
  makeTag = tag;
  lightbox.addEventListener("click", (event) => {
    if (event.target === lightbox) lightbox.close(); // the backdrop
  });
  lightbox.addEventListener("close", () => {
    if (history.state?.picture) history.back();
    closed(opened);
  });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => lightbox.close());
  $("more-like").addEventListener("click", () => like(hits()[opened].row, false));
  $("less-like").addEventListener("click", () => like(hits()[opened].row, true));
}
