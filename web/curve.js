// The arithmetic and drawing of the loss curve; knows nothing of ComfyUI.

/** Adds the event's loss to `points`; a step that is not after the last one begins a new curve. */
export function addPoint(points, { step, loss }) {
  if (points.length && step < points[points.length - 1].step) points.length = 0;
  if (typeof loss !== "number" || !Number.isFinite(loss)) return;
  if (points.length && step === points[points.length - 1].step) points.pop();
  points.push({ step, loss });
}

/** The points as [x, y] in a field of width × height, the highest loss at the top. */
export function placePoints(points, total, width, height, margin = 4) {
  if (!points.length) return [];
  const losses = points.map((point) => point.loss);
  const low = Math.min(...losses);
  const span = Math.max(...losses) - low || 1;
  const steps = Math.max(total, 1);
  return points.map(({ step, loss }) => [
    margin + (step / steps) * (width - 2 * margin),
    height - margin - ((loss - low) / span) * (height - 2 * margin),
  ]);
}

/** Draws the curve so far and writes the last loss beside it. */
export function drawCurve(canvas, points, { total }) {
  const scale = globalThis.devicePixelRatio || 1;
  const width = canvas.clientWidth || 200;
  const height = canvas.clientHeight || 90;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.clearRect(0, 0, width, height);
  const places = placePoints(points, total, width, height);
  if (!places.length) return;
  pen.strokeStyle = "#5b9bf8";
  pen.lineWidth = 1.5;
  pen.beginPath();
  places.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
  const last = points[points.length - 1];
  pen.fillStyle = "#9aa4b2";
  pen.font = "11px sans-serif";
  pen.textAlign = "right";
  pen.fillText(`step ${last.step}/${total}  loss ${last.loss.toPrecision(3)}`, width - 6, 14);
}
