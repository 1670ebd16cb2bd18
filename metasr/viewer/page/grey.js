// From 16-bit codes to grey: window and level by a table, onto canvases.

export class Grey {
  constructor(low, high) {
    this.low = low;
    this.high = high;
    this.table = new Uint32Array(65536);
    this.version = 0;
  }

  // Black below the window from `bottom` to `top`, white above it, in the volume's units.
  setWindow(bottom, top) {
    if (this.bottom === bottom && this.top === top) return;
    Object.assign(this, { bottom, top });
    const unit = (this.high - this.low) / 65535;
    const width = Math.max(top - bottom, unit);
    for (let code = 0; code < 65536; code++) {
      const grey = Math.min(255, Math.max(0, Math.round((this.low + code * unit - bottom) / width * 255)));
      this.table[code] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    this.version++;
  }

  // Paint a slice of the volume, voxel by pixel, unless that is what the canvas shows.
  paintSlice(canvas, image) {
    const shows = `${image.key}/${this.version}`;
    if (canvas.dataset.shows === shows) return;
    canvas.dataset.shows = shows;
    canvas.width = image.columns;
    canvas.height = image.rows;
    const context = canvas.getContext("2d");
    const data = context.createImageData(image.columns, image.rows);
    const pixels = new Uint32Array(data.data.buffer);
    for (let n = 0; n < pixels.length; n++) pixels[n] = this.table[Math.round(image.codes[n])];
    context.putImageData(data, 0, 0);
  }

  code(value) { return (value - this.low) / (this.high - this.low) * 65535; }

  value(code) { return this.low + code / 65535 * (this.high - this.low); }
}

// Codes with a size of their own, painted on a canvas when they are needed with another window.
export class Tile {
  constructor(codes, part, key) {
    this.codes = codes;
    this.part = part;
    this.key = key;
    this.width = part.columns.last - part.columns.first;
    this.height = part.rows.last - part.rows.first;
    this.version = -1;
  }

  canvas(grey, reuse) {
    if (this.version === grey.version) return this.painted;
    this.painted ??= reuse ?? document.createElement("canvas");
    if (this.painted.width !== this.width || this.painted.height !== this.height) {
      this.painted.width = this.width;
      this.painted.height = this.height;
    }
    const context = this.painted.getContext("2d");
    const image = context.createImageData(this.width, this.height);
    const pixels = new Uint32Array(image.data.buffer);
    const { codes } = this;
    const { table } = grey;
    for (let n = 0; n < pixels.length; n++) pixels[n] = table[codes[n]];
    context.putImageData(image, 0, 0);
    this.version = grey.version;
    return this.painted;
  }

  // The code at a row and column of the slice; undefined outside.
  at(row, column) {
    const y = Math.floor(row * this.part.rows.scale) - this.part.rows.first;
    const x = Math.floor(column * this.part.columns.scale) - this.part.columns.first;
    return y >= 0 && x >= 0 && y < this.height && x < this.width ? this.codes[y * this.width + x] : undefined;
  }
}
