// Opens graphs that were saved before a widget was taken away: their values are brought to their places before the
// node reads them.
import { app } from "../../scripts/app.js";
import { bringUpToDate } from "./former_values.js";

const LIFE = 15000; // milliseconds that a note is shown

app.registerExtension({
  name: "FewShot.FormerWidgets",

  beforeRegisterNodeDef(nodeType, { name, display_name: title }) {
    if (!name.startsWith("FewShot")) return;
    const configure = nodeType.prototype.configure;
    nodeType.prototype.configure = function (saved) {
      const names = (this.widgets ?? []).filter((widget) => widget.serialize !== false).map((widget) => widget.name);
      const lines = bringUpToDate(name, saved, names);
      if (lines.length) {
        const toast = { severity: "warn", summary: `${title}: saved by an earlier version`, detail: lines.join("\n") };
        app.extensionManager?.toast?.add({ ...toast, life: LIFE });
      }
      return configure.apply(this, arguments);
    };
  },
});
