// The arithmetic and drawing of the curves of loss and of readings; knows nothing of ComfyUI.

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

/** Adds the event's reading of a refinement; a run that begins again begins new curves. */
export function addReading(readings, { step, reading }) {
  if (readings.length && step < readings[readings.length - 1].step) readings.length = 0;
  if (!reading) return;
  if (readings.length && step === readings[readings.length - 1].step) readings.pop();
  readings.push({ step, ...reading });
}

const COLOURS = { reward: "#5b9bf8", subject: "#e0a458", diversity: "#7bc47f", held_out: "#c98bdb" };

/** Draws each curve of the readings in its own range, and writes the last values in their colours. */
export function drawReadings(canvas, readings, { total }) {
  const { pen, width, height } = cleared(canvas);
  let left = 6;
  pen.font = "11px sans-serif";
  for (const [name, colour] of Object.entries(COLOURS)) {
    const points = readings.filter((one) => Number.isFinite(one[name])).map((one) => ({ step: one.step, loss: one[name] }));
    if (!points.length) continue;
    stroke(pen, placePoints(points, total, width, height, 18), colour);
    const text = `${name.replace("_", "-")} ${points[points.length - 1].loss.toPrecision(3)}`;
    pen.fillStyle = colour;
    pen.textAlign = "left";
    pen.fillText(text, left, 12);
    left += 7 * text.length;
  }
}

function cleared(canvas) {
  const scale = globalThis.devicePixelRatio || 1;
  const width = canvas.clientWidth || 200;
  const height = canvas.clientHeight || 90;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

function stroke(pen, places, colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 1.5;
  pen.beginPath();
  places.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}

/** Draws the curve so far and writes the last loss beside it. */
export function drawCurve(canvas, points, { total }) {
  const { pen, width, height } = cleared(canvas);
  const places = placePoints(points, total, width, height);
  if (!places.length) return;
  stroke(pen, places, "#5b9bf8");
  const last = points[points.length - 1];
  pen.fillStyle = "#9aa4b2";
  pen.font = "11px sans-serif";
  pen.textAlign = "right";
  pen.fillText(`step ${last.step}/${total}  loss ${last.loss.toPrecision(3)}`, width - 6, 14);
}
