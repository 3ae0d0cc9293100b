// The images as cards.

import { thumbnail } from "./api.js";
import { byId, element, fileName, fill } from "./dom.js";

const gallery = byId("gallery");

// `onOpen(position)` when a card is chosen; `onPoint(id or null)` when the mouse is over one.
export function showCards(hits, onOpen, onPoint) {
  const scores = hits.map((hit) => hit.similarity).filter((value) => value !== null);
  const [low, high] = [Math.min(0, ...scores), Math.max(...scores)];
  fill(gallery, ...hits.map((hit, position) => card(hit, position, (hit.similarity - low) / (high - low || 1), onOpen, onPoint)));
}

function card(hit, position, share, onOpen, onPoint) {
  const image = element("img", { src: thumbnail(hit.id), alt: "", loading: position < 12 ? "eager" : "lazy", decoding: "async" });
  image.addEventListener("error", () => {
    image.replaceWith(element("div", { className: "gone" }, "This image cannot be shown: its file is missing or damaged."));
  }, { once: true });
  const isRanked = hit.similarity !== null;
  const known = hit.scene || hit.date || hit.sensor;
  const button = element("button", { type: "button", title: hit.path },
    image,
    isRanked ? element("div", { className: "meter" }, bar(share)) : null,
    element("div", { className: "caption" },
      element("b", {}, shortName(hit)),
      element("span", {}, [isRanked ? hit.similarity.toFixed(2) : "", known].filter(Boolean).join(" · ") || "\u00a0")),
    isRanked ? element("span", { className: "rank" }, String(hit.rank)) : null,
    hit.others ? element("span", { className: "others", title: `${hit.others} more at this place` }, `+${hit.others}`) : null);
  button.addEventListener("click", () => onOpen(position));
  const made = element("li", { className: "card" }, button);
  made.dataset.id = hit.id;
  made.addEventListener("mouseenter", () => onPoint(hit.id));
  made.addEventListener("mouseleave", () => onPoint(null));
  return made;
}

function bar(share) {
  const made = element("i");
  made.style.width = `${Math.round(100 * Math.max(0.02, share))}%`;
  return made;
}

// Begin and end of a long name: numbers that tell files apart are at the end.
export function shortName(hit, most = 21) {
  const name = fileName(hit.path);
  return name.length <= most ? name : `${name.slice(0, 9)}…${name.slice(-(most - 10))}`;
}

export function lightCard(id, intoView = false) {
  for (const other of gallery.querySelectorAll(".lit")) other.classList.remove("lit");
  const found = id && gallery.querySelector(`[data-id="${CSS.escape(id)}"]`);
  if (!found) return;
  found.classList.add("lit");
  if (intoView) found.scrollIntoView({ block: "nearest", behavior: "smooth" });
}
