// Mouse, pen and fingers on the picture: slices, zoom, movement, wipe, window and level.

import { clamp, MAX_ZOOM, toSlice } from "./geometry.js";

const WHEEL_STEP = 50; // pixels of a wheel's movement for a slice
const CLICK_PX = 4;

export class Pointer {
  constructor(stage, onHover) {
    Object.assign(this, { stage, onHover, fingers: new Map(), turned: 0 });
    const { root } = stage;
    root.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    root.addEventListener("pointerdown", (event) => this.down(event));
    root.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) root.addEventListener(name, (event) => this.up(event));
    root.addEventListener("pointerleave", () => onHover(null));
    root.addEventListener("dblclick", () => stage.fit());
    root.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  get view() { return this.stage.view; }

  // Pixels of the canvas, in the panel that is pointed at.
  place({ clientX, clientY }) {
    const { root, ratio } = this.stage;
    const bounds = root.getBoundingClientRect();
    const x = (clientX - bounds.left) * ratio;
    const panel = this.stage.panels().find((p) => x >= p.x + p.left && x < p.x + p.right) ?? { x: 0 };
    return { x: x - panel.x, y: (clientY - bounds.top) * ratio, ofWidth: x / this.stage.canvas.width };
  }

  wheel(event) {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 33 : event.deltaMode === 2 ? 400 : 1);
    if (event.ctrlKey || event.metaKey) {
      this.zoomBy(Math.exp(-clamp(pixels, -60, 60) * 0.008), this.place(event));
      return;
    }
    this.turned += pixels;
    const steps = Math.trunc(this.turned / WHEEL_STEP);
    if (!steps) return;
    this.turned -= steps * WHEEL_STEP;
    this.view.step(-Math.sign(steps) * Math.min(Math.abs(steps), 3));
  }

  // Zoom, and keep what is at a place of the panel where it is.
  zoomBy(factor, at) {
    const { view, stage } = this;
    const zoom = clamp(view.zoom * factor, 1, MAX_ZOOM);
    const { x, y } = at ?? { x: stage.grid.columns.px / 2, y: stage.grid.rows.px / 2 };
    const [row, column] = toSlice(stage.grid, x, y);
    const shrink = view.zoom / zoom;
    const [r, c] = view.centre;
    view.set({ zoom, centre: [row + (r - row) * shrink, column + (c - column) * shrink] }, { moving: true });
  }

  down(event) {
    const { root } = this.stage;
    if (event.button === 1) return;
    event.preventDefault();
    root.focus({ preventScroll: true });
    root.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    this.drag = this.dragKind(event);
    this.began = { x: event.clientX, y: event.clientY };
  }

  dragKind(event) {
    if (event.button === 2 || event.shiftKey) return "window";
    if (event.target.closest("#divider")) return "wipe";
    return this.view.tool;
  }

  move(event) {
    const last = this.fingers.get(event.pointerId);
    if (!last) {
      this.onHover(this.place(event));
      return;
    }
    const by = { x: event.clientX - last.x, y: event.clientY - last.y };
    if (this.fingers.size === 2) this.pinch(event, by);
    else if (this.drag === "wipe") this.view.set({ wipe: this.place(event).ofWidth });
    else if (this.drag === "window") this.adjust(by);
    else this.pan(by);
    this.fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    this.onHover(this.place(event));
  }

  pan(by) {
    const { grid, ratio } = this.stage;
    const [row, column] = this.view.centre;
    const centre = [row - by.y * ratio / grid.rows.scale, column - by.x * ratio / grid.columns.scale];
    this.view.set({ centre }, { moving: true });
  }

  pinch(event, by) {
    const [a, b] = [...this.fingers.values()];
    const other = this.fingers.get(event.pointerId) === a ? b : a;
    const before = Math.hypot(event.clientX - by.x - other.x, event.clientY - by.y - other.y);
    const after = Math.hypot(event.clientX - other.x, event.clientY - other.y);
    const middle = { clientX: (event.clientX + other.x) / 2, clientY: (event.clientY + other.y) / 2 };
    if (before > 0) this.zoomBy(after / before, this.place(middle));
    this.pan({ x: by.x / 2, y: by.y / 2 });
  }

  // Across: the window's width. Up and down: its level.
  adjust(by) {
    const [bottom, top] = this.view.window;
    const { volume } = this.view;
    const range = volume.window[1] - volume.window[0];
    const width = Math.max(range / 100, (top - bottom) * Math.exp(by.x * 0.006));
    const level = clamp((bottom + top) / 2 + by.y * range / 500, volume.low, volume.high);
    this.view.set({ window: [level - width / 2, level + width / 2] });
  }

  up(event) {
    const wasClick = this.began && Math.hypot(event.clientX - this.began.x, event.clientY - this.began.y) < CLICK_PX;
    this.fingers.delete(event.pointerId);
    if (wasClick && event.pointerType === "touch") this.onHover(this.place(event));
  }
}
