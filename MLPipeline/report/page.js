// Sorts tables, copies commands, filters pictures, and saves corrected labels. Without JavaScript everything is shown.
"use strict";

// Tables: a header button sorts by its column; numbers by `data-value`, anything else by its text.
for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const table = header.closest("table");
    const ascending = header.ariaSort ? header.ariaSort === "descending" : header.classList.contains("text");
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const key = (row) => row.cells[header.cellIndex].dataset.value ?? row.cells[header.cellIndex].textContent.trim();
    const order = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "") || 0; // rows without a value stay last
      const difference = a - b;
      const sign = ascending ? 1 : -1;
      return sign * (Number.isNaN(difference) ? a.localeCompare(b, undefined, { numeric: true }) : difference);
    };
    const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
    rows.sort((a, b) => order(a[0], b[0]));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  });
}

// Commands: copied to the clipboard, or selected where the browser does not allow that.
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = label; }, 1600);
  });
}

// Pictures: a button with `data-show` (mistakes, right, all, pair) selects the items of the gallery.
const PAGE = 48;
const gallery = document.querySelector("ul.gallery[data-filtered]");
if (gallery) {
  const items = [...gallery.children];
  const status = document.querySelector("#gallery-status");
  const more = document.querySelector("#gallery-more");
  const filters = [...document.querySelectorAll("button[data-show]")];
  let shown = [];
  let limit = PAGE;

  const key = ({ dataset }) => [dataset.show, dataset.true, dataset.predicted].join(); // a cell and its pair in the list
  const matching = ({ show, true: truth, predicted }) => (item) => {
    const isRight = item.dataset.true === item.dataset.predicted;
    if (show === "mistakes") return !isRight;
    if (show === "right") return isRight;
    return show === "all" || (item.dataset.true === truth && item.dataset.predicted === predicted);
  };
  const draw = () => {
    shown.forEach((item, place) => { item.hidden = place >= limit; });
    more.hidden = shown.length <= limit;
  };
  const choose = (button) => {
    for (const other of filters) other.setAttribute("aria-pressed", String(key(other) === key(button)));
    shown = items.filter(matching(button.dataset));
    for (const item of items) item.hidden = true;
    limit = PAGE;
    draw();
    const total = Number(button.dataset.total);
    const left = total - shown.length;
    status.textContent = `${button.dataset.label}: ${total.toLocaleString("en")} image${total === 1 ? "" : "s"}` +
      (left > 0 ? `, ${left.toLocaleString("en")} of them not on this page` : "");
  };
  for (const button of filters) {
    button.addEventListener("click", () => {
      choose(button);
      if (button.dataset.show === "pair") {
        const heading = gallery.closest("section").querySelector("h2");
        heading.focus({ preventScroll: true });
        heading.scrollIntoView();
      }
    });
  }
  more.addEventListener("click", () => {
    const first = shown[limit];
    limit += PAGE;
    draw();
    first.tabIndex = -1;
    first.focus({ preventScroll: true });
  });
  const heat = document.querySelector("#gallery-heat");
  heat?.addEventListener("click", () => {
    heat.setAttribute("aria-pressed", String(gallery.classList.toggle("hot")));
  });
  choose(document.querySelector(".filters button[data-show]"));
}

// Labels: below each suspect, a list of classes; what is chosen is saved as a table for --fixes. A cell holds the text of
// its attribute, which is written as Python writes it.
const suspects = document.querySelector("#suspects");
if (suspects) {
  const COLUMNS = ["path", "label", "given", "suggested", "confidence"];
  const items = [...suspects.children];
  const kept = [...document.querySelector("#kept-fixes").children];
  const classes = document.querySelector("#class-names").content;
  const status = document.querySelector("#fixes-status");
  let isSaved = true;

  const isDecided = ({ dataset }) => dataset.label !== dataset.given;
  const decided = () => [...kept, ...items.filter(isDecided)];
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const row = (cells) => `${cells.map(cell).join(",")}\r\n`;
  const show = () => {
    const number = items.filter(isDecided).length;
    status.textContent = `${number} of ${items.length} corrected` +
      (kept.length ? `, ${kept.length} earlier correction${kept.length === 1 ? "" : "s"} kept` : "") +
      (isSaved ? "" : ", not saved");
    for (const item of items) item.classList.toggle("decided", isDecided(item));
  };
  const choices = ({ dataset }) => {
    const select = document.createElement("select");
    select.append(classes.cloneNode(true), new Option("(leave out)", ""));
    const option = (value) => [...select.options].find((each) => each.value === value);
    select.prepend(...[dataset.given, dataset.suggested].map(option).filter(Boolean)); // Down chooses the suggestion
    select.value = dataset.label;
    return select;
  };
  for (const item of items) {
    const select = choices(item);
    select.setAttribute("aria-label", `Label of ${item.dataset.path}`);
    select.addEventListener("change", () => {
      item.dataset.label = select.value;
      isSaved = false;
      show();
    });
    item.querySelector("figcaption").append(select);
  }
  document.querySelector("#save-fixes").addEventListener("click", () => {
    const rows = decided().map(({ dataset }) => COLUMNS.map((name) => dataset[name]));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([COLUMNS, ...rows].map(row), { type: "text/csv" }));
    link.download = "fixes.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    isSaved = true;
    show();
  });
  addEventListener("beforeunload", (event) => { if (!isSaved) event.preventDefault(); });
  for (const each of document.querySelectorAll("[data-needs-script]")) each.hidden = false;
  show();
}
