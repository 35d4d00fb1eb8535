// The panel of filters: the values that pictures have in each field, with how many have them.

import * as api from "./api.js";
import { $, make } from "./dom.js";
import { asBody, isSame, where, withFilter, withoutFilter } from "./query.js";
import { clip, count, text } from "./texts.js";

const MOST_FIELDS = 5; // whose values are counted
const MOST_RANGES = 3;
const FIRST_VALUES = 8; // of a field, shown at once; the others unfold
const KEPT = 60_000; // milliseconds that counts are good for
const FIRST = ["tags", "category", "group", "folder"];
const HIDDEN = /^(path|caption|file_name|source|url|names(\..*)?|metadata\..*)$/; // for searching, or for crediting

const panel = $("filters");
const button = $("filter");
const valuesBox = make("div", { class: "facets" });
const rangesBox = make("div", { class: "facets" });
let known = []; // all collections, with their fields
let shown = { query: null, go: null };
let asking = null;
const unfolded = new Set(); // fields of which all values are shown
const counted = new Map(); // collection and filter → facets

export function learn(collections) {
  known = collections;
}

function fields(collection) {
  const found = known.find(({ name }) => name === collection) ?? known[0];
  const kindOf = ({ name, kind }) => (name === "date" ? "date" : /num/i.test(kind) ? "number" : "value");
  const place = ({ name }) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
  const usable = (found?.fields ?? [])
    .filter(({ name, count: pictures, values = 2 }) => !HIDDEN.test(name) && pictures && values > 1)
    .map((field) => ({ ...field, kind: kindOf(field) }))
    .sort((a, b) => place(a) - place(b) || b.count - a.count);
  return {
    values: usable.filter(({ kind }) => kind === "value").slice(0, MOST_FIELDS),
    ranges: usable.filter(({ kind }) => kind !== "value").slice(0, MOST_RANGES),
  };
}

export function isOpen() {
  return !panel.hidden;
}

export function close() {
  panel.hidden = true;
  button.setAttribute("aria-expanded", "false");
}

// Shows the panel as it is for a query; go takes the query with a filter more or less.
export function show(query, go) {
  shown = { query, go };
  const { values, ranges } = fields(query.collection);
  button.hidden = !values.length && !ranges.length;
  button.firstElementChild.textContent = query.filters.length ? text.filtersCount(query.filters.length) : text.filters;
  if (button.hidden) close();
  else if (isOpen()) fill();
}

async function fill() {
  const { query } = shown;
  const { values, ranges } = fields(query.collection);
  const key = JSON.stringify([query.collection, where(query) ?? null]);
  if (values.length && !counted.has(key)) {
    asking?.abort();
    const mine = new AbortController();
    asking = mine;
    panel.setAttribute("aria-busy", "true");
    try {
      counted.set(key, await askFacets(query, values, mine.signal));
      setTimeout(() => counted.delete(key), KEPT); // somebody may be indexing
    } catch (error) {
      if (error.name === "AbortError") return; // else the search itself says what is wrong
    } finally {
      if (asking === mine) panel.setAttribute("aria-busy", "false");
    }
    if (asking !== mine || shown.query !== query) return;
  }
  draw(values, ranges, counted.get(key) ?? {});
}

// Counts do not depend on what is looked for, only on the filter.
async function askFacets(query, values, signal) {
  const { where: condition } = asBody(query);
  const body = { query: "图", top_k: 1, facets: values.map(({ name }) => name) };
  if (condition) body.where = condition;
  return (await api.search(body, query.collection, { signal })).facets ?? {};
}

function draw(values, ranges, facets) {
  const focused = valuesBox.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const groups = values.map(({ name }) => makeValues(name, facets[name] ?? [])).filter(Boolean);
  const isBare = !groups.length && !ranges.length;
  valuesBox.replaceChildren(...(isBare ? [make("p", { class: "none" }, text.noFacets)] : groups));
  const same = focused && [...valuesBox.querySelectorAll("[data-key]")].find((each) => each.dataset.key === focused);
  if (same) same.focus({ preventScroll: true });
  drawRanges(ranges);
}

// Their boxes stay: somebody may be writing in one.
function drawRanges(ranges) {
  const key = JSON.stringify(ranges.map(({ name, kind }) => [name, kind]));
  if (rangesBox.dataset.of !== key) {
    rangesBox.dataset.of = key;
    rangesBox.replaceChildren(...ranges.map(({ name, kind }) => makeRange(name, kind)));
  }
  for (const entry of rangesBox.querySelectorAll("input")) {
    const [field, op] = JSON.parse(entry.dataset.key);
    const now = shown.query.filters.find((filter) => filter.field === field && filter.op === op);
    if (entry !== document.activeElement) entry.value = now ? String(now.value) : "";
  }
}

function makeGroup(name, ...children) {
  return make("fieldset", { class: "facet" }, make("legend", {}, text.facts[name] ?? name), ...children);
}

function makeValues(field, found) {
  const { query } = shown;
  const chosen = query.filters.filter((filter) => filter.field === field && filter.op === "=" && !filter.not);
  const isChosen = (value) => chosen.some((filter) => filter.value === value);
  const offered = found.filter(({ value }) => value !== null && value !== "");
  // A field in which every picture has its own value narrows nothing down.
  if (!chosen.length && (offered.length < 2 || offered[0].count < 2)) return null;
  const rest = chosen.filter(({ value }) => !offered.some((other) => other.value === value));
  const listed = [...rest.map(({ value }) => ({ value, count: 0 })), ...offered];
  const number = unfolded.has(field) ? listed.length : FIRST_VALUES + rest.length;
  const chips = listed.slice(0, number).map((each) => makeValue(field, each, isChosen(each.value)));
  if (number < listed.length) chips.push(makeUnfolding(field));
  return makeGroup(field, make("div", { class: "values" }, ...chips));
}

function makeUnfolding(field) {
  const words = `${text.moreValues}${text.facts[field] ?? field}`;
  const button = make("button", { type: "button", class: "value unfold", "aria-label": words, title: words }, "…");
  button.addEventListener("click", async () => {
    const place = [...button.parentElement.children].indexOf(button);
    const group = [...valuesBox.children].indexOf(button.closest(".facet"));
    unfolded.add(field);
    await fill();
    valuesBox.children[group]?.querySelectorAll(".value")[place]?.focus({ preventScroll: true });
  });
  return button;
}

function makeValue(field, { value, count: pictures }, isChosen) {
  const filter = { field, op: "=", value, not: false };
  const chip = make(
    "button",
    { type: "button", class: "value", "aria-pressed": String(isChosen), "data-key": JSON.stringify([field, value]), title: String(value) },
    make("span", {}, clip(String(value), 24)),
    make("span", { class: "count" }, count(pictures)),
  );
  chip.addEventListener("click", () => {
    const { query, go } = shown;
    go(query.filters.some((other) => isSame(other, filter) && !other.not) ? withoutFilter(query, filter) : withFilter(query, filter));
  });
  return chip;
}

function makeRange(field, kind) {
  return makeGroup(field, make("div", { class: "range" }, makeBound(field, kind, ">=", text.from), makeBound(field, kind, "<=", text.to)));
}

function makeBound(field, kind, op, words) {
  const entry = make("input", {
    type: kind === "date" ? "date" : "number",
    step: kind === "date" ? null : "any",
    inputmode: kind === "date" ? null : "decimal",
    "data-key": JSON.stringify([field, op]),
  });
  entry.addEventListener("change", () => {
    const { query: latest, go } = shown;
    const others = { ...latest, filters: latest.filters.filter((filter) => filter.field !== field || filter.op !== op) };
    const value = kind === "date" ? entry.value : Number(entry.value);
    if (entry.value === "") go(others);
    else if (kind === "date" || Number.isFinite(value)) go(withFilter(others, { field, op, value, not: false }));
  });
  return make("label", {}, make("span", {}, words), entry);
}

export function listen() {
  panel.append(valuesBox, rangesBox);
  button.addEventListener("click", () => {
    panel.hidden = isOpen();
    button.setAttribute("aria-expanded", String(isOpen()));
    if (isOpen()) fill();
  });
}
