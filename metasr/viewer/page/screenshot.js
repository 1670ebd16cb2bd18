// The picture as a file, with what it shows written below; without the name of the volume's file.

const LINE_PX = 26;

export async function save(stage, describe) {
  const blob = await picture(stage, describe);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  const { plane, index, zoom } = stage.view;
  link.download = `metasr-${plane}-${String(index + 1).padStart(3, "0")}-x${zoom.toFixed(2)}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function picture(stage, describe) {
  const { canvas, ratio } = stage;
  const result = document.createElement("canvas");
  const line = Math.round(LINE_PX * ratio);
  result.width = canvas.width;
  result.height = canvas.height + line;
  const context = result.getContext("2d");
  stage.paint();
  context.fillRect(0, 0, result.width, result.height);
  context.drawImage(canvas, 0, 0);
  const font = (weight) => `${weight} ${Math.round(13 * ratio)}px system-ui, sans-serif`;
  const pad = 10 * ratio;
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.font = font(600);
  for (const panel of stage.panels()) {
    const name = stage.name(panel.shows === "sr" && !stage.current() ? "other" : panel.shows);
    const isRight = panel.left > 0;
    const x = panel.x + (isRight ? panel.width - pad - context.measureText(name).width : pad);
    if (panel.right > panel.left) context.fillText(name, x, 18 * ratio);
  }
  if (stage.view.mode === "wipe") {
    context.fillRect(Math.round(stage.view.wipe * canvas.width) - ratio, 0, 2 * ratio, canvas.height);
  }
  context.font = font(400);
  context.fillStyle = "#b8c0cc";
  context.fillText(describe(), pad, canvas.height + line / 2, result.width - 2 * pad);
  return new Promise((resolve) => result.toBlob(resolve, "image/png"));
}
