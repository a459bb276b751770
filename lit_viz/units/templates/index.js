"use strict";
// The index lists UNITS (data.js): layer, unit, page, thumbnail, classes and remark.
const search = document.getElementById("search");
const flaggedOnly = document.getElementById("flagged");
const list = document.getElementById("units");

function entryOf([layer, unit, page, thumbnail, classes, flag]) {
  const anchor = card(page, [thumbnail], [flag ? `${unit} ${flag}` : unit]);
  anchor.title = `${layer}, unit ${unit}: ${classes.join(", ")}`;
  return { anchor, layer, flag, text: `${layer} ${unit} ${classes.join(" ")}`.toLowerCase() };
}

function sectionOf([layer, cards]) {
  const section = document.createElement("section");
  section.id = layer;
  const heading = document.createElement("h2");
  heading.textContent = `${layer}: ${cards.length} units`;
  section.append(heading, ...grouped(cards, "grid", 8));
  return section;
}

function show() {
  const words = search.value.trim().toLowerCase();
  const found = entries.filter((entry) => entry.text.includes(words) && (entry.flag || !flaggedOnly.checked));
  const layers = new Map();
  for (const { anchor, layer } of found) {
    if (!layers.has(layer)) layers.set(layer, []);
    layers.get(layer).push(anchor);
  }
  list.replaceChildren(...[...layers].map(sectionOf));
  document.getElementById("count").textContent = `${found.length} of ${entries.length} units`;
}

const entries = UNITS.map(entryOf);
search.addEventListener("input", show);
flaggedOnly.addEventListener("change", show);
listenToKeys(search, () => [...list.querySelectorAll("a")]);
show();
document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
