"use strict";
const svg = document.querySelector("svg");
const status = document.getElementById("status");
const idle = status.textContent;
const items = [...svg.querySelectorAll("[data-node], [data-source]")];

function select(item) {
  const { node, source, target } = item.dataset;
  for (const other of items) {
    const data = other.dataset;
    const touches = node !== undefined
      ? data.node === node || data.source === node || data.target === node
      : (data.source === source && data.target === target)
        || data.node === source || data.node === target;
    other.classList.toggle("on", touches);
  }
  svg.classList.add("selecting");
  const title = item.querySelector("title");
  status.textContent = (title ? title.textContent : node || `${source} → ${target}`)
    .split("\n").join("  ·  ");
}

function release() {
  svg.classList.remove("selecting");
  for (const item of items) item.classList.remove("on");
  status.textContent = idle;
}

for (const item of items) {
  item.addEventListener("pointerenter", () => select(item));
  item.addEventListener("pointerleave", release);
  if (item.matches("rect[data-node]")) {
    item.setAttribute("tabindex", "0");
    item.addEventListener("focus", () => select(item));
    item.addEventListener("blur", release);
  }
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { document.activeElement.blur(); release(); }
});
