"use strict";
// The ranking lists PAIRS (compare_data.js): layer, unit, page, thumbnails of both networks, and two figures or null.
const search = document.getElementById("search");
const sort = document.getElementById("sort");
const list = document.getElementById("pairs");

function figure(value) {
  return value === null ? "–" : value.toFixed(2);
}

function entryOf([layer, unit, page, own, other, photographs, activations]) {
  const figures = `photographs ${figure(photographs)}, activations ${figure(activations)}`;
  const anchor = card(page, [own, other], [`${layer} ${unit}`, figures]);
  return { anchor, photographs, activations, text: `${layer} ${unit}`.toLowerCase() };
}

function show() {
  const words = search.value.trim().toLowerCase();
  const found = entries.filter((entry) => entry.text.includes(words));
  found.sort((a, b) => (b[sort.value] ?? -1) - (a[sort.value] ?? -1));
  list.replaceChildren(...grouped(found.map((entry) => entry.anchor), "pairs", 30));
  document.getElementById("count").textContent = `${found.length} of ${entries.length} units`;
}

const entries = PAIRS.map(entryOf);
search.addEventListener("input", show);
sort.addEventListener("change", show);
listenToKeys(search, () => [...list.querySelectorAll("a")]);
show();
