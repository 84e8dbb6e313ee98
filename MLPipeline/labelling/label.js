// The page of `label`: shows one picture after another; keys and buttons send its class to the server.
"use strict";

const element = (id) => document.getElementById(id);
const isReview = element("work").dataset.review === "yes";
const page = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
const AHEAD = 4; // pictures that are loaded before they are shown
const NUM_KEYS = 9; // more classes than keys: they are searched by typing
const POLL_MS = 2000;

let classes = [];
let progress = null;
let waiting = []; // pictures to show, the first one is on the screen
let group = null;
let isRefilling = false;
let requests = Promise.resolve(); // one after the other: an undo comes after the label that it takes back

// Asking the server

async function ask(path, body) {
  const how = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const response = await fetch(path, { ...how, headers: { "Content-Type": "application/json" } });
  const answer = await response.json();
  if (!response.ok) throw new Error(typeof answer.detail === "string" ? answer.detail : "the request was refused");
  return answer;
}

function send(path, body, isRepeated = true) {
  const attempt = async () => {
    for (;;) {
      try {
        const outcome = await ask(path, body);
        update(outcome);
        return outcome;
      } catch (error) {
        // A TypeError of `fetch`: no connection. What was labelled is kept and sent when the server is there again.
        showProblem(error instanceof TypeError ? "The server does not answer; the latest labels wait on this page." : error.message);
        if (!(error instanceof TypeError) || !isRepeated) return null;
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
    }
  };
  requests = requests.then(attempt);
  return requests;
}

function update(outcome) {
  progress = outcome.progress;
  if (outcome.classes.length !== classes.length) {
    classes = outcome.classes;
    showClasses();
  }
  element("line").textContent = progress.line;
  showProblem(outcome.message || progress.problem && `Not on disk yet, kept in memory: ${progress.problem}`);
  showGroupButton();
  element("notes-box").hidden = !progress.notes.length;
  element("notes").replaceChildren(...progress.notes.map((note) => make("li", note)));
}

function showProblem(text) {
  element("problem").textContent = text || "";
  element("problem").hidden = !text;
}

// Pictures

const address = (picture, side) => `/photo/${picture.number}?stamp=${encodeURIComponent(picture.stamp)}&side=${side}`;
const side = Math.min(1600, Math.ceil(Math.max(screen.width, 800) * devicePixelRatio * 0.6));

// Asks for `number` more pictures, and for what is known now of those that are waiting.
async function askFor(number) {
  const without = waiting.map((picture) => picture.number);
  const outcome = await send("/next", { page, number, without }, false);
  if (!outcome) return;
  const shown = waiting[0];
  const found = new Map(outcome.pictures.map((picture) => [picture.number, picture]));
  waiting = waiting.filter((picture) => found.has(picture.number) || !without.includes(picture.number));
  waiting = waiting.map((picture) => found.get(picture.number) ?? picture);
  const isNew = (picture) => !without.includes(picture.number) && !waiting.some((other) => other.number === picture.number);
  waiting.push(...outcome.pictures.filter(isNew));
  for (const picture of waiting.slice(1)) new Image().src = address(picture, side);
  if (waiting[0]?.number === shown?.number && waiting[0]?.stamp === shown?.stamp) showClasses();
  else show();
}

async function refill() {
  if (isRefilling || !classes.length) return;
  isRefilling = true;
  await askFor(AHEAD - Math.min(waiting.length, AHEAD - 1));
  isRefilling = false;
}

function show() {
  const picture = waiting[0];
  element("work").hidden = !picture || group !== null;
  element("done").hidden = Boolean(picture) || !classes.length || group !== null;
  if (!picture) return;
  element("photo").src = address(picture, side);
  element("photo").alt = picture.name;
  element("picture-name").textContent = picture.name;
  element("search").value = "";
  const [best] = picture.proposals;
  const verdict = isReview && best ? `labelled ${picture.given}, predicted ${best[0]} (${percent(best[1])})` : "";
  element("verdict").textContent = verdict;
  say(`${picture.name}. ${verdict || (best ? `Proposal: ${best[0]}, ${percent(best[1])}` : "")}`);
  showClasses();
}

element("photo").addEventListener("error", async () => {
  const picture = waiting[0];
  if (!picture || !element("photo").src.includes(`/photo/${picture.number}?`)) return;
  const answer = await fetch(address(picture, side)).then((response) => response.json()).catch(() => null);
  if (!answer) return; // the server does not answer, which is said elsewhere
  advance();
  send("/skip", { number: picture.number, why: answer.detail }).then(refill);
  say(`Skipped: ${answer.detail}`);
});

function advance() {
  waiting.shift();
  show();
}

function choose(name) {
  const picture = waiting[0];
  if (!picture) return;
  advance();
  send("/label", { page, name, pictures: [{ number: picture.number, stamp: picture.stamp }] }).then(refill);
}

function skip() {
  const picture = waiting[0];
  if (!picture) return;
  advance();
  send("/skip", { number: picture.number }).then(refill);
}

async function undo() {
  const outcome = await send("/undo", { page });
  if (!outcome || !outcome.pictures.length) return;
  const numbers = new Set(outcome.pictures.map((picture) => picture.number));
  waiting = [...outcome.pictures, ...waiting.filter((picture) => !numbers.has(picture.number))];
  closeGroup();
}

// Classes: all of them with a key each, or the nine that match best

function shares() {
  return new Map(waiting[0] ? waiting[0].proposals : []);
}

function matches() {
  if (classes.length <= NUM_KEYS) return classes;
  const typed = element("search").value.trim().toLowerCase();
  const share = shares();
  const counts = new Map(progress.counts);
  const rank = (name) => (share.get(name) ?? 0) * 2 + (typed && name.toLowerCase().startsWith(typed)) * 4
    + (counts.get(name) ?? 0) / (1 + classes.length * 1e4);
  const found = classes.filter((name) => name.toLowerCase().includes(typed));
  return found.sort((a, b) => rank(b) - rank(a));
}

function showClasses() {
  element("setup").hidden = classes.length > 0;
  const isSearched = classes.length > NUM_KEYS;
  element("search-line").hidden = !isSearched;
  const found = matches();
  const share = shares();
  const best = waiting[0]?.proposals[0]?.[0];
  const given = waiting[0]?.given;
  element("classes").replaceChildren(...found.slice(0, NUM_KEYS).map((name, place) => {
    const button = make("button");
    const track = make("span", "", "track");
    const bar = make("span", "", "bar");
    const value = share.get(name) ?? 0;
    button.type = "button";
    bar.style.width = `${100 * value}%`;
    track.append(bar);
    button.append(make("kbd", String(place + 1)), make("bdi", name, "name"), make("span", value ? percent(value) : "", "soft small"), track);
    button.addEventListener("click", () => choose(name));
    const item = make("li", "", `${name === best ? "first" : ""} ${isReview && name === given ? "given" : ""}`.trim());
    item.append(button);
    return item;
  }));
  const hidden = found.length - NUM_KEYS;
  element("found").textContent = !isSearched ? "" : found.length === 0 ? "No class matches." : hidden > 0 ? `and ${hidden} more: type to find them` : "";
}

element("setup").addEventListener("submit", async (event) => {
  event.preventDefault();
  const outcome = await send("/classes", { names: element("names").value.split("\n") }, false);
  if (!outcome) return;
  element("setup").hidden = classes.length > 0;
  if (classes.length) element("names").value = "";
  show();
  refill();
});

element("more")?.addEventListener("click", () => {
  element("setup").hidden = !element("setup").hidden;
  element("names").focus();
});

// Groups

function showGroupButton() {
  const found = progress.group;
  element("open-group").hidden = !found;
  if (found) element("open-group").replaceChildren(`These ${found[1]} look like `, make("bdi", found[0]), " ", make("kbd", "g"));
}

async function openGroup() {
  await requests;
  group = await ask("/group").catch(() => null);
  if (!group) return;
  element("group-title").replaceChildren(`These ${group.pictures.length} look like `, make("bdi", group.name));
  element("members").replaceChildren(...group.pictures.map((picture) => {
    const button = make("button");
    const frame = make("div", "", "frame");
    const photo = make("img");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    photo.src = address(picture, 320);
    photo.alt = picture.name;
    frame.append(photo);
    button.append(frame);
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      showConfirm();
    });
    const item = make("li");
    item.append(button);
    return item;
  }));
  showConfirm();
  element("work").hidden = element("done").hidden = true;
  element("group").hidden = false;
  element("group").focus();
}

const pickedOut = () => group.pictures.filter((_, place) => element("members").querySelectorAll("button")[place].getAttribute("aria-pressed") === "true");

function showConfirm() {
  const number = group.pictures.length - pickedOut().length;
  element("confirm").replaceChildren(`Label ${number} as `, make("bdi", group.name), " ", make("kbd", "Enter"));
  element("confirm").disabled = number === 0;
}

function confirmGroup() {
  const out = pickedOut();
  const pictures = group.pictures.filter((picture) => !out.includes(picture));
  if (!pictures.length) return;
  const labelled = new Set(pictures.map((picture) => picture.number));
  waiting = waiting.filter((picture) => !labelled.has(picture.number));
  const shown = pictures.map(({ number, stamp }) => ({ number, stamp }));
  send("/label", { page, name: group.name, pictures: shown, picked_out: out.map(({ number }) => number) }).then(refill);
  closeGroup();
}

function closeGroup() {
  group = null;
  element("group").hidden = true;
  show();
}

// Keys

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.metaKey || (event.ctrlKey && event.key !== "z") || !classes.length) return;
  const isTyped = event.target === element("search") && element("search").value !== "";
  const isElsewhere = event.target.matches("textarea, button, summary, a") && (event.key === "Enter" || event.key === " ");
  if (event.target.matches("textarea") || isElsewhere) return;
  if (action(event.key, isTyped, event.ctrlKey)) event.preventDefault();
});

function action(key, isTyped, isControl) {
  const isSearched = classes.length > NUM_KEYS;
  if (group) {
    if (key === "Enter") return confirmGroup(), true;
    if (key === "Escape") return closeGroup(), true;
    return false;
  }
  if (isControl) return undo(), true; // Ctrl+Z
  if (key === "Enter" && isSearched && isTyped) return matches().length > 0 && choose(matches()[0]), true;
  if (key === "Enter" && isReview && waiting[0]) return choose(waiting[0].given), true;
  if (isTyped) return false;
  if (/^[1-9]$/.test(key) && key <= matches().length) return choose(matches()[key - 1]), true;
  if (key === " ") return skip(), true;
  if (isSearched) {
    if (key.length === 1) element("search").focus(); // where the letter goes then
    return false;
  }
  if (key === "u") return undo(), true;
  if (key === "g" && progress.group) return openGroup(), true;
  return false;
}

element("search").addEventListener("input", showClasses);
element("keep")?.addEventListener("click", () => waiting[0] && choose(waiting[0].given));
element("skip").addEventListener("click", skip);
element("undo").addEventListener("click", undo);
element("open-group").addEventListener("click", openGroup);
element("confirm").addEventListener("click", confirmGroup);
element("cancel").addEventListener("click", closeGroup);

element("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(element("command").textContent);
    element("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(element("command"));
  }
});

// Small things

function make(tag, text = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}

function say(text) {
  element("said").textContent = text;
}

setInterval(() => document.hidden || requests.then(() => askFor(0)), POLL_MS);
send("/progress", undefined, false).then(() => {
  showClasses();
  refill();
});
