"use strict";
// The index lists UNITS (data.js): layer, unit, page, thumbnail and classes. The page of a unit has neighbours in its body's data.
const main = document.getElementById("units");
const entries = [];

function link(unit) {
  const [layer, number, page, thumbnail, classes] = unit;
  const anchor = document.createElement("a");
  anchor.href = page;
  anchor.title = `${layer}, unit ${number}: ${classes.join(", ")}`;
  const image = document.createElement("img");
  image.src = thumbnail;
  image.alt = "";
  image.loading = "lazy";
  image.width = image.height = 96;
  anchor.append(image, String(number));
  entries.push({ anchor, layer, text: `${layer} ${number} ${classes.join(" ")}`.toLowerCase() });
  return anchor;
}

function build() {
  const sections = new Map();
  for (const unit of UNITS) {
    const layer = unit[0];
    if (!sections.has(layer)) {
      const section = document.createElement("section");
      section.className = "layer";
      section.id = layer;
      const grid = document.createElement("div");
      grid.className = "grid";
      section.append(document.createElement("h2"), grid);
      sections.set(layer, section);
    }
    sections.get(layer).lastChild.append(link(unit));
  }
  main.append(...sections.values());
  return sections;
}

function show(sections, words) {
  const wanted = words.trim().toLowerCase();
  const counts = new Map();
  let count = 0;
  for (const entry of entries) {
    const matches = entry.text.includes(wanted);
    entry.anchor.hidden = !matches;
    if (!matches) continue;
    counts.set(entry.layer, (counts.get(entry.layer) ?? 0) + 1);
    count += 1;
  }
  for (const [layer, section] of sections) {
    section.hidden = !counts.has(layer);
    section.firstChild.textContent = `${layer}: ${counts.get(layer)} units`;
  }
  document.getElementById("count").textContent = `${count} of ${UNITS.length} units`;
}

function move(step) {
  const links = entries.map((entry) => entry.anchor).filter((anchor) => !anchor.hidden);
  const place = links.indexOf(document.activeElement);
  const next = links[Math.min(Math.max(place + step, 0), links.length - 1)];
  if (next) next.focus();
}

const keys = { ArrowRight: 1, ArrowLeft: -1 };
if (main) {
  const search = document.getElementById("search");
  const sections = build();
  search.addEventListener("input", () => show(sections, search.value));
  show(sections, "");
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
  document.addEventListener("keydown", (event) => {
    if (event.target === search) return;
    if (event.key === "/") { event.preventDefault(); search.focus(); }
    else if (event.key in keys) { event.preventDefault(); move(keys[event.key]); }
  });
} else {
  const { before, after, up } = document.body.dataset;
  document.addEventListener("keydown", (event) => {
    const page = { ArrowRight: after, ArrowLeft: before, Escape: up }[event.key];
    if (page) location.href = page;
  });
}
