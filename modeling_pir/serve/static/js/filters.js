// The filters, with the choices that the archive has.

import { byId, element, fill, thousands } from "./dom.js";

const panel = byId("filters");
const button = byId("filter-button");

// `onChange(name, value)`; `onDraw()` to draw a box; `onClear()`
export class Filters {
  constructor({ onChange, onDraw, onClear }) {
    this.onChange = onChange;
    button.addEventListener("click", () => this.toggle(panel.hidden));
    for (const name of ["after", "before"]) byId(name).addEventListener("change", (event) => onChange(name, event.target.value));
    byId("draw").addEventListener("click", onDraw);
    byId("clear").addEventListener("click", onClear);
    panel.addEventListener("submit", (event) => event.preventDefault());
  }

  toggle(isOpen) {
    panel.hidden = !isOpen;
    button.setAttribute("aria-expanded", String(isOpen));
  }

  setArchive(archive) {
    this.archive = archive;
    byId("dates").hidden = !archive.dates;
    byId("area").hidden = !archive.placed;
    if (archive.dates) {
      const [first, last] = [wholeDate(archive.dates[0], "-01-01"), wholeDate(archive.dates[1], "-12-31")];
      for (const name of ["after", "before"]) Object.assign(byId(name), { min: first, max: last });
    }
    button.hidden = !(archive.scenes.length || archive.sensors.length || archive.dates || archive.placed);
  }

  show(question) {
    this.choices("scenes", "scene", this.archive.scenes, question.scene);
    this.choices("sensors", "sensor", this.archive.sensors, question.sensor);
    byId("after").value = wholeDate(question.after, "-01-01");
    byId("before").value = wholeDate(question.before, "-12-31");
    byId("draw").textContent = question.box ? "Draw another box" : "Draw a box on the map";
  }

  choices(id, name, all, chosen) {
    const field = byId(id);
    field.hidden = !all.length;
    fill(field.querySelector(".chips"), ...all.map((item) => {
      const isChosen = chosen.includes(item.name);
      const chip = element("button", { type: "button", className: "chip", "aria-pressed": String(isChosen) }, item.name, element("small", {}, thousands(item.count)));
      chip.addEventListener("click", () => this.onChange(name, isChosen ? chosen.filter((other) => other !== item.name) : [...chosen, item.name]));
      return chip;
    }));
  }
}

// A date field wants a day where an archive may know only a year or a month.
const wholeDate = (text, rest) => (text ? (text + rest.slice(text.length - 4)).slice(0, 10) : "");
