// The page: what is on it, put together.

import { Grey } from "./grey.js";
import { listen } from "./keys.js";
import { drawOverlay } from "./overlay.js";
import { formatter, Panel } from "./panel.js";
import { Planes } from "./planes.js";
import { Pointer } from "./pointer.js";
import { save } from "./screenshot.js";
import { json, Slices, Windows } from "./server.js";
import { Stage } from "./stage.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const BLINK_MS = 700;
const ASK_MS = 200;
const FPS_MS = 1000;

function complain(text) {
  $("message").textContent = text;
  $("message").hidden = false;
}

async function open() {
  const volume = await json("volume");
  const grey = new Grey(volume.low, volume.high);
  const parts = {};
  let model = null;
  const redraw = () => {
    grey.setWindow(...parts.view.window);
    parts.stage?.draw();
    parts.planes?.draw();
    parts.panel?.draw();
  };
  const slices = new Slices(volume, grey, () => redraw());
  const receive = async (frame) => {
    parts.stage.receive(frame);
    if (model && frame.model !== model.digest) model = await loaded(); // another is in use now
  };
  const windows = new Windows(receive, complain);
  const view = new View(volume, () => redraw());
  parts.view = view;
  grey.setWindow(...view.window);
  const stage = new Stage($("stage"), { view, slices, windows, grey, onPainted: (panels) => drawOverlay(stage, panels) });
  parts.stage = stage;
  parts.planes = new Planes(document.querySelector(".planes"), { view, slices, grey, stage });
  const pointer = new Pointer(stage, (at) => parts.panel.hover(at));
  parts.panel = new Panel({ view, stage, pointer });
  const describe = () => {
    const number = formatter(volume.window);
    const [bottom, top] = view.window;
    const by = model ? `model ${model.digest}` : "no model";
    return `${view.plane} ${view.index + 1}/${view.shown.slices}, scale ${view.zoom.toFixed(2)}, ` +
      `window ${number(bottom)} to ${number(top)}, ${by}. Research software, not a medical device.`;
  };
  const take = () => save(stage, describe);
  $("screenshot").addEventListener("click", take);
  $("help-open").addEventListener("click", () => $("help").showModal());
  listen({ view, stage, pointer, help: $("help"), save: take });
  window.addEventListener("hashchange", () => { view.read(); redraw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  blink(view);
  showLatency(stage);
  introduce(volume);
  redraw();
  $("stage").focus({ preventScroll: true });
  model = await loaded();
  if (!model) return;
  stage.hasModel = true;
  redraw();
}

function introduce(volume) {
  const list = (numbers, digits) => numbers.map((number) => +number.toFixed(digits)).join(" \u00d7 ");
  $("file").textContent = `${volume.name}  \u00b7  ${list(volume.shape, 0)}  \u00b7  ${list(volume.spacing_mm, 2)} mm`;
  document.title = `${volume.name} - metasr view`;
  if (volume.warnings.length) complain(volume.warnings.join("; "));
}

// Wait for the model; null where there will be none.
async function loaded() {
  const told = $("model");
  told.textContent = "loading the model: this is interpolation";
  for (;;) {
    const model = await json("model");
    told.dataset.state = model.state;
    if (model.state === "ready") {
      const [low, high] = model.trained_scales;
      told.textContent = `${model.num_parameters.toLocaleString("en")} parameters, trained on \u00d7${low} to \u00d7${high}`;
      told.title = `bundle ${model.digest}`;
      return model;
    }
    if (model.state === "failed") {
      told.textContent = "no model";
      complain(model.error);
      return null;
    }
    await new Promise((resolve) => setTimeout(resolve, ASK_MS));
  }
}

// Show the two in turn, unless the hand does, or movement is not wanted.
function blink(view) {
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  setInterval(() => {
    if (view.mode === "blink" && !view.blinksByHand && !still.matches) view.set({ showsOther: !view.showsOther });
  }, BLINK_MS);
}

function showLatency(stage) {
  const arrivals = [];
  stage.root.addEventListener("frame", ({ detail: { ms, stages, pixels } }) => {
    const now = performance.now();
    arrivals.push(now);
    while (arrivals[0] < now - FPS_MS) arrivals.shift();
    const rate = arrivals.length > 5 ? `  \u00b7  ${arrivals.length} pictures/s` : "";
    $("latency").textContent = `${ms.toFixed(0)} ms${rate}`;
    const of = Object.entries(stages).filter(([, took]) => took >= 0.5).map(([name, took]) => `${name} ${took.toFixed(0)}`);
    $("stages").textContent = `${(pixels / 1e6).toFixed(2)} Mpx${of.length ? `: ${of.join(", ")} ms` : ""}`;
  });
}

open().catch((error) => complain(`The viewer could not start: ${error.message}`));
