// A field for a photograph, from a file or the camera. It stays in this page until it is sent.

import { cameraButton } from "./camera.js";
import { element, replace } from "./elements.js";
import { freshId } from "./forms.js";
import { number, say } from "./language.js";

const MAX_BYTES = 8 * 2 ** 20;
// No browser shows JPEG 2000 or a chip's record; both can be sent.
const TYPES = "image/jpeg,image/png,image/webp,image/jp2,.jp2,.j2k,.bin";

/** A field for one photograph: `field` is its node, `image()` the Blob or null.
 *
 * `taken(moment)` is told when it was taken: now by the camera, a file's own date otherwise.
 */
export function pictureField(page, label, { taken = () => {}, changed = () => {} } = {}) {
  const id = freshId("picture");
  const preview = element("div", { class: "picture-frame" });
  const words = element("p", { class: "hint", id: `${id}-words`, role: "status" });
  let image = null;
  let address = null;

  function forget(text) {
    if (address !== null) URL.revokeObjectURL(address);
    image = address = null;
    replace(preview, element("span", { class: "picture-empty", "aria-hidden": "true" }));
    words.textContent = text;
  }

  function keep(blob, moment) {
    forget(say("picture.size", { size: number(Math.ceil(blob.size / 1024)) }));
    address = URL.createObjectURL(blob);
    image = blob;
    replace(preview, element("img", { src: address, alt: say("picture.chosen", { label }) }));
    taken(moment);
    changed();
  }

  function choose(file) {
    if (file.size > MAX_BYTES) forget(say("picture.toolarge"));
    else keep(file, new Date(file.lastModified));
  }

  forget(say("picture.none"));
  page.signal.addEventListener("abort", () => forget(""));
  const field = buildField({ id, label, preview, words, choose }, cameraButton(page, label, keep));
  const complain = (text) => {
    words.textContent = text;
    field.querySelector("input").focus();
  };
  return { field, image: () => image, complain };
}

function buildField({ id, label, preview, words, choose }, camera) {
  const input = element("input", {
    id,
    type: "file",
    accept: TYPES,
    onchange: () => input.files.length > 0 && choose(input.files[0]),
    "aria-describedby": words.id,
  });
  return element(
    "div",
    { class: "picture", role: "group", "aria-label": label },
    element("p", { class: "picture-title" }, label),
    preview,
    element(
      "div",
      { class: "picture-ways" },
      input,
      element("label", { for: id, class: "button" }, say("picture.file")),
      camera,
    ),
    words,
  );
}
