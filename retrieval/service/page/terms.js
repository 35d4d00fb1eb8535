// The chips of a query: what is looked for, what is stayed away from, and what filters it.

import { $, icon, make } from "./dom.js";
import { nameOfRow, thumbnailOf } from "./hits.js";
import { find, preview } from "./pictures.js";
import { isSame, looksFor, turned, withFilter, withTerms, withoutFilter, withoutTerm } from "./query.js";
import { clip, text } from "./texts.js";

const PREVIEW = 64; // pixels of a chip's picture

const list = $("terms");

// The box says a text that stands alone; only with something beside it is it a chip as well.
export function show(query, go) {
  const chips = query.terms.map((term) => makeTerm(query, term, go));
  if (query.text && chips.length) chips.unshift(makeTyped(query, go));
  chips.push(...query.filters.map((filter) => makeFilter(query, filter, go)));
  list.replaceChildren(...chips);
  list.hidden = !chips.length;
  const lost = query.terms.some((term) => term.kind === "picture" && !find(term.value));
  $("lost").hidden = !lost;
}

function label(term, collection) {
  if (term.kind === "text") return term.value;
  if (term.kind === "like") {
    const name = nameOfRow(term.value, collection);
    return name ? text.term.like(clip(name, 20)) : text.term.row(term.value);
  }
  const picture = find(term.value);
  return picture ? text.term.picture(clip(picture.name, 24)) : text.term.lost;
}

// In a few words: the text, or what else is looked for.
export function describe(query, { quoted = false } = {}) {
  const wanted = query.terms.filter((term) => !term.not);
  const words = [query.text, ...wanted.filter(({ kind }) => kind === "text").map(({ value }) => value)].filter(Boolean).join(" ");
  const number = wanted.filter(({ kind }) => kind !== "text").length;
  const shown = quoted ? text.quoted(clip(words, 40)) : words;
  if (!number) return shown;
  return words ? `${shown} + ${text.pictures(number)}` : text.pictures(number);
}

function makeTyped(query, go) {
  const away = withTerms({ ...query, text: "" }, [{ kind: "text", value: query.text, not: true }]);
  return makeChip({
    name: query.text,
    not: false,
    turn: looksFor(away) ? () => go(away) : null,
    remove: () => go({ ...query, text: "" }),
  });
}

function makeTerm(query, term, go) {
  const other = turned(query, term);
  const isLost = term.kind === "picture" && !find(term.value);
  return makeChip({
    name: label(term, query.collection),
    drawing: drawingOf(term, query.collection),
    not: term.not,
    isLost,
    turn: looksFor(other) && !isLost ? () => go(other) : null,
    remove: () => go(withoutTerm(query, term)),
  });
}

function drawingOf(term, collection) {
  if (term.kind === "text") return null;
  if (term.kind === "like") return make("img", { src: thumbnailOf(term.value, collection, PREVIEW), alt: "" });
  return preview(term.value) ?? icon("picture");
}

function makeFilter(query, filter, go) {
  const field = text.facts[filter.field] ?? filter.field;
  const sign = { "=": " ", ">=": " ≥ ", "<=": " ≤ " }[filter.op];
  const turn = () => go(withFilter({ ...query, filters: query.filters.filter((other) => !isSame(other, filter)) }, { ...filter, not: !filter.not }));
  return makeChip({
    name: `${field}${sign}${filter.value === "" ? "—" : filter.value}`,
    not: filter.not,
    isFilter: true,
    turn: filter.op === "=" ? turn : null,
    remove: () => go(withoutFilter(query, filter)),
  });
}

function makeChip({ name, drawing, not, isLost, isFilter, turn, remove }) {
  const chip = make("li", { class: "term" });
  chip.classList.toggle("away", not);
  chip.classList.toggle("lost", Boolean(isLost));
  chip.classList.toggle("filter", Boolean(isFilter));
  if (drawing) chip.append(make("span", { class: "drawing" }, drawing));
  if (not) chip.append(make("span", { class: "except" }, text.except));
  chip.append(make("span", { class: "name-of-term", title: name }, clip(name, 40)));
  if (turn) chip.append(makeButton("turn", not ? text.include(name) : text.exclude(name), not ? "plus" : "minus", turn));
  chip.append(makeButton("remove", text.remove(name), "cross", remove));
  return chip;
}

// After a click the row is drawn anew, so the focus goes to the same place in it.
function makeButton(kind, words, drawing, act) {
  const button = make("button", { type: "button", class: kind, "aria-label": words, title: words }, icon(drawing));
  button.addEventListener("click", () => {
    const place = [...list.querySelectorAll("button")].indexOf(button);
    act();
    const buttons = list.querySelectorAll("button");
    (buttons[Math.min(place, buttons.length - 1)] ?? $("query")).focus({ preventScroll: true });
  });
  return button;
}
