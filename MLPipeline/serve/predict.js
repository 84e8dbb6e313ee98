// The page of `serve`: sends images to /predict and shows the answers. All text is set as text, never as HTML.
"use strict";

const MAX_EARLIER = 24;
const MAX_PROBLEMS = 5;
const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
const earlier = []; // newest first: {address, name, answer, milliseconds}
let current = null;
let waiting = 0;

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children); // strings become text
  return made;
}

// Asking

async function ask(file, query = "") {
  let response;
  try {
    response = await fetch(`predict${query}`, { method: "POST", body: file });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(content.detail ?? `The server answers ${response.status}.`);
  return { answer: content.answers[0], milliseconds: content.milliseconds };
}

async function classify(files) {
  if (!files.length) return;
  at("problem").hidden = true;
  at("status").className = "";
  const problems = [];
  waiting += files.length;
  for (const file of files) {
    at("status").textContent = waiting > 1 ? `Classifying, ${waiting} images to go` : "Classifying";
    const name = file.name ?? "";
    try {
      show(remember({ file, name, ...(await ask(file)) }));
    } catch (error) {
      problems.push(name ? `${name}: ${error.message}` : error.message);
    }
    waiting -= 1;
  }
  if (!waiting) {
    at("status").className = "visually-hidden"; // seen below, but not heard there
    at("status").textContent = problems.length < files.length ? spoken(current) : "";
  }
  if (problems.length) {
    const more = problems.length - MAX_PROBLEMS;
    showProblem(problems.slice(0, MAX_PROBLEMS).join("\n") + (more > 0 ? `\nand ${more} more` : ""));
  }
}

function showProblem(text) {
  at("problem").textContent = text;
  at("problem").hidden = false;
}

const spoken = ({ answer }) => `${answer.answered ? "" : "Withheld: "}${answer.predicted}, ${percent(answer.confidence)}`;

// Showing

function show(asked) {
  current = asked;
  const { answer, milliseconds, name } = asked;
  at("answer").hidden = false;
  at("answer").classList.toggle("withheld", !answer.answered);
  at("answer-title").textContent = answer.answered ? answer.predicted : `No answer: perhaps ${answer.predicted}`;
  at("remark").textContent = answer.remark;
  at("remark").hidden = !answer.remark;
  at("bars").replaceChildren(...answer.top.map(bar));
  at("facts").textContent = `${name ? `${name} · ` : ""}${Math.round(milliseconds)} ms`;
  at("correction").hidden = !answer.id;
  at("label").value = answer.predicted;
  showHeat(false);
  drawEarlier();
}

function bar(share) {
  const filled = element("div", "bar");
  filled.style.width = percent(share.confidence).replace("\u00a0", "");
  const track = element("div", "track", filled);
  track.ariaHidden = "true";
  const row = element("div", "row", element("span", "name", share.class), element("span", "", percent(share.confidence)));
  return element("li", "", row, track);
}

function showHeat(isShown) {
  at("heat").setAttribute("aria-pressed", String(isShown));
  at("photo").parentElement.classList.toggle("heat", isShown);
  at("photo").src = isShown ? current.heat : current.address;
  at("photo").alt = isShown ? `Regions that support ${current.answer.predicted}` : current.name || "The image";
}

function remember(asked) {
  asked.address = URL.createObjectURL(asked.file);
  earlier.unshift(asked);
  for (const old of earlier.splice(MAX_EARLIER)) URL.revokeObjectURL(old.address);
  return asked;
}

function drawEarlier() {
  at("history").hidden = earlier.length < 2;
  at("earlier").replaceChildren(...earlier.filter((asked) => asked !== current).map((asked) => {
    const image = element("img");
    image.src = asked.address;
    image.alt = "";
    const frame = element("span", "frame", image);
    const button = element("button", "", frame, element("span", "caption", spoken(asked)));
    button.type = "button";
    button.addEventListener("click", () => {
      show(asked);
      at("answer").focus({ preventScroll: true });
      at("answer").scrollIntoView({ block: "nearest" });
    });
    return element("li", "", button);
  }));
}

at("heat").addEventListener("click", async () => {
  const asked = current;
  if (at("heat").getAttribute("aria-pressed") === "true") return showHeat(false);
  try {
    asked.heat ??= (await ask(asked.file, "?heatmap=1")).answer.heatmap;
  } catch (error) {
    return showProblem(error.message);
  }
  return asked === current ? showHeat(true) : undefined;
});

at("correction").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ id: current.answer.id, label: at("label").value });
  const response = await fetch("correct", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  const content = await response.json();
  at("status").className = "";
  at("status").textContent = response.ok ? `Saved: ${content.label}` : content.detail;
});

// Choosing: by file dialog, drop, paste and camera

const images = (files) => [...files].filter((file) => file instanceof File);
const input = at("file");
input.addEventListener("change", () => {
  classify(images(input.files));
  input.value = ""; // the same file can be chosen again
});

for (const name of ["dragover", "dragenter"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
}
for (const name of ["dragleave", "dragend", "drop"]) {
  document.addEventListener(name, () => at("drop").classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  classify(images(event.dataTransfer.files));
});
document.addEventListener("paste", (event) => classify(images(event.clipboardData.files)));

let stream = null;
function stopCamera() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  at("camera-view").hidden = at("shoot").hidden = true;
  at("camera").textContent = "Use the camera";
}

at("camera").hidden = !navigator.mediaDevices?.getUserMedia; // absent without https, except on this machine
at("camera").addEventListener("click", async () => {
  if (stream) return stopCamera();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return showProblem("The browser does not allow the camera, or there is none.");
  }
  at("video").srcObject = stream;
  at("camera-view").hidden = at("shoot").hidden = false;
  at("camera").textContent = "Stop the camera";
  return undefined;
});

at("shoot").addEventListener("click", () => {
  const video = at("video");
  const canvas = element("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  if (!canvas.width) return; // the camera has not started yet
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => classify([new File([blob], "photo.jpg", { type: "image/jpeg" })]), "image/jpeg", 0.92);
});
