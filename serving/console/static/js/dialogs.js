// Dialogs over the page. The browser gives the focus back to where it was.

import { add, element, plainButton } from "./elements.js";
import { freshId } from "./forms.js";
import { say } from "./language.js";

/** Opens a dialog and returns it; `signal` closes it where it is given. It is gone once closed. */
export function openDialog(title, children, { kind = null, signal = null } = {}) {
  const id = freshId("dialog");
  const dialog = element(
    "dialog",
    { class: kind, "aria-labelledby": id, onclose: () => dialog.remove() },
    element("h2", { id }, title),
  );
  add(dialog, children);
  signal?.addEventListener("abort", () => dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A button that closes the dialog it stands in. */
export function closingButton(key) {
  const close = (event) => event.target.closest("dialog").close();
  return plainButton(say(key), close);
}
