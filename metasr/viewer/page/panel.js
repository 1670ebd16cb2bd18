// The controls beside the picture, and what is under the cursor.

import { MAX_ZOOM, toMm, toSlice, toVoxel } from "./geometry.js";

const $ = (id) => document.getElementById(id);
const NAMES = { bicubic: "Bicubic", nearest: "Nearest" };

// As many digits as a difference of a thousandth of the window needs.
export function formatter(window) {
  const digits = Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(Math.max(window[1] - window[0], 1e-9)))));
  return (value) => (Number.isFinite(value) ? value.toFixed(digits) : "-");
}

export class Panel {
  constructor({ view, stage, pointer }) {
    Object.assign(this, { view, stage, pointer, format: formatter(view.volume.window) });
    for (const name of ["mode", "method", "tool"]) this.segments(name);
    $("zoom").addEventListener("input", (event) => {
      pointer.zoomBy(MAX_ZOOM ** event.target.value / view.zoom);
    });
    $("slice").addEventListener("input", (event) => view.step(event.target.value - view.index));
    for (const name of ["level", "width"]) $(name).addEventListener("input", () => this.setWindow());
    $("window-reset").addEventListener("click", () => view.set({ window: [...view.volume.window] }));
    this.wipeByKeys($("divider"));
  }

  segments(name) {
    const buttons = [...$(name).children];
    for (const button of buttons) {
      button.addEventListener("click", () => {
        this.view.set({ [name]: button.dataset.value, blinksByHand: false });
      });
      button.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const next = buttons[(buttons.indexOf(button) + step + buttons.length) % buttons.length];
        next.focus();
        next.click();
      });
    }
  }

  wipeByKeys(divider) {
    divider.addEventListener("keydown", (event) => {
      const to = { Home: 0, End: 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.view.set({ wipe: to });
    });
  }

  setWindow() {
    const { low, high, window } = this.view.volume;
    const level = window[0] + $("level").value * (window[1] - window[0]) * 1.5;
    const width = Math.min(high - low, (window[1] - window[0]) * 10 ** (3 * ($("width").value - 0.67)));
    this.view.set({ window: [level - width / 2, level + width / 2] });
  }

  draw() {
    const { view } = this;
    for (const name of ["mode", "method", "tool"]) {
      for (const button of $(name).children) {
        const isOn = button.dataset.value === view[name];
        button.setAttribute("aria-checked", isOn);
        button.tabIndex = isOn ? 0 : -1;
      }
    }
    const show = (id, value, text) => {
      if (document.activeElement !== $(id) || !$(id).matches(":active")) $(id).value = value;
      $(id).nextElementSibling.textContent = text;
      $(id).setAttribute("aria-valuetext", text);
    };
    show("zoom", Math.log(view.zoom) / Math.log(MAX_ZOOM), `\u00d7${view.zoom.toFixed(2)}`);
    $("slice").max = view.shown.slices - 1;
    show("slice", view.index, `${view.index + 1} / ${view.shown.slices}`);
    const [bottom, top] = view.window;
    const first = view.volume.window;
    const range = first[1] - first[0];
    show("level", ((bottom + top) / 2 - first[0]) / range / 1.5, this.format((bottom + top) / 2));
    show("width", Math.log10((top - bottom) / range) / 3 + 0.67, this.format(top - bottom));
    this.drawHistogram();
    this.hover(this.at);
  }

  drawHistogram() {
    const canvas = $("histogram");
    const context = canvas.getContext("2d");
    const { histogram, window } = this.view.volume;
    const style = getComputedStyle(document.documentElement);
    const [bottom, top] = this.view.window;
    const range = 1.5 * (window[1] - window[0]);
    const highest = Math.max(1, ...histogram);
    const step = canvas.width / histogram.length;
    context.clearRect(0, 0, canvas.width, canvas.height);
    histogram.forEach((count, n) => {
      const value = window[0] + (n + 0.5) / histogram.length * range;
      context.fillStyle = style.getPropertyValue(value >= bottom && value <= top ? "--accent" : "--line");
      const height = Math.sqrt(count / highest) * (canvas.height - 4);
      context.fillRect(n * step, canvas.height - height, step - 1, height);
    });
    context.strokeStyle = style.getPropertyValue("--text");
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo((bottom - window[0]) / range * canvas.width, canvas.height);
    context.lineTo((top - window[0]) / range * canvas.width, 2);
    context.stroke();
  }

  // Show what is at a place of the panel; null where the cursor has left.
  hover(at) {
    this.at = at;
    const { view, stage } = this;
    const { volume, shown, index } = view;
    $("name-other").textContent = NAMES[view.method];
    const [row, column] = at && stage.grid ? toSlice(stage.grid, at.x, at.y) : [-1, -1];
    const isInside = row >= 0 && column >= 0 && row < shown.rows && column < shown.columns;
    const { sr, other, image } = isInside ? stage.codesAt(row, column) : {};
    const value = (code) => (code === undefined ? "-" : this.format(stage.grey.value(code)));
    $("value-sr").textContent = value(sr);
    $("value-other").textContent = value(other);
    $("value-voxel").textContent = image
      ? this.format(image.values[Math.floor(row) * image.columns + Math.floor(column)]) : "-";
    const voxel = isInside && toVoxel(shown, index, row, column);
    const list = (numbers, digits) => numbers.map((number) => number.toFixed(digits)).join("  ");
    $("at-voxel").textContent = voxel ? list(voxel.map(Math.round), 0) : "-";
    $("at-mm").textContent = voxel ? list(toMm(volume.affine, voxel), 1) : "-";
  }
}
