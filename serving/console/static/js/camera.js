// A photograph from the camera, or several in a row, taken in a dialog.

import { closingButton, openDialog } from "./dialogs.js";
import { element, plainButton } from "./elements.js";
import { say } from "./language.js";

const WANTED = { video: { facingMode: "user", width: { ideal: 1280 } } };
// So far apart, frames differ in what a moment does to a face: a blink, a turn, noise.
const BETWEEN_MS = 300;

/** A button that opens the camera, or null where there can be none; `keep(blobs, moment)`. */
export function cameraButton(page, label, shots, keep) {
  // Browsers give a camera to pages of https and of this machine alone.
  if (!navigator.mediaDevices?.getUserMedia) return null;
  const open = () => openCamera(page, label, shots, keep);
  return plainButton(say("picture.camera"), open);
}

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
  const actions = element("p", { class: "actions" }, shot, closingButton("action.cancel"));
  const dialog = openDialog(label, [video, words, actions], {
    kind: "camera",
    signal: page.signal,
  });
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
  await play(video, stream);
  words.textContent = say("picture.hold");
  shot.disabled = false;
  shot.focus();
}

function play(video, stream) {
  video.muted = true;
  video.srcObject = stream;
  return video.play();
}

function takeFrame(video) {
  const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}
