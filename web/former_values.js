// What graphs of earlier versions say of widgets that are gone; knows nothing of ComfyUI.

/** By node the widgets that are gone, the one that followed, and all values they had; choices that are gone. */
const WIDGETS = {
  FewShotTrainingSettings: [{ name: "local_attention", next: "objective", values: ["content", "plain"] }],
};
const CHOICES = { FewShotRelationSettings: { adversarial: { literal: "sensible" } } };
/** By node the choices that are called otherwise now. */
const RENAMED = { FewShotRefinementSettings: { method: { dpok: "grpo_clamped" } } };
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
  replaceChoices(saved, names, CHOICES[type], (name, before, now) =>
    lines.push(`${name} was ${before}: it is no choice any more, and ${now} is used`),
  );
  replaceChoices(saved, names, RENAMED[type], (name, before, now) =>
    lines.push(`${name} was ${before}, which is called ${now} now`),
  );
  return lines;
}

/** Puts today's choices in the place of former ones, and tells of each. */
function replaceChoices(saved, names, former, tell) {
  for (const [name, choices] of Object.entries(former ?? {})) {
    const place = names.indexOf(name);
    const value = saved.widgets_values[place];
    if (!(value in choices)) continue;
    saved.widgets_values[place] = choices[value];
    tell(name, value, choices[value]);
  }
}
