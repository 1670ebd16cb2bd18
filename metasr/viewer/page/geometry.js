// Where pixels lie: slices enlarged to a grid, the part of it that is visible, and the way back to voxels and mm.

export const MAX_ZOOM = 8;
const MAX_SCALE = 16; // what the network is asked for at most, along an axis
const PERIOD = 24;
const CELLS = 5;
const MANY_BELOW = 3.5;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// One axis of the picture: `size` pixels for the whole slice, of which the panel shows `px` from `origin` on.
function axis(length, mm, base, zoom, centre, px) {
  const size = Math.max(length, Math.round(length * zoom * mm / base));
  const scale = size / length;
  const origin = Math.round(centre * scale - px / 2);
  const first = clamp(origin, 0, size);
  return { length, size, fraction: [size, length], scale, origin, px, first, last: clamp(origin + px, 0, size) };
}

// The picture of a panel of `width` x `height` pixels.
export function pictureGrid(plane, view, width, height) {
  const base = Math.min(...plane.spacing_mm);
  return {
    rows: axis(plane.rows, plane.spacing_mm[0], base, view.zoom, view.centre[0], height),
    columns: axis(plane.columns, plane.spacing_mm[1], base, view.zoom, view.centre[1], width),
  };
}

// The same part of the slice at another scale, as a fraction.
function at(axis, [numerator, denominator]) {
  const scale = numerator / denominator;
  const { length } = axis;
  return {
    length, fraction: [numerator, denominator], scale,
    first: Math.floor(axis.first / axis.scale * scale + 1e-9),
    last: Math.min(Math.ceil(axis.last / axis.scale * scale - 1e-9), Math.ceil(length * numerator / denominator)),
  };
}

const each = (grid, change) => ({ rows: change(grid.rows), columns: change(grid.columns) });

// The grid that is asked for at rest: the picture's own, or as fine as the network may be asked for.
export const finest = (grid) => each(grid, (a) => (a.scale <= MAX_SCALE ? a : at(a, [MAX_SCALE, 1])));

// The grid that is asked for while something moves: at a scale near by that is quick to decode.
export const quick = (grid) => each(grid, (a) => at(a, quickFraction(Math.min(a.scale, MAX_SCALE))));

const gcd = (a, b) => (b ? gcd(b, a % b) : a);

// The fraction nearest to a scale that is quick: the network's kernels repeat after at most `PERIOD` pixels, and where
// many voxels are visible after no fewer than `CELLS` of them, which are computed together.
export function quickFraction(scale) {
  const fewest = scale < MANY_BELOW ? CELLS : 1;
  let best = [scale < MANY_BELOW ? Infinity : Math.round(scale), 1];
  for (let q = fewest; q === fewest || q * scale <= PERIOD; q++) {
    const nearest = Math.round(q * scale);
    for (const p of [nearest - 1, nearest, nearest + 1]) {
      if (p < q || p > q * MAX_SCALE || gcd(p, q) > 1) continue;
      if (Math.abs(p / q - scale) < Math.abs(best[0] / best[1] - scale) - 1e-9) best = [p, q];
    }
  }
  return best;
}

export const span = (a) => `${a.fraction.join("/")}:${a.first}:${a.last}`;
export const gridKey = (grid) => `${span(grid.rows)},${span(grid.columns)}`;
export const pixels = (grid) => (grid.rows.last - grid.rows.first) * (grid.columns.last - grid.columns.first);
export const isEmpty = (grid) => pixels(grid) <= 0;

// Where a part of the slice that was computed on one grid lies in the panel of another, in pixels.
export function placed(part, grid) {
  const along = (a, g) => {
    const factor = g.scale / a.scale;
    return [a.first * factor - g.origin, (a.last - a.first) * factor];
  };
  const [y, height] = along(part.rows, grid.rows);
  const [x, width] = along(part.columns, grid.columns);
  return { x, y, width, height };
}

// Whether the computed part covers all that the panel shows.
export function covers(part, grid) {
  const inside = (a, g) => a.first / a.scale <= g.first / g.scale + 1e-6 && a.last / a.scale >= g.last / g.scale - 1e-6;
  return inside(part.rows, grid.rows) && inside(part.columns, grid.columns);
}

// A place in the panel, as a row and column of the slice; 0 is the edge of the first pixel.
export const toSlice = (grid, x, y) => [
  (y + grid.rows.origin) / grid.rows.scale,
  (x + grid.columns.origin) / grid.columns.scale,
];

const apply = (matrix, vector) => matrix.slice(0, 3).map((row) => row.reduce((sum, m, n) => sum + m * vector[n], 0));

// The voxel indices (real numbers; a voxel's centre is whole) of a row and column of a slice.
export const toVoxel = (plane, index, row, column) => apply(plane.to_voxel, [index, row - 0.5, column - 0.5, 1]);

export const toMm = (affine, voxel) => apply(affine, [...voxel, 1]);

// Slice, row and column of a voxel: the matrix is a permutation with signs, so its inverse is its transpose.
export function fromVoxel(plane, voxel) {
  const moved = voxel.map((value, n) => value - plane.to_voxel[n][3]);
  return [0, 1, 2].map((axisIndex) => {
    const n = plane.to_voxel.findIndex((row) => row[axisIndex] !== 0);
    return n < 0 ? 0 : plane.to_voxel[n][axisIndex] * moved[n];
  });
}

// The zoom at which the whole slice fits, as far as the range allows.
export function fittingZoom(plane, width, height) {
  const base = Math.min(...plane.spacing_mm);
  const fit = Math.min(
    width / (plane.columns * plane.spacing_mm[1] / base),
    height / (plane.rows * plane.spacing_mm[0] / base),
  );
  return clamp(fit, 1, MAX_ZOOM);
}

export { clamp };
