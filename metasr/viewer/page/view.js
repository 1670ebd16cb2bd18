// What is looked at, and how: kept in the address, so that it can be come back to.

import { clamp, fromVoxel, MAX_ZOOM } from "./geometry.js";

export const PLANES = ["axial", "coronal", "sagittal"];
export const MODES = ["wipe", "side", "blink", "sr"];
export const COMPARED = ["bicubic", "nearest"];
const WRITE_MS = 300; // browsers refuse an address that changes too often

export class View {
  constructor(volume, onChange) {
    Object.assign(this, { volume, onChange, movedAt: 0 });
    this.plane = "axial";
    this.voxel = [...volume.start];
    this.zoom = null; // until the size of the picture is known: as much as fits
    this.centre = null;
    this.mode = "wipe";
    this.method = "bicubic";
    this.tool = "pan";
    this.wipe = 0.5;
    this.window = [...volume.window];
    this.showsOther = false; // in blink: which of the two
    this.read();
  }

  get shown() { return this.volume.planes[this.plane]; }

  get index() { return this.indexIn(this.plane); }

  indexIn(plane) {
    const of = this.volume.planes[plane];
    return clamp(Math.round(fromVoxel(of, this.voxel)[0]), 0, of.slices - 1);
  }

  // Change some of it; what changes the picture's place or scale is a movement.
  set(changes, { moving = false } = {}) {
    Object.assign(this, changes);
    if (moving) this.movedAt = performance.now();
    this.zoom = clamp(this.zoom, 1, MAX_ZOOM);
    const { rows, columns } = this.shown;
    this.centre = [clamp(this.centre[0], 0, rows), clamp(this.centre[1], 0, columns)];
    this.wipe = clamp(this.wipe, 0, 1);
    this.onChange();
    this.write();
  }

  setPlane(plane) {
    const [, row, column] = fromVoxel(this.volume.planes[plane], this.voxel);
    this.plane = plane;
    this.set({ centre: [row + 0.5, column + 0.5] });
  }

  step(slices) {
    const of = this.shown;
    const axis = of.to_voxel.findIndex((row) => row[0] !== 0);
    if (axis < 0) return;
    const index = clamp(this.index + slices, 0, of.slices - 1);
    const voxel = [...this.voxel];
    voxel[axis] = of.to_voxel[axis][0] * index + of.to_voxel[axis][3];
    this.set({ voxel });
  }

  write() {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      history.replaceState(null, "", `#${this.address()}`);
    }, WRITE_MS);
  }

  address() {
    const round = (value) => +value.toPrecision(6);
    return new URLSearchParams({
      plane: this.plane,
      voxel: this.voxel.join(","),
      zoom: round(this.zoom),
      at: this.centre.map(round).join(","),
      mode: this.mode,
      with: this.method,
      wipe: round(this.wipe),
      window: this.window.map(round).join(","),
    }).toString().replaceAll("%2C", ",");
  }

  // Take from the address what is valid in it.
  read() {
    const given = new URLSearchParams(location.hash.slice(1));
    const numbers = (name, count) => {
      const found = (given.get(name) ?? "").split(",").map((word) => (word.trim() ? Number(word) : NaN));
      return found.length === count && found.every(Number.isFinite) ? found : null;
    };
    const word = (name, allowed, otherwise) => (allowed.includes(given.get(name)) ? given.get(name) : otherwise);
    this.plane = word("plane", PLANES, this.plane);
    this.mode = word("mode", MODES, this.mode);
    this.method = word("with", COMPARED, this.method);
    const voxel = numbers("voxel", 3);
    if (voxel) this.voxel = voxel.map((at, n) => clamp(Math.round(at), 0, this.volume.shape[n] - 1));
    const window = numbers("window", 2);
    if (window && window[1] > window[0]) this.window = window;
    const zoom = numbers("zoom", 1);
    if (zoom) this.zoom = clamp(zoom[0], 1, MAX_ZOOM);
    const at = numbers("at", 2);
    if (at) this.centre = [clamp(at[0], 0, this.shown.rows), clamp(at[1], 0, this.shown.columns)];
    this.wipe = clamp(numbers("wipe", 1)?.[0] ?? this.wipe, 0, 1);
  }
}
