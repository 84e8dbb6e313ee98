// Sorts tables, copies commands and filters the pictures of a page. Without JavaScript the page shows everything.
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
