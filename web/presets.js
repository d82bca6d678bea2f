// The preset widget of Training Settings: choosing a preset writes its values into the other widgets, where they are
// seen and may be changed; a changed value makes the preset "custom". The values come with the node's schema.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { CUSTOM, apply, holds } from "./preset_values.js";

const NODE = "FewShotTrainingSettings";
let schema = null;

/** The values of each preset, asked for once. */
async function presets() {
  schema ??= api.fetchApi(`/object_info/${NODE}`).then((answer) => answer.json());
  return (await schema)[NODE].input.required.preset[1].presets;
}

/** Calls `then` after whatever a person's change of the widget calls already. */
function afterChange(widget, then) {
  const before = widget.callback;
  widget.callback = function (...values) {
    const result = before?.apply(this, values);
    then();
    return result;
  };
}

app.registerExtension({
  name: "FewShot.Presets",

  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const preset = node.widgets.find((widget) => widget.name === "preset");
    const shown = () => node.setDirtyCanvas?.(true, true);
    afterChange(preset, async () => {
      apply(node.widgets, (await presets())[preset.value]);
      shown();
    });
    for (const widget of node.widgets) {
      if (widget === preset) continue;
      afterChange(widget, async () => {
        if (preset.value === CUSTOM || holds(node.widgets, (await presets())[preset.value])) return;
        preset.value = CUSTOM;
        shown();
      });
    }
  },
});
