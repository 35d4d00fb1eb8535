// Pictures of the reader's own: dropped, pasted or chosen, and kept while the page is open.
//
// Each has a token, which stands for it in the address. No policy of the page is loosened to show
// them: they are drawn on a canvas.

const MOST = 32; // kept at once, the latest
const LARGE = 4 * 1024 * 1024; // bytes from which a picture is made smaller before it is sent
const SIDE = 1024; // its longest side then, in pixels; models look at less
const PREVIEW = 64; // pixels

const kept = new Map(); // token → {blob, name, preview}

export function isPicture(file) {
  return file.type.startsWith("image/") || /\.(heic|heif|jxl|avif|tiff?|dng|cr2|nef|arw)$/i.test(file.name ?? "");
}

export function find(token) {
  return kept.get(token);
}

// Gives the token of a picture; what the browser cannot draw is sent as it is.
export async function keep(file) {
  const token = [...crypto.getRandomValues(new Uint8Array(6))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const picture = { blob: file, name: file.name || "picture", preview: null };
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (bitmap) {
    picture.preview = drawn(bitmap, PREVIEW);
    if (file.size > LARGE) picture.blob = await smaller(bitmap, file);
    bitmap.close();
  }
  kept.set(token, picture);
  if (kept.size > MOST) kept.delete(kept.keys().next().value);
  return token;
}

function drawn(bitmap, side) {
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

async function smaller(bitmap, file) {
  const blob = await new Promise((resolve) => drawn(bitmap, SIDE).toBlob(resolve, "image/webp", 0.92));
  return blob && blob.size < file.size ? blob : file;
}

// An element may stand in one place only, so each place gets a copy.
export function preview(token) {
  const original = kept.get(token)?.preview;
  if (!original) return null;
  const copy = original.cloneNode();
  copy.getContext("2d").drawImage(original, 0, 0);
  copy.setAttribute("aria-hidden", "true");
  return copy;
}

// Calls take(files) with what is dropped anywhere, pasted, or chosen with the button.
export function receive({ overlay, button, chooser, take }) {
  let depth = 0; // dragenter and dragleave come for every element on the way
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const over = (inside) => {
    depth = inside;
    overlay.hidden = depth <= 0;
  };
  document.addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    over(depth + 1);
  });
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // else the browser opens the file in place of the page
    event.dataTransfer.dropEffect = "copy";
  });
  document.addEventListener("dragleave", (event) => hasFiles(event) && over(depth - 1));
  document.addEventListener("drop", (event) => {
    over(0);
    if (!hasFiles(event)) return;
    event.preventDefault();
    take([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    // Text goes where the cursor is, and office programs copy a picture of it as well.
    if (!files.length || event.clipboardData.types.includes("text/plain")) return;
    event.preventDefault();
    take(files);
  });
  button.addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", () => {
    const files = [...chooser.files];
    chooser.value = ""; // so that the same file can be chosen again
    if (files.length) take(files);
  });
}
