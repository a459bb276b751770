"use strict";
// Arrow keys move to the neighbours of a unit, Escape goes to the list.
const { before, after, up } = document.body.dataset;
document.addEventListener("keydown", (event) => {
  const page = { ArrowRight: after, ArrowLeft: before, Escape: up }[event.key];
  if (page) location.href = page;
});
