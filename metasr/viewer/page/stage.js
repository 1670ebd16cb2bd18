// The large picture: the slice by interpolation and super-resolved, side by side, under a wipe, or in turn.

import { covers, finest, fittingZoom, gridKey, isEmpty, pictureGrid, placed, quick } from "./geometry.js";
import { Tile } from "./grey.js";
import { METHODS } from "./interpolate.js";

const MOVING_MS = 170; // a movement lasts until nothing has moved for so long
const GAP = 2; // between two panels
const MAX_RATIO = 2; // screen pixels for each CSS pixel: finer ones are not seen
const NAMES = { bicubic: "Bicubic", nearest: "Voxels", sr: "Meta-SRGAN" };

export class Stage {
  constructor(root, parts) {
    Object.assign(this, { root, ...parts, frame: null, other: null, hasModel: false });
    this.canvas = root.querySelector("canvas");
    this.context = this.canvas.getContext("2d", { alpha: false });
    new ResizeObserver(() => this.resize()).observe(root);
    this.resize();
  }

  resize() {
    this.ratio = Math.min(MAX_RATIO, window.devicePixelRatio || 1);
    this.canvas.width = Math.max(1, Math.round(this.root.clientWidth * this.ratio));
    this.canvas.height = Math.max(1, Math.round(this.root.clientHeight * this.ratio));
    if (this.view.zoom === null) this.fit();
    this.view.centre ??= [this.view.shown.rows / 2, this.view.shown.columns / 2];
    this.draw();
  }

  fit() {
    const { rows, columns } = this.view.shown;
    const { width } = this.panels()[0];
    const zoom = fittingZoom(this.view.shown, width, this.canvas.height);
    this.view.set({ zoom, centre: [rows / 2, columns / 2] });
  }

  // Where the picture is drawn, in pixels of the canvas, and what each part shows.
  panels() {
    const { width } = this.canvas;
    const { mode, showsOther } = this.view;
    if (mode === "side") {
      const half = Math.floor((width - GAP) / 2);
      return [{ x: 0, width: half, left: 0, right: half, shows: "other" },
        { x: width - half, width: half, left: 0, right: half, shows: "sr" }];
    }
    if (mode === "wipe") {
      const at = Math.round(this.view.wipe * width);
      return [{ x: 0, width, left: 0, right: at, shows: "other" }, { x: 0, width, left: at, right: width, shows: "sr" }];
    }
    return [{ x: 0, width, left: 0, right: width, shows: mode === "blink" && showsOther ? "other" : "sr" }];
  }

  // Draw before the next frame of the screen, once, however often it is asked for.
  draw() {
    this.drawing ??= requestAnimationFrame(() => {
      this.drawing = null;
      this.paint();
    });
  }

  paint() {
    const { view, context } = this;
    const panels = this.panels();
    const grid = pictureGrid(view.shown, view, panels[0].width, this.canvas.height);
    this.grid = grid;
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    const image = this.slices.get(view.plane, view.index);
    if (image && !isEmpty(grid)) {
      const part = this.part(grid);
      if (this.hasModel) this.windows.want(view.plane, view.index, part);
      for (const panel of panels) this.paintPanel(panel, image, grid, part);
      if (!this.painted) performance.mark("first-picture");
      this.painted = true;
    }
    this.root.dataset.shown = this.state(image, grid);
    this.root.dataset.grid = gridKey(grid);
    this.onPainted(panels);
  }

  // What is computed: at rest what the screen shows; while something moves what is quick.
  part(grid) {
    const left = MOVING_MS - (performance.now() - this.view.movedAt);
    if (left <= 0) return finest(grid);
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.draw(), left + 1);
    return quick(grid);
  }

  paintPanel(panel, image, grid, part) {
    const { context, view } = this;
    context.save();
    context.beginPath();
    context.rect(panel.x + panel.left, 0, panel.right - panel.left, this.canvas.height);
    context.clip();
    context.translate(panel.x, 0);
    const frame = this.current();
    if (panel.shows === "other") {
      this.paintTile(this.interpolated(view.method, image, view.method === "nearest" ? grid : part), grid);
    } else {
      if (!frame || !covers(frame.tile.part, grid)) this.paintTile(this.interpolated("bicubic", image, part), grid);
      if (frame) this.paintTile(frame.tile, grid);
    }
    context.restore();
  }

  paintTile(tile, grid) {
    const { x, y, width, height } = placed(tile.part, grid);
    this.context.imageSmoothingEnabled = tile.width !== width || tile.height !== height;
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(tile.canvas(this.grey), x, y, width, height);
  }

  interpolated(method, image, part) {
    const key = `${method}/${image.key}/${gridKey(part)}`;
    this.other ??= new Map();
    if (!this.other.has(key)) {
      if (this.other.size > 2) this.other.delete(this.other.keys().next().value);
      this.other.set(key, new Tile(METHODS[method](image, part), part, key));
    }
    return this.other.get(key);
  }

  // The newest window of this slice.
  current() {
    const { frame, view } = this;
    return frame && frame.plane === view.plane && frame.index === view.index ? frame : null;
  }

  state(image, grid) {
    const frame = this.current();
    if (!image) return "nothing";
    if (!frame) return "interpolation";
    return gridKey(frame.tile.part) === gridKey(finest(grid)) ? "sr" : "moving";
  }

  receive(frame) {
    const reuse = this.frame?.tile.painted;
    this.frame = frame;
    frame.tile.canvas(this.grey, reuse);
    if (!this.hasSr) performance.mark("first-sr");
    this.hasSr = true;
    this.draw();
    requestAnimationFrame(() => {
      this.root.dispatchEvent(new CustomEvent("frame", {
        detail: { ms: frame.ms, stages: frame.stages, pixels: frame.tile.codes.length, key: frame.tile.key },
      }));
    });
  }

  // The codes of what is shown at a row and column of the slice.
  codesAt(row, column) {
    const image = this.slices.get(this.view.plane, this.view.index);
    const other = [...(this.other?.values() ?? [])].findLast((tile) => tile.key.startsWith(`${this.view.method}/${image?.key}/`));
    return { sr: this.current()?.tile.at(row, column), other: other?.at(row, column), image };
  }

  name(shows) { return NAMES[shows === "other" ? this.view.method : "sr"]; }
}
