// The keyboard: all that the mouse can do.

const ZOOM_STEP = 1.1;
const PAN_STEP = 0.08; // of the panel

export function listen({ view, stage, pointer, help, save }) {
  const cycle = (name, values) => view.set({ [name]: values[(values.indexOf(view[name]) + 1) % values.length] });
  const pan = (x, y) => pointer.pan({
    x: -x * PAN_STEP * stage.root.clientWidth,
    y: -y * PAN_STEP * stage.root.clientHeight,
  });
  const wipe = (by) => view.set({ mode: "wipe", wipe: view.wipe + by });
  const actions = {
    "+": () => pointer.zoomBy(ZOOM_STEP),
    "=": () => pointer.zoomBy(ZOOM_STEP),
    "-": () => pointer.zoomBy(1 / ZOOM_STEP),
    0: () => stage.fit(),
    1: () => view.setPlane("axial"),
    2: () => view.setPlane("coronal"),
    3: () => view.setPlane("sagittal"),
    arrowup: (shift) => (shift ? pan(0, -1) : view.step(1)),
    arrowdown: (shift) => (shift ? pan(0, 1) : view.step(-1)),
    arrowleft: (shift) => (shift ? pan(-1, 0) : wipe(-0.02)),
    arrowright: (shift) => (shift ? pan(1, 0) : wipe(0.02)),
    pageup: () => view.step(10),
    pagedown: () => view.step(-10),
    " ": () => view.set({ mode: "blink", blinksByHand: true, showsOther: view.mode === "blink" ? !view.showsOther : true }),
    b: () => view.set({ mode: "blink", blinksByHand: false }),
    w: () => view.set({ mode: "wipe" }),
    d: () => view.set({ mode: "side" }),
    s: () => view.set({ mode: "sr" }),
    n: () => cycle("method", ["bicubic", "nearest"]),
    t: () => cycle("tool", ["pan", "window"]),
    r: () => view.set({ window: [...view.volume.window] }),
    p: () => save(),
    "?": () => help.showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (help.open || event.ctrlKey || event.metaKey || event.altKey) return;
    const isControl = event.target.matches("input, button, a");
    const key = event.key.toLowerCase();
    if (isControl && (key.startsWith("arrow") || key.startsWith("page") || key === " ")) return;
    const action = actions[key];
    if (!action) return;
    event.preventDefault();
    action(event.shiftKey);
  });
}
