// The search page: one box, a grid of tiles, one picture large.
//
// The address holds the state: /?q=狗 is a search that can be kept, sent and gone back to.

const FIRST = 30; // hits per search, and how many "more" adds
const MOST = 200; // the service's own limit on top_k
const TILE = window.devicePixelRatio > 1 ? 512 : 256; // pixels of a tile's picture
const NAMES = 6; // of a picture, shown at once; further languages unfold
const SMALL = 256; // below this, pictures blur when they fill the space
const EXAMPLES = ["狗", "草莓蛋糕", "下雨", "红色的心", "a birthday party", "富士山"];

const TEXTS = {
  zh: {
    tagline: "用一句话找到图片",
    queryLabel: "想找什么图片",
    placeholder: "想找什么图片？",
    go: "搜索",
    clear: "清空",
    examples: "试试这些",
    results: "搜索结果",
    more: "更多结果",
    retry: "再试一次",
    docs: "接口文档",
    keys: "回车搜索 · 方向键选图 · Esc 返回 · / 回到搜索框",
    previous: "上一张",
    next: "下一张",
    close: "关闭",
    original: "打开原图",
    moreNames: "其他语言",
    missing: "图片不见了",
    searching: "正在找…",
    found: (query, shown, total, ms) => `“${query}”：${total} 张图里最接近的 ${shown} 张 · ${ms} 毫秒`,
    category: (label, share) => `类别：${label}（${share}）`,
    score: "相似度",
    scoreHint: "文字与图片的余弦相似度，从 −1 到 1，越高越接近",
    emptyTitle: "图库还是空的",
    emptyText: "先用 clip-text index 把图片编入索引，再来搜索。",
    errors: {
      network: ["连不上搜索服务", "看看它是否还在运行，然后再试一次。"],
      query_too_long: ["这段话太长了", "请用不超过 1000 个字来描述图片。"],
      invalid_query: ["看不懂这次搜索", "换个说法试试。"],
      invalid_request: ["看不懂这次搜索", "换个说法试试。"],
      index_mismatch: ["索引换了模型", "请用建索引的那个模型重新启动服务。"],
      index_locked: ["图库正在更新", "稍等一会儿再试。"],
      index_unavailable: ["现在读不到索引", "请重新编入图片，或者看看服务的日志。"],
      other: ["出了点问题", "这不是你的错，请稍后再试。"],
    },
    facts: { source: "来源", author: "作者", licence: "许可", license: "许可", group: "分组", image_id: "编号", emoji: "表情" },
  },
  en: {
    tagline: "Find pictures with a sentence",
    queryLabel: "What are you looking for",
    placeholder: "What are you looking for?",
    go: "Search",
    clear: "Clear",
    examples: "Try these",
    results: "Results",
    more: "More results",
    retry: "Try again",
    docs: "API documentation",
    keys: "Enter searches · arrow keys choose · Esc goes back · / returns to the box",
    previous: "Previous picture",
    next: "Next picture",
    close: "Close",
    original: "Open the original",
    moreNames: "Other languages",
    missing: "This picture is gone",
    searching: "Searching…",
    found: (query, shown, total, ms) => `“${query}”: the closest ${shown} of ${total} pictures · ${ms} ms`,
    category: (label, share) => `category: ${label} (${share})`,
    score: "similarity",
    scoreHint: "Cosine of text and picture, from −1 to 1; higher is closer",
    emptyTitle: "No pictures yet",
    emptyText: "Index some with clip-text index, then search again.",
    errors: {
      network: ["The search service cannot be reached", "Check that it is still running, then try again."],
      query_too_long: ["That is too long", "Please describe the picture in at most 1,000 characters."],
      invalid_query: ["This search makes no sense to the service", "Try other words."],
      invalid_request: ["This search makes no sense to the service", "Try other words."],
      index_mismatch: ["The index belongs to another model", "Restart the service with the model that built it."],
      index_locked: ["The pictures are being updated", "Try again in a moment."],
      index_unavailable: ["The index cannot be read", "Index the pictures again, or look into the service's log."],
      other: ["Something went wrong", "It is not your fault; please try again later."],
    },
    facts: { source: "Source", author: "Author", licence: "Licence", license: "Licence", group: "Group", image_id: "ID", emoji: "Emoji" },
  },
};

const spoken = (navigator.language || "zh").toLowerCase();
const language = spoken.startsWith("zh") ? "zh" : "en";
const text = TEXTS[language];
// Which of a picture's names to show: people who read traditional characters get those.
const nameKeys = /^zh-(hant|tw|hk|mo)/.test(spoken)
  ? ["zh-hant", "zh"]
  : [spoken, spoken.split("-")[0], language];

const $ = (id) => document.getElementById(id);
const form = $("form");
const input = $("query");
const grid = $("grid");
const lightbox = $("lightbox");
const title = document.title;

let current = { query: "", hits: [], total: 0, category: null };
let running = null; // the AbortController of the search under way
let composing = false; // an input method is open: Enter chooses a word
let opened = 0; // the hit in the lightbox

// Talking to the service

class ServiceError extends Error {
  constructor(type, message) {
    super(message);
    this.type = type;
  }
}

async function ask(query, topK, signal) {
  let response;
  try {
    response = await fetch("v1/search", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ query, top_k: topK }),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("network", "");
  }
  // A proxy in between may answer with a page of its own.
  const body = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null;
  });
  if (response.ok && body) return body;
  throw new ServiceError(body?.error?.type ?? "other", body?.error?.message ?? `HTTP ${response.status}`);
}

// One search, from the first word to the last tile

async function run(query, topK = FIRST) {
  running?.abort();
  const mine = new AbortController();
  running = mine;
  const adds = topK > FIRST && query === current.query;
  setState("loading");
  $("notice").hidden = true;
  $("more").hidden = true;
  $("status").textContent = text.searching;
  markExample(query);
  document.title = `${query} · ${title}`;
  // Most answers arrive before anybody could read a placeholder.
  const slow = setTimeout(() => grid.childElementCount || showGhosts(), 150);
  try {
    const found = await ask(query, topK, mine.signal);
    if (running !== mine) return;
    const kept = adds ? grid.childElementCount : 0;
    current = { query, hits: found.hits, total: found.total, category: found.category };
    showHits(kept, found.took_ms);
    if (!adds) window.scrollTo(0, 0);
  } catch (error) {
    if (error.name === "AbortError" || running !== mine) return;
    if (!(error instanceof ServiceError)) throw error;
    current = { query, hits: [], total: 0, category: null };
    showError(error);
  } finally {
    clearTimeout(slow);
    if (running === mine) running = null;
  }
}

function go(query) {
  const wanted = query.trim();
  input.value = wanted;
  $("clear").hidden = !wanted;
  const address = wanted ? `?${new URLSearchParams({ q: wanted })}` : location.pathname;
  if (history.state?.picture) {
    // The lightbox has an entry of its own; the new search takes its place.
    history.replaceState(null, "", address);
    lightbox.close();
  } else if (wanted !== addressQuery()) {
    history.pushState(null, "", address);
  }
  if (wanted) run(wanted);
  else goHome();
}

function goHome() {
  running?.abort();
  running = null;
  current = { query: "", hits: [], total: 0, category: null };
  clearGrid();
  markExample("");
  $("notice").hidden = true;
  $("more").hidden = true;
  $("status").textContent = "";
  document.title = title;
  setState("idle");
  input.focus();
}

function addressQuery() {
  return (new URLSearchParams(location.search).get("q") ?? "").trim();
}

function followAddress() {
  if (lightbox.open) lightbox.close();
  const query = addressQuery();
  if (query === current.query && !running) return;
  input.value = query;
  $("clear").hidden = !query;
  if (query) run(query);
  else goHome();
}

// Drawing

function setState(state) {
  document.body.dataset.state = state;
  grid.setAttribute("aria-busy", String(state === "loading"));
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function clearGrid() {
  grid.replaceChildren();
  delete grid.dataset.filled;
}

function showGhosts() {
  grid.replaceChildren(...Array.from({ length: 12 }, () => make("li", { class: "ghost", "aria-hidden": "true" })));
}

function showHits(kept, tookMs) {
  if (!kept) clearGrid();
  grid.append(...current.hits.slice(kept).map((hit, index) => make("li", {}, makeTile(hit, kept + index))));
  grid.dataset.filled = "";
  const shown = current.hits.length;
  if (!shown) {
    $("status").textContent = "";
    showNotice(text.emptyTitle, text.emptyText);
    setState("empty");
    return;
  }
  const count = (n) => n.toLocaleString(language);
  const ms = tookMs < 10 ? tookMs.toFixed(1) : count(Math.round(tookMs));
  const line = [text.found(clip(current.query, 40), count(shown), count(current.total), ms)];
  if (current.category) line.push(describeCategory(current.category));
  $("status").textContent = line.join(" · ");
  $("more").hidden = shown >= Math.min(current.total, MOST);
  setState("results");
}

function describeCategory({ label, probability }) {
  return text.category(clip(label, 20), probability.toLocaleString(language, { style: "percent" }));
}

function makeTile(hit, index) {
  const name = nameOf(hit);
  const score = hit.score.toFixed(3);
  const frame = make("span", { class: "frame" });
  const image = make("img", {
    alt: name.words,
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
  tile.addEventListener("click", () => openPicture(index));
  return tile;
}

function thumbnail(hit, size) {
  return `${hit.thumbnail_url}?size=${size}`;
}

// Thumbnails are never larger than their originals, so this holds for either.
function isSmall(image) {
  return Math.max(image.naturalWidth, image.naturalHeight) < SMALL;
}

function clip(words, length) {
  const letters = [...words];
  return letters.length > length ? `${letters.slice(0, length).join("")}…` : words;
}

function namesOf(hit) {
  const names = hit.metadata.names;
  return names && typeof names === "object" && !Array.isArray(names) ? names : {};
}

function nameOf(hit) {
  const names = namesOf(hit);
  const key = nameKeys.find((candidate) => typeof names[candidate] === "string");
  if (key) return { words: names[key], lang: key };
  return { words: hit.caption ?? hit.image_id };
}

function showNotice(heading, words, detail = "", retry = false) {
  $("notice-title").textContent = heading;
  $("notice-text").textContent = words;
  $("notice-detail").textContent = detail;
  $("retry").hidden = !retry;
  $("notice").hidden = false;
}

function showError(error) {
  clearGrid();
  $("status").textContent = "";
  const [heading, words] = text.errors[error.type] ?? text.errors.other;
  const ours = !["query_too_long", "invalid_query", "invalid_request"].includes(error.type);
  showNotice(heading, words, error.message, ours);
  setState("error");
}

function markExample(query) {
  for (const chip of $("chips").children) {
    if (chip.textContent === query) chip.setAttribute("aria-current", "true");
    else chip.removeAttribute("aria-current");
  }
}

// A link that searches; opening it in a new tab works as with any other link.
function makeSearchLink(query) {
  const link = make("a", { href: `?${new URLSearchParams({ q: query })}` }, query);
  link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    go(query);
  });
  return link;
}

// One picture, large

function openPicture(index) {
  // An entry in the history, because on a phone "back" is how one closes a picture.
  if (!lightbox.open) {
    history.pushState({ picture: true }, "", location.href);
    lightbox.showModal();
  }
  showPicture(index);
}

function showPicture(index) {
  opened = index;
  const hit = current.hits[index];
  const name = nameOf(hit);
  showFull(hit, name.words);
  $("original").href = hit.image_url;
  const heading = $("lightbox-title");
  heading.textContent = name.words;
  heading.lang = name.lang ?? "";
  $("lightbox-score").textContent = `${text.score} ${hit.score.toFixed(4)} · ${hit.rank} / ${current.hits.length}`;
  $("lightbox-score").title = text.scoreHint;
  $("lightbox-tags").replaceChildren(...tagsOf(hit).map((tag) => make("li", {}, makeSearchLink(tag))));
  const names = describeNames(hit);
  $("lightbox-names").replaceChildren(...names.slice(0, NAMES).flat());
  $("lightbox-more-names").replaceChildren(...names.slice(NAMES).flat());
  $("lightbox-more").hidden = names.length <= NAMES;
  $("lightbox-about").replaceChildren(...describeRest(hit));
  $("facts").scrollTop = 0;
  $("previous").disabled = index === 0;
  $("next").disabled = index === current.hits.length - 1;
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

function tagsOf(hit) {
  const tags = hit.metadata.tags;
  return Array.isArray(tags) ? tags.filter((tag) => typeof tag === "string" && tag.trim()) : [];
}

function describeNames(hit) {
  const languages = new Intl.DisplayNames([language], { type: "language" });
  const near = [...nameKeys, "zh", "zh-hant", "en"]; // first what the reader can read
  const place = ([code]) => (near.includes(code) ? near.indexOf(code) : near.length);
  return Object.entries(namesOf(hit))
    .filter(([, name]) => typeof name === "string")
    .sort((a, b) => place(a) - place(b))
    .map(([code, name]) => {
      let label = code;
      try {
        label = languages.of(code);
      } catch {
        // A key that is no language code is shown as it stands.
      }
      return [make("dt", {}, label), make("dd", { lang: code }, name)];
    });
}

function describeRest(hit) {
  const { names, tags, file_name, ...rest } = hit.metadata;
  const first = ["source", "author", "licence", "license"];
  const facts = { ...rest, image_id: hit.image_id };
  const keys = Object.keys(facts);
  const ordered = [...first.filter((key) => keys.includes(key)), ...keys.filter((key) => !first.includes(key))];
  return ordered
    .filter((key) => facts[key] !== null && facts[key] !== "")
    .flatMap((key) => {
      const value = typeof facts[key] === "object" ? JSON.stringify(facts[key]) : String(facts[key]);
      const shown = /^https?:\/\//.test(value)
        ? make("a", { href: value, target: "_blank", rel: "noopener noreferrer" }, value)
        : value;
      return [make("dt", {}, text.facts[key] ?? key), make("dd", {}, shown)];
    });
}

function step(by) {
  const index = opened + by;
  if (index >= 0 && index < current.hits.length) showPicture(index);
}

// Keys and clicks

function tiles() {
  return [...grid.querySelectorAll(".tile")];
}

function focusTile(all, index) {
  all.forEach((tile, place) => tile.setAttribute("tabindex", place === index ? 0 : -1));
  all[index].focus();
  all[index].scrollIntoView({ block: "nearest" });
}

function moveInGrid(event) {
  const all = tiles();
  const from = all.indexOf(document.activeElement);
  if (from < 0) return;
  const top = all[0].offsetTop;
  const columns = all.findIndex((tile) => tile.offsetTop > top);
  const row = columns < 0 ? all.length : columns;
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
  if (to >= 0 && to < all.length) focusTile(all, to);
  else if (event.key === "ArrowUp") input.focus();
  // The last row may be shorter than the one above it.
  else if (event.key === "ArrowDown" && Math.floor(from / row) < Math.floor((all.length - 1) / row)) {
    focusTile(all, all.length - 1);
  }
}

function onEscape(event) {
  if (lightbox.open) return; // the dialog closes itself
  if (running) {
    running.abort();
    running = null;
    if (current.hits.length) {
      $("status").textContent = "";
      $("more").hidden = current.hits.length >= Math.min(current.total, MOST);
      setState("results");
    } else goHome();
  } else if (document.activeElement !== input) {
    input.focus();
  } else {
    input.value = "";
    $("clear").hidden = true;
  }
  event.preventDefault();
}

input.addEventListener("compositionstart", () => (composing = true));
input.addEventListener("compositionend", () => (composing = false));
input.addEventListener("input", () => ($("clear").hidden = !input.value));
input.addEventListener("keydown", (event) => {
  // 229: Safari sends the Enter that ends a composition after the composition has ended.
  if (event.isComposing || event.keyCode === 229) {
    if (event.key === "Enter") event.preventDefault();
    event.stopPropagation();
  } else if (event.key === "ArrowDown" && tiles().length) {
    event.preventDefault();
    focusTile(tiles(), 0);
  }
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (composing) return;
  // On a phone the keyboard would cover what was found.
  if (matchMedia("(hover: none)").matches) input.blur();
  go(input.value);
});
grid.addEventListener("keydown", moveInGrid);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") onEscape(event);
  else if (lightbox.open && event.key === "ArrowLeft") step(-1);
  else if (lightbox.open && event.key === "ArrowRight") step(1);
  else if (event.key === "/" && !lightbox.open && document.activeElement !== input) {
    event.preventDefault();
    input.focus();
    input.select();
  }
});
$("clear").addEventListener("click", () => {
  input.value = "";
  $("clear").hidden = true;
  input.focus();
});
$("home").addEventListener("click", (event) => {
  if (event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  go("");
});
$("retry").addEventListener("click", () => run(current.query));
$("more").addEventListener("click", async () => {
  const shown = current.hits.length;
  await run(current.query, Math.min(MOST, shown + FIRST));
  const all = tiles();
  if (all.length > shown) focusTile(all, shown);
});

lightbox.addEventListener("click", (event) => {
  if (event.target === lightbox) lightbox.close(); // the backdrop
});
lightbox.addEventListener("close", () => {
  if (history.state?.picture) history.back();
  const all = tiles();
  if (all[opened]) focusTile(all, opened);
});
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => lightbox.close());
window.addEventListener("popstate", followAddress);

// Start

document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
for (const element of document.querySelectorAll("[data-text]")) element.textContent = text[element.dataset.text];
for (const element of document.querySelectorAll("[data-label]")) {
  element.setAttribute("aria-label", text[element.dataset.label]);
}
input.placeholder = text.placeholder;
$("chips").append(...EXAMPLES.map(makeSearchLink));
if (history.state?.picture) history.replaceState(null, "", location.href); // after a reload
followAddress();
