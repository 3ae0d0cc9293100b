// The page: a sentence or an image in, the nearest images of the collection out.

import { nearest, readCollection } from "./collection.mjs";
import { readFile } from "./files.mjs";
import { loadModel } from "./model.mjs";

const NUM_HITS = 10;
const element = (id) => document.getElementById(id);
// `?weights=fp32` takes the float32 weights, where the page was built with them; else the smaller 8-bit ones are taken.
const form = new URLSearchParams(location.search).get("weights") === "fp32" ? "" : "_quantized";

const model = loadModel(form);
let collection = readFile("index.parquet").then((bytes) => readCollection(bytes.buffer));

function showHits(hits) {
  element("hits").replaceChildren(
    ...hits.map(({ row, similarity }) => {
      const item = document.createElement("li");
      const score = document.createElement("span");
      score.textContent = similarity.toFixed(3);
      item.append(score, [row.path, row.scene, row.date].filter(Boolean).join(" · "));
      return item;
    }),
  );
}

/** Embed a sentence or an image file, and show and return the nearest images. */
async function search(query) {
  const start = performance.now();
  const { embedText, embedImage } = await model;
  const vector = typeof query === "string" ? await embedText(query) : await embedImage(query);
  const images = await collection;
  const hits = nearest(images, vector, NUM_HITS);
  showHits(hits);
  const milliseconds = Math.round(performance.now() - start);
  element("status").textContent = `${images.rows.length.toLocaleString()} images searched in ${milliseconds} ms`;
  return hits;
}

async function open(file) {
  if (!file.name.endsWith(".parquet")) return search(file);
  const opened = await readCollection(await file.arrayBuffer());
  collection = Promise.resolve(opened);
  element("status").textContent = `${opened.rows.length.toLocaleString()} images of ${file.name}`;
  return [];
}

/** Run what a visitor asked for; what goes wrong is said on the page. */
async function attempt(action) {
  element("status").textContent = "…";
  try {
    await action();
  } catch (error) {
    element("status").textContent = error.message;
  }
}

element("search").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(() => search(element("sentence").value));
});
element("file").addEventListener("change", (event) => attempt(() => open(event.target.files[0])));
const drop = element("drop");
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  attempt(() => open(event.dataTransfer.files[0]));
});

attempt(async () => {
  const [images] = await Promise.all([collection, model]);
  element("status").textContent = `${images.rows.length.toLocaleString()} images`;
});
globalThis.search = search; // for the console, and for tests
