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
    button.hidden = !(archive.scenes.length || Object.keys(archive.others).length || archive.sensors.length || archive.dates || archive.placed);
  }

  show(question) {
    const column = (name) => (value) => this.onChange(name, toggled(question[name], value));
    showChoices(byId("scenes"), this.archive.scenes, question.scene, column("scene"));
    showChoices(byId("sensors"), this.archive.sensors, question.sensor, column("sensor"));
    fill(byId("others"), ...Object.entries(this.archive.others).map(([name, all]) => {
      const chosen = all.map((item) => item.name).filter((value) => question.only.includes(`${name}=${value}`));
      const field = element("fieldset", {}, element("legend", {}, name), element("div", { className: "chips" }));
      showChoices(field, all, chosen, (value) => this.onChange("only", toggled(question.only, `${name}=${value}`)));
      return field;
    }));
    byId("after").value = wholeDate(question.after, "-01-01");
    byId("before").value = wholeDate(question.before, "-12-31");
    byId("draw").textContent = question.box ? "Draw another box" : "Draw a box on the map";
  }
}

const toggled = (list, value) => (list.includes(value) ? list.filter((other) => other !== value) : [...list, value]);

function showChoices(field, all, chosen, onChoose) {
  field.hidden = !all.length;
  fill(field.querySelector(".chips"), ...all.map((item) => {
    const chip = element("button", { type: "button", className: "chip", "aria-pressed": String(chosen.includes(item.name)) }, item.name, element("small", {}, thousands(item.count)));
    chip.addEventListener("click", () => onChoose(item.name));
    return chip;
  }));
}

// A date field wants a day where an archive may know only a year or a month.
const wholeDate = (text, rest) => (text ? (text + rest.slice(text.length - 4)).slice(0, 10) : "");
