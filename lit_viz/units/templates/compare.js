"use strict";
// The ranking lists PAIRS (compare_data.js): layer, unit, page, thumbnails of both networks, and two figures or null.
const main = document.getElementById("pairs");
const search = document.getElementById("search");
const sort = document.getElementById("sort");
const FIGURES = { photographs: 5, activations: 6 };

function figure(value) {
  return value === null ? "–" : value.toFixed(2);
}

function card(pair) {
  const [layer, unit, page, own, other, photographs, activations] = pair;
  const anchor = document.createElement("a");
  anchor.href = page;
  for (const thumbnail of [own, other]) {
    const image = document.createElement("img");
    image.src = thumbnail;
    image.alt = "";
    image.loading = "lazy";
    image.width = image.height = 96;
    anchor.append(image);
  }
  const caption = document.createElement("span");
  caption.textContent = `${layer} ${unit}`;
  const figures = document.createElement("span");
  figures.textContent = `photographs ${figure(photographs)}, activations ${figure(activations)}`;
  anchor.append(caption, figures);
  return anchor;
}

const cards = PAIRS.map((pair) => ({ pair, element: card(pair), text: `${pair[0]} ${pair[1]}`.toLowerCase() }));

function show() {
  const place = FIGURES[sort.value];
  const words = search.value.trim().toLowerCase();
  const found = cards.filter((entry) => entry.text.includes(words));
  found.sort((a, b) => (b.pair[place] ?? -1) - (a.pair[place] ?? -1));
  main.replaceChildren(...found.map((entry) => entry.element));
  document.getElementById("count").textContent = `${found.length} of ${PAIRS.length} units`;
}

function move(step) {
  const links = [...main.children];
  const next = links[Math.min(Math.max(links.indexOf(document.activeElement) + step, 0), links.length - 1)];
  if (next) next.focus();
}

search.addEventListener("input", show);
sort.addEventListener("change", show);
document.addEventListener("keydown", (event) => {
  if (event.target === search || event.target === sort) return;
  if (event.key === "/") { event.preventDefault(); search.focus(); }
  else if (event.key === "ArrowRight") { event.preventDefault(); move(1); }
  else if (event.key === "ArrowLeft") { event.preventDefault(); move(-1); }
});
show();
