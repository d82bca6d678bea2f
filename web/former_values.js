// What graphs of earlier versions say of widgets that are gone; knows nothing of ComfyUI.

/** By node the widgets that are gone, the one that followed, and all values they had; and choices that are gone. */
const WIDGETS = {
  FewShotTrainingSettings: [{ name: "local_attention", next: "objective", values: ["content", "plain"] }],
};
const CHOICES = { FewShotRelationSettings: { adversarial: { literal: "sensible" } } };
const USUAL = { local_attention: "content" };

/**
 * Brings a saved node's values, which are kept by place, to today's widgets, and returns what changes by it, a line
 * each. `names` are those of the node's widgets in their order.
 */
export function bringUpToDate(type, saved, names) {
  if (!Array.isArray(saved.widgets_values)) return [];
  const lines = [];
  for (const { name, next, values } of WIDGETS[type] ?? []) {
    const place = names.indexOf(next);
    if (saved.widgets_values.length <= names.length || !values.includes(saved.widgets_values[place])) continue;
    const [value] = saved.widgets_values.splice(place, 1);
    saved.inputs = saved.inputs?.filter((input) => input.name !== name || input.link != null);
    if (value !== USUAL[name]) lines.push(`${name} was ${value}: it is no setting any more, and ${USUAL[name]} is used`);
  }
  for (const [name, former] of Object.entries(CHOICES[type] ?? {})) {
    const place = names.indexOf(name);
    const value = saved.widgets_values[place];
    if (!(value in former)) continue;
    saved.widgets_values[place] = former[value];
    lines.push(`${name} was ${value}: it is no choice any more, and ${former[value]} is used`);
  }
  return lines;
}
