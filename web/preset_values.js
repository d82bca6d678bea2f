// What a preset does to widgets; knows nothing of ComfyUI.

export const CUSTOM = "custom";

/** Sets each widget that `values` names; without values ("custom") all stay as they are. */
export function apply(widgets, values = {}) {
  for (const widget of widgets) if (widget.name in values) widget.value = values[widget.name];
}

/** Whether the widgets show what `values` say. */
export function holds(widgets, values = {}) {
  return widgets.every((widget) => !(widget.name in values) || widget.value === values[widget.name]);
}
