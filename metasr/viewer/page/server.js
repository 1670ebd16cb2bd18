// What comes from the server: the volume's description, its slices, and windows of them super-resolved.

import { gridKey, span } from "./geometry.js";
import { Tile } from "./grey.js";

const SLICES_KEPT = 160;
const IN_FLIGHT = 2; // one is computed while the other travels
const PAGE = Math.random().toString(36).slice(2);

export async function json(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

// The volume's own slices. `get` answers at once, with undefined while a slice travels.
export class Slices {
  constructor(volume, grey, onArrival) {
    Object.assign(this, { volume, grey, onArrival, kept: new Map(), asked: new Set() });
  }

  get(plane, index) {
    const key = `${plane}/${index}`;
    const found = this.kept.get(key);
    if (!found && !this.asked.has(key)) this.fetch(plane, index, key);
    return found;
  }

  async fetch(plane, index, key) {
    this.asked.add(key);
    try {
      const answer = await fetch(`slice?plane=${plane}&index=${index}`);
      if (!answer.ok) return;
      const values = new Float32Array(await answer.arrayBuffer());
      const { rows, columns } = this.volume.planes[plane];
      const codes = values.map((value) => this.grey.code(value));
      this.kept.set(key, { values, codes, rows, columns, key });
      if (this.kept.size > SLICES_KEPT) this.kept.delete(this.kept.keys().next().value);
      this.onArrival();
    } finally {
      this.asked.delete(key);
    }
  }
}

// Super-resolved windows, the latest first: what was wanted meanwhile, and is no longer, is not asked for.
export class Windows {
  constructor(onArrival, onLost) {
    Object.assign(this, { onArrival, onLost, flying: 0, turn: 0, next: null, wanted: null, arrived: 0 });
  }

  want(plane, index, part) {
    const key = `${plane}/${index}/${gridKey(part)}`;
    if (key === this.wanted) return;
    this.wanted = key;
    this.next = { plane, index, part, key };
    this.send();
  }

  async send() {
    if (!this.next || this.flying >= IN_FLIGHT) return;
    const { plane, index, part, key } = this.next;
    const turn = ++this.turn;
    const asked = performance.now();
    this.next = null;
    this.flying++;
    try {
      const where = `plane=${plane}&index=${index}&rows=${span(part.rows)}&columns=${span(part.columns)}`;
      const answer = await fetch(`window?${where}&page=${PAGE}&turn=${turn}`);
      if (answer.status === 200) {
        const codes = new Uint16Array(await answer.arrayBuffer());
        if (turn > this.arrived) {
          this.arrived = turn;
          const tile = new Tile(codes, part, key);
          const model = answer.headers.get("X-Metasr-Model");
          this.onArrival({ plane, index, tile, model, stages: stages(answer), ms: performance.now() - asked });
        }
      } else if (answer.status === 403) {
        this.onLost("The volume is not open any more: it was not looked at for too long, or the server has started again.");
      } else if (answer.status !== 204) {
        this.onLost(`The server answered ${answer.status}.`);
      }
    } catch {
      this.onLost("The server does not answer any more. Is it still running?");
    } finally {
      this.flying--;
      this.send();
    }
  }
}

function stages(answer) {
  const header = answer.headers.get("Server-Timing") ?? "";
  return Object.fromEntries(header.split(", ").map((part) => part.split(";dur=")).map(([name, ms]) => [name, +ms]));
}
