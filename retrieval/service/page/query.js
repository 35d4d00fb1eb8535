// What is looked for, as a value: {text, terms, filters, collection}.
//
// A term is {kind: "text" | "like" | "picture", value, not}: words, the row of a picture of the
// index, the token of a picture of the reader's. A filter is {field, op: "=" | ">=" | "<=", value, not}.
// The address holds all of it, so that a search can be kept, sent and gone back to; of a picture of
// the reader's it holds only that there was one.

const AWAY = -0.4; // the weight of what is to be stayed away from; the service's own for texts
const NAMES = { text: ["also", "not"], like: ["like", "unlike"], picture: ["picture", "unpicture"] };
const OPS = ["=", ">=", "<="];

export const EMPTY = Object.freeze({ text: "", terms: [], filters: [], collection: "" });

export function fromAddress(search) {
  const asked = new URLSearchParams(search);
  const terms = Object.entries(NAMES).flatMap(([kind, names]) =>
    names.flatMap((name, not) =>
      asked.getAll(name).map((value) => ({ kind, value: kind === "like" ? Number(value) : value.trim(), not: Boolean(not) })),
    ),
  );
  return {
    text: (asked.get("q") ?? "").trim(),
    terms: terms.filter(({ kind, value }) => (kind === "like" ? Number.isSafeInteger(value) && value >= 0 : value)),
    filters: asked.getAll("filter").flatMap(readFilter),
    collection: asked.get("collection") ?? "",
  };
}

function readFilter(written) {
  try {
    const [field, op, value, not] = JSON.parse(written);
    const isScalar = value === null || ["string", "number", "boolean"].includes(typeof value);
    return typeof field === "string" && OPS.includes(op) && isScalar ? [{ field, op, value, not: not === "not" }] : [];
  } catch {
    return []; // no filter of ours
  }
}

export function toAddress(query) {
  const asked = new URLSearchParams();
  if (query.text) asked.set("q", query.text);
  for (const [kind, names] of Object.entries(NAMES)) {
    for (const term of query.terms) if (term.kind === kind) asked.append(names[Number(term.not)], term.value);
  }
  for (const { field, op, value, not } of query.filters) {
    asked.append("filter", JSON.stringify(not ? [field, op, value, "not"] : [field, op, value]));
  }
  if (query.collection) asked.set("collection", query.collection);
  const written = asked.toString();
  return written ? `?${written}` : "";
}

// True if there is something to look for; staying away from something is not enough.
export function looksFor(query) {
  return Boolean(query.text) || query.terms.some((term) => !term.not);
}

// "狗 -雪" looks for a dog and stays away from snow. Hyphens within words are hyphens, and what has
// nothing else is looked for as it stands.
export function fromTyped(typed) {
  const words = typed.trim().split(/\s+/);
  const isAway = (word) => /^[-−－][^-−－]/.test(word);
  const text = words.filter((word) => !isAway(word)).join(" ");
  if (!text || !words.some(isAway)) return { text: typed.trim(), terms: [] };
  return { text, terms: words.filter(isAway).map((word) => ({ kind: "text", value: word.slice(1), not: true })) };
}

export function withTerms(query, added) {
  const fresh = added.filter((term, place) => !has(query.terms, term) && !has(added.slice(0, place), term));
  // What was wanted and is to be stayed away from now changes sides.
  const others = query.terms.filter((term) => !has(fresh, { ...term, not: !term.not }));
  return { ...query, terms: [...others, ...fresh] };
}

function has(terms, { kind, value, not }) {
  return terms.some((term) => term.kind === kind && term.value === value && term.not === not);
}

export function withoutTerm(query, term) {
  return { ...query, terms: query.terms.filter((other) => other !== term) };
}

// Words that are wanted go into the box where there is room.
export function turned(query, term) {
  if (term.kind === "text" && term.not && !query.text) {
    return { ...withoutTerm(query, term), text: term.value };
  }
  return { ...query, terms: query.terms.map((other) => (other === term ? { ...term, not: !term.not } : other)) };
}

export function isSame(one, other) {
  return one.field === other.field && one.op === other.op && one.value === other.value;
}

// One filter of a kind: a value once, and one bound on each side.
export function withFilter(query, filter) {
  const replaces = (other) => (filter.op === "=" ? isSame(other, filter) : other.field === filter.field && other.op === filter.op);
  return { ...query, filters: [...query.filters.filter((other) => !replaces(other)), filter] };
}

export function withoutFilter(query, filter) {
  return { ...query, filters: query.filters.filter((other) => !isSame(other, filter)) };
}

// The filter as the service takes it; undefined for none.
export function where({ filters }) {
  const conditions = filters.map(({ field, op, value, not }) => {
    const condition = { field, op, value };
    return not ? { not: condition } : condition;
  });
  if (!conditions.length) return undefined;
  return conditions.length === 1 ? conditions[0] : { and: conditions };
}

// What the service is asked, apart from pictures and pages.
export function asBody(query) {
  const of = (kind, not) => query.terms.filter((term) => term.kind === kind && term.not === not);
  const body = {};
  if (query.text) body.query = query.text;
  const like = of("like", false).map((term) => term.value);
  if (like.length) body.like = like;
  const without = of("text", true).map((term) => term.value);
  if (without.length) body.without = without;
  const terms = [
    ...of("text", false).map((term) => ({ text: term.value })),
    ...of("like", true).map((term) => ({ like: term.value, weight: AWAY })),
  ];
  if (terms.length) body.terms = terms;
  const condition = where(query);
  if (condition) body.where = condition;
  return body;
}
