// What is said of a hit, in the reader's language.

import { make } from "./dom.js";
import { language, nameKeys, text } from "./texts.js";

const SMALL = 256; // below this, pictures blur when they fill the space

export const TILE = window.devicePixelRatio > 1 ? 512 : 256; // pixels of a tile's picture

export function thumbnail(hit, size) {
  const address = new URL(hit.thumbnail_url, location.href); // it may name a collection
  address.searchParams.set("size", size);
  return address.href;
}

// Of a picture that is known by its row alone, as in an address; relative, as the page may be
// mounted in another application.
export function thumbnailOf(row, collection, size) {
  const asked = new URLSearchParams({ size });
  if (collection) asked.set("collection", collection);
  return `v1/images/${row}/thumbnail?${asked}`;
}

// Thumbnails are never larger than their originals, so this holds for either.
export function isSmall(image) {
  return Math.max(image.naturalWidth, image.naturalHeight) < SMALL;
}

function namesOf(hit) {
  const names = hit.metadata.names;
  return names && typeof names === "object" && !Array.isArray(names) ? names : {};
}

export function nameOf(hit) {
  const names = namesOf(hit);
  const key = nameKeys.find((candidate) => typeof names[candidate] === "string");
  if (key) return { words: names[key], lang: key };
  return { words: hit.caption ?? hit.image_id };
}

// Names of pictures that were found, for chips: a query holds only their rows.
const seen = new Map();

export function remember(hits, collection) {
  if (seen.size > 5000) seen.clear();
  for (const hit of hits) seen.set(`${hit.row} ${collection}`, nameOf(hit).words);
}

export function nameOfRow(row, collection) {
  return seen.get(`${row} ${collection}`);
}

export function tagsOf(hit) {
  const tags = hit.metadata.tags;
  return Array.isArray(tags) ? tags.filter((tag) => typeof tag === "string" && tag.trim()) : [];
}

export function describeNames(hit) {
  const languages = new Intl.DisplayNames([language], { type: "language" });
  const near = [...nameKeys, "zh", "zh-hant", "en"]; // first what the reader can read
  const place = ([code]) => (near.includes(code) ? near.indexOf(code) : near.length);
  return Object.entries(namesOf(hit))
    .filter(([, name]) => typeof name === "string")
    .sort((a, b) => place(a) - place(b))
    .map(([code, name]) => {
      let label = code;
      let lang = code;
      try {
        label = languages.of(code);
      } catch {
        lang = undefined; // a key that is no language code is shown as it stands
      }
      return [make("dt", {}, label), make("dd", { lang }, name)];
    });
}

export function describeRest(hit) {
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
