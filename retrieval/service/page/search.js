// The search page: one box, a grid of tiles, one picture large.
//
// This module holds the search under way and wires the others, each of which has one job. The
// address holds the state: /?q=狗 is a search that can be kept, sent and gone back to.

import * as api from "./api.js";
import { $, make, opensElsewhere } from "./dom.js";
import * as filters from "./filters.js";
import * as grid from "./grid.js";
import { remember } from "./hits.js";
import * as lightbox from "./lightbox.js";
import * as notices from "./notices.js";
import * as pictures from "./pictures.js";
import { EMPTY, asBody, fromAddress, fromTyped, looksFor, toAddress, withTerms } from "./query.js";
import * as suggestions from "./suggestions.js";
import * as terms from "./terms.js";
import { EXAMPLES, clip, count, percent, text, translate } from "./texts.js";

const PAGE = 60; // hits of a page; further ones come as one scrolls
const MOST = 1000; // hits of an answer; the service keeps the order of so many
const AHEAD = "900px"; // how far below the window's edge the next page is asked for
const MOST_PICTURES = 8; // of the reader's own in one search; the service's own limit

const form = $("form");
const input = $("query");
const title = document.title;

const NOTHING = { query: EMPTY, hits: [], asked: 0, total: 0, category: null, page: null, isWhole: true };
let current = NOTHING;
let running = null; // the AbortController of the search under way
let growing = null; // that of the next page
let stalled = false; // a page did not come: from then on only the button asks for it
let composing = false; // an input method is open: Enter chooses a word

// One search, from the first word to the last tile

async function run(query) {
  running?.abort();
  growing?.abort();
  suggestions.close();
  const mine = new AbortController();
  running = mine;
  current = { ...current, query };
  setState("loading");
  notices.hide();
  $("more").hidden = true;
  $("status").textContent = text.searching;
  showQuery(query);
  // Most answers arrive before anybody could read a placeholder.
  const slow = setTimeout(() => grid.isEmpty() && grid.showGhosts(), 150);
  try {
    const found = await ask(query, mine.signal);
    if (running !== mine) return;
    const { hits, total, category, page } = found;
    remember(hits, query.collection);
    const isWhole = hits.length < PAGE || hits.length >= total;
    current = { query, hits, asked: PAGE, total, category, page, isWhole };
    stalled = false;
    running = null;
    showAnswer(found);
    window.scrollTo(0, 0);
  } catch (error) {
    if (error.name === "AbortError" || running !== mine) return;
    running = null;
    if (!(error instanceof api.ServiceError)) throw error;
    current = { ...NOTHING, query };
    grid.clear();
    $("status").textContent = "";
    setState("error");
    notices.showError(error, () => run(query));
  } finally {
    clearTimeout(slow);
  }
}

function ask(query, signal) {
  const body = { ...asBody(query), top_k: PAGE, paged: true };
  const given = query.terms.flatMap(({ kind, value, not }) => {
    const picture = kind === "picture" && pictures.find(value);
    return picture ? [{ ...picture, not }] : [];
  });
  const options = { signal, onBusy: (seconds) => ($("status").textContent = text.busy(seconds)) };
  if (given.length) return api.searchPictures(body, given, query.collection, options);
  return api.search(body, query.collection, options);
}

// The next page of the same order. Where the service keeps it no longer, the query is asked anew.
async function grow({ focus = false } = {}) {
  if (running || growing || current.isWhole) return;
  const mine = new AbortController();
  growing = mine;
  const { query, page, asked, hits } = current;
  const options = { signal: mine.signal, onBusy: (seconds) => ($("status").textContent = text.busy(seconds)) };
  try {
    let token = page;
    const next = () => api.search({ page: token, offset: asked, top_k: Math.min(PAGE, MOST - asked) }, query.collection, options);
    const found = await next().catch(async (error) => {
      if (error.type !== "page_gone") throw error;
      token = (await ask(query, mine.signal)).page;
      return next();
    });
    if (growing !== mine) return;
    const known = new Set(hits.map((hit) => hit.row));
    const fresh = found.hits.filter((hit) => !known.has(hit.row));
    remember(fresh, query.collection);
    const reached = asked + PAGE;
    const isWhole = !found.hits.length || reached >= Math.min(MOST, current.total);
    current = { ...current, page: token, asked: reached, hits: [...hits, ...fresh], isWhole };
    stalled = false;
    grid.add(fresh, hits.length, lightbox.open);
    showCount(found.took_ms);
    if (focus && fresh.length) grid.focus(hits.length);
  } catch (error) {
    if (error.name === "AbortError" || growing !== mine) return;
    if (!(error instanceof api.ServiceError)) throw error;
    stalled = true; // what is there stays; the button tries again
    if (error.status === 401) notices.askForKey();
    $("status").textContent = (text.errors[error.type] ?? text.errors.other).join(" · ");
  } finally {
    if (growing === mine) {
      growing = null;
      $("more").hidden = current.isWhole;
      watch(); // the button may still be in view
    }
  }
}

const watcher = new IntersectionObserver(
  ([entry]) => entry.isIntersecting && !stalled && !$("more").hidden && grow(),
  { rootMargin: `0px 0px ${AHEAD}` },
);

function watch() {
  watcher.unobserve($("more"));
  if (!$("more").hidden) watcher.observe($("more"));
}

// Where one is: the address, and what follows it

function go(query) {
  const wanted = looksFor(query) ? query : { ...EMPTY, collection: query.collection };
  input.value = wanted.text;
  const address = toAddress(wanted) || location.pathname;
  if (history.state?.picture) {
    // The lightbox has an entry of its own; the new search takes its place.
    history.replaceState(null, "", address);
    lightbox.close();
  } else if (toAddress(wanted) !== toAddress(fromAddress(location.search))) {
    history.pushState(null, "", address);
  }
  follow(wanted);
}

function follow(query) {
  // Of a lost picture, only the note is left; it alone is nothing to search by.
  const known = { ...query, terms: query.terms.filter(({ kind, value }) => kind !== "picture" || pictures.find(value)) };
  if (looksFor(known)) run(query);
  else goHome(query);
}

function goHome(query) {
  running?.abort();
  growing?.abort();
  running = null;
  current = { ...NOTHING, query };
  suggestions.close();
  grid.clear();
  filters.close();
  notices.hide();
  $("more").hidden = true;
  $("status").textContent = "";
  setState("idle");
  showQuery(query);
  input.focus();
}

function followAddress() {
  if (lightbox.isOpen()) lightbox.close();
  const query = fromAddress(location.search);
  if (toAddress(query) === toAddress(current.query) && !running) return;
  input.value = query.text;
  follow(query);
}

function submit(typed) {
  const { text: words, terms: added } = fromTyped(typed);
  go(withTerms({ ...current.query, text: words }, added));
}

async function takePictures(files) {
  const wanted = files.filter(pictures.isPicture).slice(0, MOST_PICTURES);
  if (!wanted.length) {
    $("status").textContent = text.errors.no_picture.join(" · ");
    return;
  }
  if (lightbox.isOpen()) lightbox.close();
  const tokens = await Promise.all(wanted.map(pictures.keep));
  const added = tokens.map((value) => ({ kind: "picture", value, not: false }));
  // New ones take the place of lost ones, and of the oldest where there are too many.
  const { terms: there } = current.query;
  const kept = there.filter(({ kind, value }) => kind !== "picture" || pictures.find(value));
  const mine = kept.filter(({ kind }) => kind === "picture");
  const surplus = new Set(mine.slice(0, Math.max(0, mine.length + added.length - MOST_PICTURES)));
  const query = { ...current.query, terms: kept.filter((term) => !surplus.has(term)) };
  const typed = fromTyped(input.value);
  go(withTerms({ ...query, text: typed.text }, [...typed.terms, ...added]));
}

// Drawing

function setState(state) {
  document.body.dataset.state = state;
  grid.setBusy(state === "loading");
}

function showQuery(query) {
  $("clear").hidden = !input.value;
  terms.show(query, go);
  filters.show(query, go);
  $("chips").hidden = !$("terms").hidden;
  for (const chip of $("chips").children) {
    if (chip.textContent === query.text) chip.setAttribute("aria-current", "true");
    else chip.removeAttribute("aria-current");
  }
  const words = looksFor(query) ? terms.describe(query) : "";
  document.title = words ? `${words} · ${title}` : title;
  const chooser = $("collection");
  if (chooser.options.length) chooser.value = query.collection || chooser.options[0].value;
}

function showAnswer({ took_ms: tookMs, nothing_matches: nothing }) {
  const { query, hits, total } = current;
  grid.clear();
  if (!hits.length) {
    $("status").textContent = "";
    if (total && query.filters.length) {
      const action = { label: text.clearFilters, run: () => go({ ...query, filters: [] }) };
      notices.show(text.nobodyTitle, text.nobodyText, { action });
    } else if (total) notices.show(text.nothingTitle, text.nothingText);
    else notices.show(text.emptyTitle, text.emptyText);
    setState("empty");
  } else if (nothing) {
    $("status").textContent = text.nothingTitle;
    const reveal = () => {
      notices.hide();
      showTiles(tookMs);
      grid.focus(0);
    };
    notices.show(text.nothingTitle, text.nothingText, { action: { label: text.nearest(count(hits.length)), run: reveal } });
    setState("nothing");
  } else showTiles(tookMs);
}

function showTiles(tookMs) {
  grid.add(current.hits, 0, lightbox.open);
  setState("results");
  showCount(tookMs);
  $("more").hidden = current.isWhole;
  watch();
}

function showCount(tookMs) {
  const { query, hits, total, category } = current;
  const ms = tookMs < 10 ? tookMs.toFixed(1) : count(Math.round(tookMs));
  const line = [text.found(terms.describe(query, { quoted: true }), count(hits.length), count(total), ms)];
  if (query.filters.length) line.push(text.filtered);
  if (category) line.push(text.category(clip(category.label, 20), percent(category.probability)));
  $("status").textContent = line.join(" · ");
}

// A link that searches; opening it in a new tab works as with any other link.
function makeSearchLink(words) {
  const of = () => ({ ...EMPTY, text: words, collection: current.query.collection });
  const link = make("a", { href: toAddress(of()) }, words);
  link.addEventListener("click", (event) => {
    if (opensElsewhere(event)) return;
    event.preventDefault();
    go(of());
  });
  return link;
}

// Keys and clicks

function onEscape() {
  if (lightbox.isOpen()) return; // the dialog closes itself
  if (suggestions.isOpen()) suggestions.close();
  else if (running) {
    running.abort();
    running = null;
    if (current.hits.length) {
      $("status").textContent = text.stopped;
      $("more").hidden = current.isWhole;
      setState("results");
    } else goHome(EMPTY);
  } else if (document.activeElement !== input) {
    input.focus();
  } else {
    input.value = "";
    $("clear").hidden = true;
  }
}

function listenToBox() {
  input.addEventListener("compositionstart", () => {
    composing = true;
    suggestions.close();
  });
  input.addEventListener("compositionend", () => {
    composing = false;
    suggestions.typed(input.value, current.query.collection);
  });
  input.addEventListener("input", () => {
    $("clear").hidden = !input.value;
    if (!composing) suggestions.typed(input.value, current.query.collection);
  });
  input.addEventListener("keydown", (event) => {
    // Safari ends the composition before the Enter that chose a word; 229 tells it apart.
    if (composing || event.isComposing || event.keyCode === 229) {
      if (event.key === "Enter") event.preventDefault();
      event.stopPropagation();
    } else if (suggestions.takeKey(event.key)) {
      event.preventDefault();
    } else if (event.key === "ArrowDown" && grid.focus(0)) {
      event.preventDefault();
    }
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (composing) return;
    // On a phone the keyboard would cover what was found.
    if (matchMedia("(hover: none)").matches) input.blur();
    submit(suggestions.words() ?? input.value);
  });
  $("clear").addEventListener("click", () => {
    input.value = "";
    $("clear").hidden = true;
    suggestions.close();
    input.focus();
  });
}

function listenToPage() {
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest?.("input, select, textarea");
    if (event.key === "Escape") onEscape();
    else if (lightbox.isOpen() && event.key === "ArrowLeft") lightbox.step(-1);
    else if (lightbox.isOpen() && event.key === "ArrowRight") lightbox.step(1);
    else if (event.key === "/" && !lightbox.isOpen() && !isTyping) {
      event.preventDefault();
      input.focus();
      input.select();
    }
  });
  $("home").addEventListener("click", (event) => {
    if (opensElsewhere(event)) return;
    event.preventDefault();
    go({ ...EMPTY, collection: current.query.collection });
  });
  $("more").addEventListener("click", () => grow({ focus: true }));
  $("collection").addEventListener("change", (event) => {
    const { value, selectedIndex } = event.target;
    // Rows and fields are another collection's.
    const others = current.query.terms.filter(({ kind }) => kind !== "like");
    go({ ...current.query, terms: others, filters: [], collection: selectedIndex ? value : "" });
  });
  window.addEventListener("popstate", followAddress);
}

async function learnCollections() {
  try {
    const found = await api.collections();
    filters.learn(found);
    $("collection").replaceChildren(...found.map(({ name }) => make("option", { value: name }, name)));
    $("collection").hidden = found.length < 2;
    showQuery(current.query);
  } catch (error) {
    if (error.status === 401 && !running) notices.askForKey();
  }
}

// Start

translate();
$("chips").append(...EXAMPLES.map(makeSearchLink));
listenToBox();
listenToPage();
grid.listen(() => input.focus());
filters.listen();
suggestions.listen((words) => go({ ...current.query, text: words }));
lightbox.listen({
  hits: () => current.hits,
  tag: makeSearchLink,
  like: (value, not) => go(withTerms(current.query, [{ kind: "like", value, not }])),
  closed: (index) => grid.focus(index),
});
notices.listen({
  entered: () => {
    learnCollections();
    follow(current.query);
  },
  left: () => location.reload(),
});
pictures.receive({ overlay: $("drop"), button: $("choose"), chooser: $("chooser"), take: takePictures });
if (history.state?.picture) history.replaceState(null, "", location.href); // after a reload
input.value = fromAddress(location.search).text;
input.focus(); // not by autofocus, which complains where a script was quicker
follow(fromAddress(location.search));
learnCollections();
