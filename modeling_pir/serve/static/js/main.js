// The page: the question in the address bar, the images and the map that answer it.

import { loadArchive, saved, search, sendPicture, sentPicture, thumbnail } from "./api.js";
import { Detail } from "./detail.js";
import { byId, element, fill, plural, thousands } from "./dom.js";
import { Filters } from "./filters.js";
import { lightCard, showCards } from "./gallery.js";
import { ArchiveMap } from "./map.js";
import { MOST, STEP, emptyQuestion, fromAddress, isAsked, isFiltered, toAddress } from "./question.js";

let archive = null;
let question = fromAddress(location.search);
let hits = [];
let running = null; // the search that is not answered yet

const point = (id) => { lightCard(id); map.light(id); };
const detail = new Detail({
  onLike: (hit) => ask({ ...emptyQuestion(), ...filtersOf(question), like: [hit.id] }),
  onUnlike: (hit) => ask({ ...question, like: question.like.filter((id) => id !== hit.id), unlike: [...new Set([...question.unlike, hit.id])] }),
  onShow: (hit) => { point(hit && hit.id); if (hit) lightCard(hit.id, true); },
});
const map = new ArchiveMap(byId("map"), {
  onOpen: (position) => detail.open(position),
  onPoint: (id) => lightCard(id, true),
  onBox: (box) => ask({ ...question, box }),
});
const filters = new Filters({
  onChange: (name, value) => ask({ ...question, [name]: value, k: STEP }),
  onDraw: () => { setView("map"); map.drawBox(); say("Drag from one corner of the box to the other; press Escape to cancel.", true); },
  onClear: () => ask({ ...question, ...filtersOf(emptyQuestion()) }),
});

function filtersOf({ scene, sensor, only, after, before, box }) {
  return { scene, sensor, only, after, before, box };
}

// Ask a new question: it goes into the address bar, so that it can be gone back from and be shared.
function ask(next) {
  question = next;
  history.pushState(null, "", toAddress(next));
  run();
}

async function run() {
  running?.abort();
  running = new AbortController();
  const mine = running;
  byId("text").value = question.text;
  showParts();
  filters.show(question);
  map.showBox(question.box);
  say("");
  if (!isAsked(question)) { showArchive(); return; }
  document.body.classList.add("busy");
  try {
    const found = await search(question, mine.signal);
    if (mine !== running) return;
    showHits(found);
  } catch (error) {
    if (error.name !== "AbortError" && mine === running) say(error.message);
  } finally {
    if (mine === running) document.body.classList.remove("busy");
  }
}

function showHits(found) {
  hits = found.hits;
  byId("welcome").hidden = true;
  byId("save").hidden = !hits.length;
  byId("more").hidden = hits.length < question.k || question.k >= MOST;
  say(found.doubts.join(" "), true);
  byId("group").hidden = !archive.placed;
  byId("one-per-place").checked = question.group === "place";
  const among = isFiltered(question) ? `the ${plural(found.total, "image")} that pass the filter` : plural(found.total, "image");
  byId("count").textContent = hits.length ? `The best ${thousands(hits.length)} of ${among}` : "No image passes the filter.";
  detail.setHits(hits, true, archive.has_belief, question.text);
  showCards(hits, (position) => detail.open(position), (id) => map.light(id));
  map.showHits(hits);
  const placed = hits.filter((hit) => hit.bounds).length;
  byId("map-note").textContent = placed === hits.length ? "" : placed
    ? `${thousands(placed)} of these ${thousands(hits.length)} images have a place on the ground.`
    : "None of these images has a place on the ground.";
}

// Before the first question: what there is.
function showArchive() {
  hits = archive.sample;
  byId("welcome").hidden = false;
  byId("save").hidden = true;
  byId("group").hidden = true;
  byId("more").hidden = true;
  byId("count").textContent = isFiltered(question) ? "Filters apply from the first search on." : "A sample of the archive";
  detail.setHits(hits, false, archive.has_belief);
  showCards(hits, (position) => detail.open(position), (id) => map.light(id));
  map.showPlaces(archive.places);
  byId("map-note").textContent = archive.placed
    ? `${thousands(archive.placed)} of ${plural(archive.images, "image")} have a place on the ground.`
    : "No image of this archive has a place on the ground.";
}

// Images that the search is asked with, as chips that can be taken away.
function showParts() {
  const parts = [];
  if (question.picture) parts.push(part(sentPicture(question.picture), "like your image", () => ask({ ...question, picture: "" })));
  for (const id of question.like) parts.push(part(thumbnail(id), "like this", () => ask({ ...question, like: question.like.filter((other) => other !== id) })));
  for (const id of question.unlike) parts.push(part(thumbnail(id), "not like this", () => ask({ ...question, unlike: question.unlike.filter((other) => other !== id) }), true));
  if (question.box) parts.push(part(null, "inside the box", () => ask({ ...question, box: "" })));
  fill(byId("parts"), ...parts);
}

function part(picture, text, onRemove, isNo = false) {
  const remove = element("button", { type: "button", "aria-label": `Remove: ${text}` }, "✕");
  remove.addEventListener("click", onRemove);
  return element("span", { className: isNo ? "chip part no" : "chip part" }, picture && element("img", { src: picture, alt: "" }), text, remove);
}

function say(sentence, isHint = false) {
  const box = byId("message");
  box.textContent = sentence;
  box.hidden = !sentence;
  box.classList.toggle("hint", isHint);
}

function setView(name) {
  document.body.dataset.view = name;
  for (const button of byId("view").children) button.setAttribute("aria-pressed", String(button.dataset.view === name));
  if (name === "map") map.look();
}

async function askWithPicture(file) {
  say("");
  try {
    const picture = await sendPicture(file);
    ask({ ...question, picture, like: [], unlike: [], k: STEP });
  } catch (error) {
    say(error.message);
  }
}

async function save(format) {
  byId("save").open = false;
  try {
    const link = element("a", { href: URL.createObjectURL(await saved(question, format)), download: `hits.${format}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    say(error.message);
  }
}

function listen() {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = byId("text").value.trim();
    if (!text && !isAsked({ ...question, text })) { say("Describe what you want to see, or choose an image."); return; }
    ask({ ...question, text, unlike: text === question.text ? question.unlike : [], k: STEP });
  });
  byId("choose").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", (event) => {
    if (event.target.files.length) askWithPicture(event.target.files[0]);
    event.target.value = "";
  });
  byId("one-per-place").addEventListener("change", (event) => ask({ ...question, group: event.target.checked ? "place" : "none", k: STEP }));
  byId("more").addEventListener("click", () => { question = { ...question, k: Math.min(MOST, question.k + STEP) }; history.replaceState(null, "", toAddress(question)); run(); });
  for (const button of byId("view").children) button.addEventListener("click", () => setView(button.dataset.view));
  for (const button of byId("save").querySelectorAll("[data-format]")) button.addEventListener("click", () => save(button.dataset.format));
  document.addEventListener("click", (event) => { if (!byId("save").contains(event.target)) byId("save").open = false; });
  addEventListener("popstate", () => { question = fromAddress(location.search); run(); });
  document.addEventListener("paste", (event) => { const [file] = event.clipboardData.files; if (file) askWithPicture(file); });
  listenToDrops();
}

function listenToDrops() {
  const hasFile = (event) => [...event.dataTransfer.types].includes("Files");
  document.addEventListener("dragover", (event) => { if (hasFile(event)) { event.preventDefault(); byId("drop").hidden = false; } });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").hidden = true; });
  document.addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    byId("drop").hidden = true;
    askWithPicture(event.dataTransfer.files[0]);
  });
}

async function start() {
  document.body.dataset.view = "images";
  try {
    archive = await loadArchive();
  } catch (error) {
    say(error.message);
    return;
  }
  document.title = `${archive.name}: search satellite images`;
  byId("archive-name").textContent = archive.name;
  const parts = archive.images === archive.files ? plural(archive.images, "image") : `${plural(archive.images, "image")} from ${plural(archive.files, "file")}`;
  const facts = [parts, archive.scenes.length && plural(archive.scenes.length, "scene label"), archive.dates && years(archive.dates)];
  byId("holdings").textContent = archive.images ? facts.filter(Boolean).join(" · ") : "This archive is empty: add images with pir index.";
  fill(byId("examples"), ...archive.examples.map((text) => {
    const chip = element("button", { type: "button", className: "chip" }, text);
    chip.addEventListener("click", () => ask({ ...question, text, k: STEP }));
    return chip;
  }));
  filters.setArchive(archive);
  listen();
  run();
}

const years = ([first, last]) => (first.slice(0, 4) === last.slice(0, 4) ? first.slice(0, 4) : `${first.slice(0, 4)} to ${last.slice(0, 4)}`);

start();
