// The three planes, small: where the slice lies in the head, and what of it is enlarged.

import { fromVoxel, toVoxel } from "./geometry.js";
import { PLANES } from "./view.js";

export class Planes {
  constructor(root, parts) {
    Object.assign(this, { root, ...parts });
    this.boxes = PLANES.map((plane) => this.box(plane));
    root.append(...this.boxes.map(({ element }) => element));
    new ResizeObserver(() => this.draw()).observe(root);
  }

  box(plane) {
    const element = document.createElement("div");
    const canvas = document.createElement("canvas");
    const button = document.createElement("button");
    element.className = "plane";
    canvas.setAttribute("aria-hidden", "true");
    button.append(document.createElement("span"), document.createElement("span"));
    button.firstChild.textContent = plane[0].toUpperCase() + plane.slice(1);
    button.addEventListener("click", () => this.view.setPlane(plane));
    element.append(canvas, button);
    const box = { plane, element, canvas, button, painted: document.createElement("canvas") };
    const go = (event) => event.buttons & 1 && this.go(box, event);
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      go(event);
    });
    canvas.addEventListener("pointermove", go);
    return box;
  }

  // Go to the place that was clicked: the other planes show it, and so does the picture.
  go(box, event) {
    const { plane } = box;
    const of = this.view.volume.planes[plane];
    const bounds = box.canvas.getBoundingClientRect();
    const fit = this.fit(of, bounds.width, bounds.height);
    const limit = (value, high) => Math.min(Math.max(value, 0.5), high - 0.5);
    const row = limit((event.clientY - bounds.top - fit.y) / fit.height * of.rows, of.rows);
    const column = limit((event.clientX - bounds.left - fit.x) / fit.width * of.columns, of.columns);
    const voxel = toVoxel(of, this.view.indexIn(plane), row, column).map(Math.round);
    const [, newRow, newColumn] = fromVoxel(this.view.shown, voxel);
    const centre = plane === this.view.plane ? [row, column] : this.view.centre;
    this.view.set({ voxel, centre: this.isWhole() ? centre : [newRow + 0.5, newColumn + 0.5] }, { moving: true });
  }

  // Whether the picture shows all of the slice: then it stays where it is.
  isWhole() {
    const { grid } = this.stage;
    return grid && [grid.rows, grid.columns].every((axis) => axis.size <= axis.px);
  }

  fit(of, width, height) {
    const mm = [of.rows * of.spacing_mm[0], of.columns * of.spacing_mm[1]];
    const scale = Math.min(width / mm[1], height / mm[0]);
    const size = { width: mm[1] * scale, height: mm[0] * scale };
    return { ...size, x: (width - size.width) / 2, y: (height - size.height) / 2 };
  }

  draw() {
    this.drawing ??= requestAnimationFrame(() => {
      this.drawing = null;
      this.boxes.forEach((box) => this.paint(box));
    });
  }

  paint({ plane, element, canvas, button, painted }) {
    const { view } = this;
    const of = view.volume.planes[plane];
    const index = view.indexIn(plane);
    const isShown = plane === view.plane;
    element.classList.toggle("on", isShown);
    button.setAttribute("aria-pressed", isShown);
    button.lastChild.textContent = `${index + 1}/${of.slices}`;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const context = canvas.getContext("2d");
    const fit = this.fit(of, canvas.width, canvas.height);
    const image = this.slices.get(plane, index);
    if (image) {
      this.grey.paintSlice(painted, image);
      context.imageSmoothingQuality = "high";
      context.drawImage(painted, fit.x, fit.y, fit.width, fit.height);
    }
    context.lineWidth = ratio;
    if (isShown) this.outline(context, fit, of);
    const [, row, column] = fromVoxel(of, view.voxel);
    const x = fit.x + (column + 0.5) / of.columns * fit.width;
    const y = fit.y + (row + 0.5) / of.rows * fit.height;
    context.strokeStyle = "#3fc1c9b0";
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, canvas.height);
    context.moveTo(0, y);
    context.lineTo(canvas.width, y);
    context.stroke();
  }

  outline(context, fit, of) {
    const { grid } = this.stage;
    if (!grid || this.isWhole()) return;
    const along = (axis, length, start, size) => [
      start + Math.max(0, axis.origin / axis.size) * size,
      Math.min(1, (axis.last - axis.first) / axis.size) * size,
    ];
    const [x, width] = along(grid.columns, of.columns, fit.x, fit.width);
    const [y, height] = along(grid.rows, of.rows, fit.y, fit.height);
    context.strokeStyle = "#f0b35e";
    context.strokeRect(x, y, width, height);
  }
}
