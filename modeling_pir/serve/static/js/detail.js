// One image, enlarged: what is known of it, what the model looks at, and where to go from it.

import { largePicture, loadBelief, loadOcclusion, pictureFile, rankSentences, thumbnail } from "./api.js";
import { byId, element, fileName, fill } from "./dom.js";

const dialog = byId("detail");
const image = byId("detail-image");
const canvas = byId("belief");

export class Detail {
  // `onLike(hit)`, `onUnlike(hit)`, `onShow(hit or null)`, `onError(message)`
  constructor({ onLike, onUnlike, onShow }) {
    this.onShow = onShow;
    this.hits = [];
    this.beliefs = new Map();
    byId("close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => onShow(null));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    byId("previous").addEventListener("click", () => this.open(this.position - 1));
    byId("next").addEventListener("click", () => this.open(this.position + 1));
    dialog.addEventListener("keydown", (event) => {
      if (event.target.matches("textarea, input")) return;
      if (event.key === "ArrowLeft") this.open(this.position - 1);
      if (event.key === "ArrowRight") this.open(this.position + 1);
    });
    byId("like").addEventListener("click", () => { dialog.close(); onLike(this.hit); });
    byId("unlike").addEventListener("click", () => { dialog.close(); onUnlike(this.hit); });
    byId("show-belief").addEventListener("change", () => this.showBelief());
    image.addEventListener("load", () => this.showBelief());
    new ResizeObserver(() => this.showBelief()).observe(image);
    byId("rank").addEventListener("submit", (event) => { event.preventDefault(); this.rank(); });
  }

  get hit() { return this.hits[this.position]; }

  // What a PIR with an instruction looks at does not depend on the question; for any other model it is asked of `text`.
  setHits(hits, canBeMarked, hasBelief, text = "") {
    this.hits = hits;
    this.text = hasBelief ? "" : text;
    byId("unlike").hidden = !canBeMarked;
    byId("belief-toggle").hidden = !hasBelief && !text;
  }

  open(position) {
    if (position < 0 || position >= this.hits.length) return;
    this.position = position;
    const hit = this.hit;
    image.src = thumbnail(hit.id); // at once, then the large one
    const large = new Image();
    large.addEventListener("load", () => { if (this.hit === hit) image.src = large.src; });
    large.src = largePicture(hit.id);
    image.alt = `Image ${fileName(hit.path)}`;
    byId("detail-title").textContent = fileName(hit.path);
    fill(byId("detail-facts"), ...terms(facts(hit)));
    fill(byId("detail-labels"), ...terms(Object.entries(hit.labels).map(([name, value]) => [name, String(value)])));
    byId("more-labels").hidden = !Object.keys(hit.labels).length;
    byId("download").href = pictureFile(hit.id);
    byId("previous").disabled = position === 0;
    byId("next").disabled = position === this.hits.length - 1;
    fill(byId("ranked"));
    canvas.hidden = true;
    if (!dialog.open) dialog.showModal();
    this.onShow(hit);
    this.showBelief();
  }

  async showBelief() {
    const note = byId("belief-note");
    const isOn = byId("show-belief").checked && !byId("belief-toggle").hidden && dialog.open;
    if (!isOn) { canvas.hidden = true; note.hidden = true; return; }
    const { hit, text } = this;
    const key = `${hit.id} ${text}`;
    note.hidden = false;
    try {
      if (!this.beliefs.has(key)) {
        note.textContent = "Running the model…";
        this.beliefs.set(key, await (text ? loadOcclusion(hit.id, text) : loadBelief(hit.id)));
      }
      if (this.hit !== hit || this.text !== text) return;
      const belief = this.beliefs.get(key);
      drawBelief(belief.kept);
      note.textContent = text ? `Each of ${belief.kept.length * belief.kept[0].length} squares was covered in turn: without the bright `
        + `ones, the image fits “${text}” less well.` : `The model divides the image into ${belief.num_patches} squares and, before comparing, drops those `
        + `that its scene prior trusts least. Dimmed squares are dropped, the ${belief.num_kept} bright ones count.`;
    } catch (error) {
      note.textContent = error.message;
    }
  }

  async rank() {
    const sentences = byId("sentences").value.split("\n").map((line) => line.trim()).filter(Boolean);
    const list = byId("ranked");
    if (!sentences.length) { fill(list, element("li", {}, "", "Write at least one sentence.")); return; }
    try {
      const found = await rankSentences(this.hit.id, sentences);
      fill(list, ...found.map((item) => element("li", {}, element("b", {}, item.similarity.toFixed(3)), element("span", {}, item.sentence))));
    } catch (error) {
      fill(list, element("li", {}, "", error.message));
    }
  }
}

function facts(hit) {
  const [left, top, width, height] = hit.window || [];
  return [
    ["Similarity", hit.similarity === null ? null : hit.similarity.toFixed(3)],
    ["Relevance", hit.relevance === null ? null : standing(hit.relevance)],
    ["Path", hit.path],
    ["Date", hit.date],
    ["Scene", hit.scene],
    ["Sensor", hit.sensor],
    ["Place", hit.bounds && placeText(hit.bounds)],
    ["Others", hit.others ? `${hit.others} more at this place or on other dates` : null],
    ["Part", hit.window && (left || top || hit.bounds) ? `${width} × ${height} pixels at column ${left}, row ${top}` : hit.window && `${width} × ${height} pixels`],
  ];
}

// The pairs that have a value, as a list of terms.
function terms(pairs) {
  return pairs.filter(([, value]) => value).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
}

// How far a hit's similarity lies above what the query gets from random rows.
function standing(deviations) {
  const word = deviations >= 3 ? "far above" : deviations >= 1.5 ? "above" : deviations >= 0.5 ? "slightly above" : "not above";
  return `${word} the archive's average for this query (${deviations.toFixed(1)} standard deviations)`;
}

function placeText([west, south, rawEast, north]) {
  const east = rawEast < west ? rawEast + 360 : rawEast;
  const [x, y] = [(((west + east) / 2 + 540) % 360) - 180, (south + north) / 2];
  return `${Math.abs(y).toFixed(4)}° ${y < 0 ? "S" : "N"}, ${Math.abs(x).toFixed(4)}° ${x < 0 ? "W" : "E"}`;
}

// Dim the patches that are set aside; the canvas lies exactly over the visible image.
function drawBelief(kept) {
  const box = image.getBoundingClientRect();
  const around = image.parentElement.getBoundingClientRect();
  const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
  if (!Number.isFinite(scale) || !scale) return;
  const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  Object.assign(canvas.style, {
    width: `${width}px`, height: `${height}px`,
    left: `${box.left - around.left + (box.width - width) / 2}px`, top: `${box.top - around.top + (box.height - height) / 2}px`,
  });
  const pen = canvas.getContext("2d");
  const [rows, cols] = [kept.length, kept[0].length];
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = "rgb(6 12 16 / 68%)";
  for (let row = 0; row < rows; row += 1) {
    for (let col = 0; col < cols; col += 1) {
      if (kept[row][col]) continue;
      const [x, y] = [Math.round(col * canvas.width / cols), Math.round(row * canvas.height / rows)];
      pen.fillRect(x, y, Math.round((col + 1) * canvas.width / cols) - x, Math.round((row + 1) * canvas.height / rows) - y);
    }
  }
  canvas.hidden = false;
}
