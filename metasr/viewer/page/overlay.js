// What is written on the picture: what is shown where, directions in the head, the scale, and a bar in mm.

const $ = (id) => document.getElementById(id);
const BAR_MM = [1, 2, 5, 10, 20, 50, 100];

export function drawOverlay(stage, panels) {
  const { view, grid } = stage;
  const scale = `\u00d7${view.zoom.toFixed(2)}`;
  const isBusy = stage.hasModel && stage.root.dataset.shown !== "sr";
  const write = (id, panel) => {
    const tag = $(id);
    tag.hidden = !panel;
    if (!panel) return;
    const isSr = panel.shows === "sr";
    tag.textContent = isSr && !stage.current() ? "Bicubic, SR follows" : stage.name(panel.shows);
    if (isSr && !stage.hasModel) tag.textContent = "Bicubic";
    tag.classList.toggle("sr", isSr && Boolean(stage.current()));
    tag.classList.toggle("busy", isSr && isBusy);
  };
  write("tag-a", panels[0]);
  write("tag-b", panels[1]);
  ["top", "bottom", "left", "right"].forEach((edge, n) => {
    $(`edge-${edge}`).textContent = view.mode === "side" && edge !== "left" ? "" : view.shown.edges[n];
  });
  $("big-zoom").textContent = scale;
  drawDivider(stage);
  const { ratio } = stage;
  const mm = view.shown.spacing_mm[1] * ratio / grid.columns.scale; // of a CSS pixel
  const length = BAR_MM.findLast((bar) => bar / mm <= 130) ?? BAR_MM[0];
  $("scale-bar").firstElementChild.style.width = `${length / mm}px`;
  $("scale-bar").lastElementChild.textContent = `${length} mm`;
}

function drawDivider(stage) {
  const divider = $("divider");
  const { view } = stage;
  divider.hidden = view.mode !== "wipe";
  divider.style.left = `${view.wipe * 100}%`;
  divider.setAttribute("aria-valuenow", Math.round(view.wipe * 100));
}
