// What the network is compared with, computed here: nearest neighbour and bicubic interpolation on half-pixel centres.

const A = -0.5; // Keys' coefficient, as in Pillow and in the project's own `resize_bicubic`

function keys(distance) {
  const x = Math.abs(distance);
  if (x < 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
  return x < 2 ? ((x - 5) * x + 8) * x * A - 4 * A : 0;
}

// Four taps for each output pixel of an axis. Beyond the edge there is nothing, and the rest weighs more.
function taps(axis) {
  const count = axis.last - axis.first;
  const where = new Int32Array(count * 4);
  const weights = new Float32Array(count * 4);
  for (let n = 0; n < count; n++) {
    const centre = (axis.first + n + 0.5) / axis.scale - 0.5;
    const first = Math.floor(centre) - 1;
    let sum = 0;
    for (let t = 0; t < 4; t++) {
      const at = first + t;
      const inside = at >= 0 && at < axis.length;
      const weight = inside ? keys(centre - at) : 0;
      where[4 * n + t] = inside ? at : 0;
      weights[4 * n + t] = weight;
      sum += weight;
    }
    for (let t = 0; t < 4; t++) weights[4 * n + t] /= sum || 1;
  }
  return { count, where, weights };
}

// `image` is { codes, rows, columns }: 16-bit codes as floats. The result is 16-bit codes of the part of the grid.
export function bicubic(image, grid) {
  const down = taps(grid.rows);
  const along = taps(grid.columns);
  const top = Math.min(...down.where);
  const bottom = Math.max(...down.where);
  const width = along.count;
  const lines = new Float32Array((bottom - top + 1) * width);
  for (let row = top; row <= bottom; row++) {
    const from = row * image.columns;
    const to = (row - top) * width;
    for (let x = 0, t = 0; x < width; x++, t += 4) {
      lines[to + x] =
        along.weights[t] * image.codes[from + along.where[t]] +
        along.weights[t + 1] * image.codes[from + along.where[t + 1]] +
        along.weights[t + 2] * image.codes[from + along.where[t + 2]] +
        along.weights[t + 3] * image.codes[from + along.where[t + 3]];
    }
  }
  const result = new Uint16Array(down.count * width);
  for (let y = 0, t = 0; y < down.count; y++, t += 4) {
    const [a, b, c, d] = [0, 1, 2, 3].map((n) => (down.where[t + n] - top) * width);
    const [p, q, r, s] = [0, 1, 2, 3].map((n) => down.weights[t + n]);
    for (let x = 0, to = y * width; x < width; x++, to++) {
      const value = p * lines[a + x] + q * lines[b + x] + r * lines[c + x] + s * lines[d + x] + 0.5;
      result[to] = value < 0 ? 0 : value > 65535 ? 65535 : value;
    }
  }
  return result;
}

export function nearest(image, grid) {
  const cells = (axis) => {
    const result = new Int32Array(axis.last - axis.first);
    for (let n = 0; n < result.length; n++) {
      result[n] = Math.min(Math.floor((axis.first + n + 0.5) / axis.scale), axis.length - 1);
    }
    return result;
  };
  const rows = cells(grid.rows);
  const columns = cells(grid.columns);
  const result = new Uint16Array(rows.length * columns.length);
  for (let y = 0, to = 0; y < rows.length; y++) {
    const from = rows[y] * image.columns;
    for (let x = 0; x < columns.length; x++, to++) result[to] = image.codes[from + columns[x]] + 0.5;
  }
  return result;
}

export const METHODS = { bicubic, nearest };
