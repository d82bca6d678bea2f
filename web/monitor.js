// Live curves on nodes that train: a DOM widget, which both of ComfyUI's renderers show, fed by the server's events.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addPoint, addReading, drawCurve, drawReadings } from "./curve.js";

const NODES = ["FewShotTrainSubject", "FewShotTrainRelation", "FewShotRefineLora"];
const HEIGHT = 90; // pixels

app.registerExtension({
  name: "FewShot.Monitor",

  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    const canvas = document.createElement("canvas");
    canvas.style.width = "100%";
    canvas.style.height = `${HEIGHT}px`;
    const widget = node.addDOMWidget("loss", "fewshot-curve", canvas, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => HEIGHT,
      getMaxHeight: () => HEIGHT,
      getValue: () => null,
      setValue: () => {},
    });
    widget.serialize = false; // neither in saved workflows nor in prompts
    const points = [];
    const readings = [];
    const listen = ({ detail }) => {
      // Inside a subgraph the server's id is the whole path "1:2:3"; the node's own id is its last part.
      if (String(detail.node).split(":").pop() !== String(node.id)) return;
      addPoint(points, detail);
      addReading(readings, detail);
      if (readings.length) drawReadings(canvas, readings, detail);
      else drawCurve(canvas, points, detail);
    };
    api.addEventListener("fewshot.progress", listen);
    const removed = node.onRemoved;
    node.onRemoved = function () {
      api.removeEventListener("fewshot.progress", listen);
      removed?.apply(this, arguments);
    };
  },
});
