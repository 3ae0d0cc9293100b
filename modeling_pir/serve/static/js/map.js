// The map: land and borders from a file beside this one, images as counted pins, their pictures in their place when
// near enough, and a box that can be drawn. Nothing is loaded from elsewhere.

import { thumbnail } from "./api.js";
import { element, plural } from "./dom.js";

const PIN_PIXELS = 44; // pins nearer than this become one
const PICTURE_PIXELS = 28; // a picture that would be smaller is not drawn into the map
const MAX_PICTURES = 60;
const NUM_LOOKED_AT = 9; // best hits that the map moves to: a far one behind them would shrink all others to a dot
const EARTH = L.latLngBounds([-58, -170], [75, 178]);
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class ArchiveMap {
  // `onOpen(position)`, `onPoint(id or null)`, `onBox("west,south,east,north")`
  constructor(node, { onOpen, onPoint, onBox }) {
    this.onOpen = onOpen;
    this.onPoint = onPoint;
    this.onBox = onBox;
    this.map = L.map(node, {
      minZoom: 0, maxZoom: 19, zoomSnap: 0.25, zoomControl: false, attributionControl: true, preferCanvas: true,
      maxBounds: [[-89, -400], [89, 400]], worldCopyJump: true,
    });
    this.map.attributionControl.setPrefix(false).addAttribution("Land and borders: Natural Earth");
    L.control.zoom({ position: "topright" }).addTo(this.map);
    L.control.scale({ imperial: false }).addTo(this.map);
    for (const [name, height] of [["land", 200], ["pictures", 300]]) this.map.createPane(name).style.zIndex = height;
    this.pictures = L.layerGroup().addTo(this.map);
    this.outlines = L.layerGroup().addTo(this.map);
    this.pins = L.layerGroup().addTo(this.map);
    this.boxLayer = L.layerGroup().addTo(this.map);
    this.items = [];
    this.map.on("zoomend moveend", () => this.draw());
    this.map.fitBounds(EARTH);
    this.loadLand();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paintLand());
    new ResizeObserver(() => this.map.invalidateSize({ animate: false })).observe(node);
  }

  async loadLand() {
    const answer = await fetch("natural_earth_110m.json");
    if (!answer.ok) return;
    this.land = L.geoJSON(await answer.json(), { interactive: false, pane: "land", renderer: L.canvas({ pane: "land", padding: 0.5 }) }).addTo(this.map);
    this.paintLand();
  }

  paintLand() {
    this.land?.setStyle((feature) => feature.properties.kind === "land"
      ? { stroke: true, color: style("--coast"), weight: 1, fill: true, fillColor: style("--land"), fillOpacity: 1 }
      : { stroke: true, color: style("--border"), weight: 1, fill: false });
    this.draw();
  }

  // Counted dots for a whole archive: [longitude, latitude, count].
  showPlaces(places) {
    this.items = places.map(([x, y, count]) => ({ at: L.latLng(y, x), bounds: L.latLngBounds([y, x], [y, x]), count }));
    this.look();
  }

  showHits(hits) {
    this.items = hits.flatMap((hit, position) => {
      if (!hit.bounds) return [];
      const [west, south, rawEast, north] = hit.bounds;
      const east = rawEast < west ? rawEast + 360 : rawEast; // across the antimeridian
      const bounds = L.latLngBounds([south, west], [north, east]);
      return [{ at: bounds.getCenter(), bounds, count: 1, hit, position }];
    });
    this.look();
  }

  // Move to where the images are.
  look() {
    this.map.invalidateSize({ animate: false });
    this.map.closePopup();
    const best = this.items[0]?.hit ? this.items.slice(0, NUM_LOOKED_AT) : this.items;
    if (best.length) {
      const [{ bounds }] = best;
      const all = best.reduce((sum, item) => sum.extend(item.bounds), L.latLngBounds(bounds.getSouthWest(), bounds.getNorthEast()));
      this.map.fitBounds(all, { maxZoom: 15, padding: [36, 36], animate: false });
    } else {
      this.map.fitBounds(EARTH, { animate: false });
    }
    this.draw();
  }

  draw() {
    if (!this.map._loaded) return;
    this.pins.clearLayers();
    this.drawPictures();
    for (const group of this.groups()) this.drawPin(group);
  }

  // Items that are near each other on the screen.
  groups() {
    const groups = [];
    for (const item of this.items) {
      const point = this.map.latLngToLayerPoint(item.at);
      const near = groups.find((group) => group.point.distanceTo(point) < PIN_PIXELS);
      if (near) near.items.push(item);
      else groups.push({ point, items: [item] });
    }
    return groups;
  }

  drawPin({ items }) {
    const count = items.reduce((sum, item) => sum + item.count, 0);
    const single = items.length === 1 && items[0].hit ? items[0] : null;
    const size = single ? 24 : Math.min(52, 24 + 7 * Math.log10(count + 1));
    const html = element("span", {}, single ? String(single.hit.rank) : count > 9999 ? `${Math.round(count / 1000)}k` : String(count));
    const icon = L.divIcon({ className: `pin${single ? "" : " many"}`, html, iconSize: [size, size] });
    const title = single ? single.hit.path : plural(count, "image");
    const pin = L.marker(items[0].at, { icon, title, keyboard: true, alt: title }).addTo(this.pins);
    pin.ids = items.map((item) => item.hit?.id);
    pin.on("click", () => (single ? this.onOpen(single.position) : this.open(items)));
    if (single) {
      pin.on("mouseover", () => this.onPoint(single.hit.id));
      pin.on("mouseout", () => this.onPoint(null));
    }
  }

  // A pin of several images: nearer, or their pictures where nearer does not part them.
  open(items) {
    const bounds = items.reduce((sum, item) => sum.extend(item.at), L.latLngBounds(items[0].at, items[0].at));
    const apart = this.map.latLngToLayerPoint(bounds.getNorthEast()).distanceTo(this.map.latLngToLayerPoint(bounds.getSouthWest()));
    if (apart * 2 ** (17 - this.map.getZoom()) > PIN_PIXELS || !items[0].hit) {
      this.map.fitBounds(bounds.pad(0.3), { maxZoom: Math.min(17, this.map.getZoom() + 6) });
      return;
    }
    const pictures = items.map((item) => {
      const button = element("button", { type: "button", title: item.hit.path },
        element("img", { src: thumbnail(item.hit.id), alt: item.hit.path, loading: "lazy" }),
        element("span", { className: "rank" }, String(item.hit.rank)));
      button.addEventListener("click", () => this.onOpen(item.position));
      return button;
    });
    const content = element("div", { style: "display: contents" }, ...pictures);
    L.popup({ minWidth: 240, maxWidth: 260 }).setLatLng(items[0].at).setContent(content).openOn(this.map);
  }

  drawPictures() {
    this.pictures.clearLayers();
    this.outlines.clearLayers();
    const view = this.map.getBounds().pad(0.2);
    const seen = this.items.filter((item) => item.hit && view.intersects(item.bounds));
    const wide = seen.filter((item) => this.pixels(item.bounds) >= PICTURE_PIXELS).slice(0, MAX_PICTURES);
    for (const item of wide.reverse()) {
      L.imageOverlay(thumbnail(item.hit.id), item.bounds, { pane: "pictures", alt: "" }).addTo(this.pictures);
      L.rectangle(item.bounds, { color: style("--accent"), weight: 1.5, fill: false, interactive: false }).addTo(this.outlines);
    }
  }

  pixels(bounds) {
    const [one, two] = [bounds.getSouthWest(), bounds.getNorthEast()].map((corner) => this.map.latLngToLayerPoint(corner));
    return Math.min(Math.abs(one.x - two.x), Math.abs(one.y - two.y));
  }

  light(id) {
    this.pins.eachLayer((pin) => pin.getElement()?.classList.toggle("lit", id !== null && pin.ids.includes(id)));
  }

  showBox(text) {
    this.boxLayer.clearLayers();
    const [west, south, rawEast, north] = text.split(",").map(Number);
    if (![west, south, rawEast, north].every(Number.isFinite)) return;
    const east = rawEast < west ? rawEast + 360 : rawEast;
    L.rectangle([[south, west], [north, east]], { color: style("--accent"), weight: 2, dashArray: "6 5", fillOpacity: 0.06, interactive: false }).addTo(this.boxLayer);
  }

  // One box, from a corner to the opposite one; with a finger as with a mouse. Escape ends it.
  drawBox() {
    const node = this.map.getContainer();
    const end = () => {
      node.classList.remove("drawing");
      this.map.dragging.enable();
      node.removeEventListener("pointerdown", start, true);
      document.removeEventListener("keydown", escape);
    };
    const escape = (event) => event.key === "Escape" && end();
    const start = (down) => {
      down.preventDefault();
      down.stopPropagation();
      const first = this.map.mouseEventToLatLng(down);
      const rectangle = L.rectangle([first, first], { color: style("--accent"), weight: 2, dashArray: "6 5", fillOpacity: 0.1 }).addTo(this.map);
      const move = (event) => rectangle.setBounds([first, this.map.mouseEventToLatLng(event)]);
      const up = () => {
        document.removeEventListener("pointermove", move);
        rectangle.remove();
        end();
        const bounds = rectangle.getBounds();
        if (this.pixels(bounds) > 3) this.onBox(asText(bounds));
      };
      document.addEventListener("pointermove", move);
      document.addEventListener("pointerup", up, { once: true });
    };
    node.classList.add("drawing");
    this.map.dragging.disable();
    node.addEventListener("pointerdown", start, true);
    document.addEventListener("keydown", escape);
  }
}

// "west,south,east,north", longitudes in [-180, 180]; the whole globe where the box is as wide.
function asText(bounds) {
  const turned = (x) => ((((x + 180) % 360) + 360) % 360) - 180;
  const isGlobe = bounds.getEast() - bounds.getWest() >= 360;
  const [west, east] = isGlobe ? [-180, 180] : [turned(bounds.getWest()), turned(bounds.getEast())];
  const [south, north] = [Math.max(-90, bounds.getSouth()), Math.min(90, bounds.getNorth())];
  return [west, south, east, north].map((value) => Number(value.toFixed(5))).join(",");
}
