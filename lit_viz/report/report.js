"use strict";
// A slider selects the image of its position and marks the position on the curves of its task.
for (const task of document.querySelectorAll("[data-stops]")) {
  const slider = task.querySelector("input[type=range]");
  if (!slider) continue;
  const stops = JSON.parse(task.dataset.stops);
  const stacks = [...task.querySelectorAll(".stack")].filter((stack) => stack.children.length === stops.length);
  const curves = [...task.querySelectorAll("[data-places]")].map((curve) => ({
    places: JSON.parse(curve.dataset.places),
    value: curve.querySelector(".value"),
    line: curve.querySelector("line.mark"),
    circle: curve.querySelector("circle"),
  }));

  const update = () => {
    const position = Number(slider.value);
    for (const stack of stacks) [...stack.children].forEach((image, i) => { image.hidden = i !== position; });
    task.querySelector("output").textContent = stops[position];
    slider.setAttribute("aria-valuetext", `iteration ${stops[position]}`);
    for (const { places, value, line, circle } of curves) {
      const [x, y, text] = places[position] ?? [0, 0, ""];
      value.textContent = text;
      for (const mark of [line, circle]) mark.toggleAttribute("hidden", !text);
      for (const name of ["x1", "x2"]) line.setAttribute(name, x);
      circle.setAttribute("cx", x);
      circle.setAttribute("cy", y);
    }
  };
  slider.addEventListener("input", update);
  update();
}

// The filters of the index hide the tasks with other values: thumbnails, cards and rows.
const filters = document.querySelector(".filters");
if (filters) {
  const selects = [...filters.querySelectorAll("select")];
  const tasks = [...document.querySelectorAll("[data-facets]")].map((element) => ({
    element, facets: JSON.parse(element.dataset.facets),
  }));
  const thumbnails = document.querySelectorAll(".thumbnails a");

  const filter = () => {
    for (const { element, facets } of tasks) {
      element.hidden = selects.some(({ name, value }) => value && facets[name] !== value);
    }
    for (const group of document.querySelectorAll("article")) {
      group.hidden = !group.querySelector(".task:not([hidden])");
    }
    const shown = [...thumbnails].filter((thumbnail) => !thumbnail.hidden).length;
    filters.querySelector("output").textContent = `${shown} of ${thumbnails.length}`;
  };
  filters.addEventListener("input", filter);
  filters.hidden = false;
  filter();
}

// The cue to scroll sideways is hidden where a table or a figure fits.
const hideCues = () => {
  for (const box of document.querySelectorAll(".wide, .drawn")) {
    box.classList.toggle("fits", box.scrollWidth <= box.clientWidth);
  }
};
for (const event of ["load", "resize"]) window.addEventListener(event, hideCues);
