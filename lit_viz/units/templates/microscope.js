"use strict";
// The index lists UNITS (data.js); the page of a unit has neighbours in its body's data.
const main = document.getElementById("units");

function link(unit) {
  const [layer, number, page, thumbnail, classes] = unit;
  const anchor = document.createElement("a");
  anchor.href = page;
  anchor.title = `${layer}, unit ${number}: ${classes.join(", ")}`;
  const image = document.createElement("img");
  image.src = thumbnail;
  image.alt = "";
  image.loading = "lazy";
  image.width = image.height = 72;
  anchor.append(image, String(number));
  return anchor;
}

function show(words) {
  const wanted = words.trim().toLowerCase();
  const layers = new Map();
  let count = 0;
  for (const unit of UNITS) {
    const [layer, number, , , classes] = unit;
    const text = `${layer} ${number} ${classes.join(" ")}`.toLowerCase();
    if (wanted && !text.includes(wanted)) continue;
    if (!layers.has(layer)) layers.set(layer, []);
    layers.get(layer).push(unit);
    count += 1;
  }
  const sections = [];
  for (const [layer, units] of layers) {
    const section = document.createElement("section");
    section.className = "layer";
    section.id = layer;
    const heading = document.createElement("h2");
    heading.textContent = `${layer}: ${units.length} units`;
    const grid = document.createElement("div");
    grid.className = "grid";
    grid.append(...units.map(link));
    section.append(heading, grid);
    sections.push(section);
  }
  main.replaceChildren(...sections);
  document.getElementById("count").textContent = `${count} of ${UNITS.length} units`;
}

function move(step) {
  const links = [...document.querySelectorAll(".grid a")];
  const place = links.indexOf(document.activeElement);
  const next = links[Math.min(Math.max(place + step, 0), links.length - 1)];
  if (next) next.focus();
}

const keys = { ArrowRight: 1, ArrowLeft: -1 };
if (main) {
  const search = document.getElementById("search");
  search.addEventListener("input", () => show(search.value));
  show("");
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
  document.addEventListener("keydown", (event) => {
    if (event.target === search) return;
    if (event.key === "/") { event.preventDefault(); search.focus(); }
    else if (event.key in keys) { event.preventDefault(); move(keys[event.key]); }
  });
} else {
  document.addEventListener("keydown", (event) => {
    const page = { ArrowRight: document.body.dataset.after, ArrowLeft: document.body.dataset.before, Escape: "../index.html" }[event.key];
    if (page) location.href = page;
  });
}
