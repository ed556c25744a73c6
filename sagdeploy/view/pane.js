// One model's attention on a slide: the slide in deep zoom, its overlay, its legend.

import { Overlay, frame } from "./overlay.js";

const SCALE_NAMES = { percentile: "attention, percentile among the slide's tiles", raw: "attention, share of the slide's whole" };
const BAR_PX = 110;
const AROUND = 5; // sides of a tile that are shown when it is stepped to

// A tile that arrives after its slide was left is no news; every other warning is.
OpenSeadragon.console = Object.assign(Object.create(console), {
  warn: (text, ...rest) => { if (!text.startsWith("Ignoring tile %s loaded before reset")) console.warn(text, ...rest); },
});

export class Pane {
  constructor(model, template, onTouch) {
    this.model = model;
    this.element = template.content.cloneNode(true).firstElementChild;
    this.onTouch = onTouch;
  }

  start() { // once the element is on the page
    const stage = this.find(".stage");
    this.viewer = OpenSeadragon({
      element: stage, drawer: "canvas", showNavigationControl: false, showNavigator: this.model === 0,
      navigatorPosition: "TOP_RIGHT", navigatorSizeRatio: .15, maxZoomPixelRatio: 4, minZoomImageRatio: .8, visibilityRatio: .4, animationTime: .35,
      keyboardNavEnabled: false, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    });
    this.overlay = new Overlay(this.viewer);
    this.mark = document.createElement("div");
    this.mark.className = "mark";
    this.mark.hidden = true;
    this.viewer.canvas.append(this.mark);
    this.viewer.addHandler("update-viewport", () => this.place());
    for (const event of ["canvas-press", "canvas-scroll"]) this.viewer.addHandler(event, () => this.onTouch(this));
    this.viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; });
  }

  find(selector) { return this.element.querySelector(selector); }

  // slide: its summary; source: what the server says of its pixels
  open(slide, source, finding) {
    this.slide = slide;
    this.describe(finding);
    this.tile = null;
    this.overlay.show(null);
    this.element.removeAttribute("data-loaded");
    const [width, height] = slide.size_l0, largest = Math.max(width, height);
    const maxLevel = source.found ? Math.ceil(Math.log2(largest)) : 0;
    const tileSize = source.found ? source.tile_px : largest;
    const minLevel = Math.max(0, maxLevel - Math.ceil(Math.log2(largest / tileSize)));
    this.viewer.open({
      width, height, tileSize, tileOverlap: 0, minLevel, maxLevel,
      getTileUrl: (level, x, y) => source.found ? `${slide.key}/tiles/${level}/${x}_${y}.jpg` : `${slide.key}/thumbnail.jpg`,
    });
    this.viewer.addOnceHandler("open", () => {
      const item = this.viewer.world.getItemAt(0);
      const loaded = (event) => { if (event.fullyLoaded) this.element.dataset.loaded = slide.slide_id; };
      item.addHandler("fully-loaded-change", loaded);
      if (item.getFullyLoaded()) loaded({ fullyLoaded: true });
    });
  }

  describe(finding) {
    this.find(".model").textContent = finding ? [finding.model, finding.guidance.map((term) => term.toUpperCase()).join(" + ")].filter(Boolean).join(", ") : "";
    const text = this.find(".finding"), report = this.find(".report"), warning = this.find(".warning");
    text.replaceChildren();
    text.title = "";
    report.hidden = finding?.status !== "done";
    warning.hidden = !finding?.warnings.length;
    warning.textContent = finding?.warnings.join("; ") ?? "";
    if (!finding) text.textContent = "no result of this model";
    else if (finding.status !== "done") text.textContent = finding.message;
    else {
      const label = document.createElement("b");
      label.textContent = `${finding.label} ${percent(finding.probabilities[finding.label])}`;
      const tissue = finding.on_tissue.map(percent).join(", ");
      text.append(label, `${finding.calibrated ? "" : " (not calibrated)"} · attention on tissue ${tissue}`);
      text.title = text.textContent;
      report.href = `${this.slide.key}/${this.model}/report.html`;
    }
  }

  show(map, scale, colours) {
    this.map = map;
    this.overlay.show(map, map?.shades[scale], colours);
    this.find(".legend").hidden = !map;
    if (!map) return;
    this.find(".name").textContent = SCALE_NAMES[scale];
    const pen = this.find(".ramp").getContext("2d");
    colours.slice(1).forEach(([r, g, b], x) => { pen.fillStyle = `rgb(${r} ${g} ${b})`; pen.fillRect(x, 0, 1, 1); });
    this.element.querySelectorAll(".ticks span").forEach((tick, fourth) => {
      tick.textContent = scale === "percentile" ? 25 * fourth : `${Number((25 * fourth * map.top[0].attention).toPrecision(3))} %`;
    });
  }

  goTo(rank) {
    this.tile = this.map.xy_l0[this.map.top[rank].row];
    const [x, y] = this.tile, [width, height] = this.map.size_l0, per = this.slide.size_l0[0];
    const margin = (AROUND - 1) / 2;
    this.viewer.viewport.fitBounds(new OpenSeadragon.Rect(
      (x - margin * width) / per, (y - margin * height) / per, AROUND * width / per, AROUND * height / per));
    this.place();
  }

  fit() { this.viewer.viewport.goHome(); }

  // The mark around the tile that was stepped to, and the scale bar.
  place() {
    if (!this.viewer.world.getItemCount()) return;
    const { x, y, scale } = frame(this.viewer);
    this.mark.hidden = !this.tile || !this.map;
    if (!this.mark.hidden) {
      const [left, top] = this.tile, [width, height] = this.map.size_l0;
      Object.assign(this.mark.style, {
        left: `${x + scale * left}px`, top: `${y + scale * top}px`, width: `${scale * width}px`, height: `${scale * height}px`,
      });
    }
    const um = niceLength(BAR_PX * this.slide.mpp / scale), bar = this.find(".bar span");
    bar.style.width = `${um * scale / this.slide.mpp}px`;
    bar.textContent = um >= 1000 ? `${um / 1000} mm` : `${um} µm`;
  }

  // Look at what another pane looks at.
  follow(other) {
    if (!this.viewer.isOpen() || !other.viewer.isOpen()) return;
    const { viewport } = this.viewer, { viewport: leading } = other.viewer;
    viewport.zoomTo(leading.getZoom(true), null, true);
    viewport.panTo(leading.getCenter(true), true);
  }
}

export function percent(share) { return `${(100 * share).toFixed(1)} %`; }

function niceLength(length) {
  const power = 10 ** Math.floor(Math.log10(length));
  return [5, 2, 1].map((digit) => digit * power).find((nice) => nice <= length) ?? power;
}
