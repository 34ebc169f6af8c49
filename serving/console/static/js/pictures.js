// A field for a photograph, from a file or the camera. It stays in this page until it is sent.

import { element, plainButton, replace } from "./elements.js";
import { closingButton, freshId, openDialog } from "./forms.js";
import { number, say } from "./language.js";

const MAX_BYTES = 8 * 2 ** 20;
/** So many frames of one face the service takes. */
export const MOST_FRAMES = 8;
const BURST = 3;
// No browser shows JPEG 2000 or a chip's record; both can be sent.
const TYPES = "image/jpeg,image/png,image/webp,image/jp2,.jp2,.j2k,.bin";

/** A field for a photograph of a face: `field` is its node, `image()` the Blob or null.
 *
 * Where `most` frames may show the face, `image()` is a list, and the camera takes a burst.
 * `taken(moment)` is told when it was taken: now by the camera, a file's own date otherwise.
 */
export function pictureField(
  page,
  label,
  { most = 1, taken = () => {}, changed = () => {} } = {},
) {
  const id = freshId("picture");
  const preview = element("div.picture-frame");
  const words = element("p.hint", { id: `${id}-words`, role: "status" });
  let images = [];
  let addresses = [];

  function forget(text) {
    addresses.forEach((address) => URL.revokeObjectURL(address));
    images = addresses = [];
    replace(preview, element("span.picture-empty", { "aria-hidden": "true" }));
    preview.classList.remove("picture-several");
    words.textContent = text;
  }

  function keep(blobs, moment) {
    const bytes = blobs.reduce((sum, blob) => sum + blob.size, 0);
    const size = number(Math.ceil(bytes / 1024));
    const count = number(blobs.length);
    forget(
      blobs.length > 1 ? say("picture.frames", { count, size }) : say("picture.size", { size }),
    );
    images = blobs;
    addresses = blobs.map((blob) => URL.createObjectURL(blob));
    const alt = say("picture.chosen", { label });
    replace(preview, ...addresses.map((src) => element("img", { src, alt })));
    preview.classList.toggle("picture-several", blobs.length > 1);
    taken(moment);
    changed();
  }

  function choose(files) {
    if (files.length > most) forget(say("picture.toomany", { most: number(most) }));
    else if (files.some((file) => file.size > MAX_BYTES)) forget(say("picture.toolarge"));
    else keep(files, new Date(Math.min(...files.map((file) => file.lastModified))));
  }

  forget(say("picture.none"));
  page.signal.addEventListener("abort", () => forget(""));
  const open = () => openCamera(page, label, most > 1 ? BURST : 1, keep);
  // Browsers give a camera to pages of https and of this machine alone.
  const camera = navigator.mediaDevices?.getUserMedia && plainButton(say("picture.camera"), open);
  const field = buildField({ id, label, preview, words, choose, most }, camera);
  const complain = (text) => {
    words.textContent = text;
    field.querySelector("input").focus();
  };
  const image = () => (images.length === 0 ? null : most > 1 ? images : images[0]);
  return { field, image, complain };
}

function buildField({ id, label, preview, words, choose, most }, camera) {
  const input = element("input", {
    id,
    type: "file",
    accept: TYPES,
    multiple: most > 1,
    onchange: () => input.files.length > 0 && choose([...input.files]),
    "aria-describedby": words.id,
  });
  return element(
    "div.picture",
    { role: "group", "aria-label": label },
    element("p.picture-title", label),
    preview,
    element(
      "div.picture-ways",
      input,
      element(
        "label.button",
        { for: id },
        say(most > 1 ? "picture.files" : "picture.file", { most: number(most) }),
      ),
      camera,
    ),
    words,
  );
}

const WANTED = { video: { facingMode: "user", width: { ideal: 1280 } } };
// So far apart, frames differ in what a moment does to a face: a blink, a turn, noise.
const BETWEEN_MS = 300;

async function openCamera(page, label, shots, keep) {
  const words = element("p", { role: "status" }, say("picture.waiting"));
  const video = element("video", { playsinline: true, "aria-label": say("picture.view") });
  const take = async () => {
    shot.disabled = true;
    const frames = [await takeFrame(video)];
    while (frames.length < shots && dialog.isConnected) {
      await new Promise((resolve) => setTimeout(resolve, BETWEEN_MS));
      frames.push(await takeFrame(video));
    }
    if (!dialog.isConnected) return;
    keep(frames, new Date());
    dialog.close();
  };
  const shot = plainButton(say("picture.take"), take, "button primary");
  shot.disabled = true;
  const actions = element("p.actions", shot, closingButton("action.cancel"));
  const how = { kind: "camera", signal: page.signal };
  const dialog = openDialog(label, [video, words, actions], how);
  let stream = null;
  const stop = () => stream?.getTracks().forEach((track) => track.stop());
  dialog.addEventListener("close", stop);
  try {
    stream = await navigator.mediaDevices.getUserMedia(WANTED);
  } catch {
    words.textContent = say("picture.refused");
    return;
  }
  if (!dialog.isConnected) return stop();
  video.muted = true;
  video.srcObject = stream;
  await video.play();
  words.textContent = say("picture.hold");
  shot.disabled = false;
  shot.focus();
}

function takeFrame(video) {
  const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}
