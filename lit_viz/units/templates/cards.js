"use strict";
// Cards of units: links with thumbnails, which are loaded when a card comes near the window.
const thumbnails = new WeakMap();
const observer = new IntersectionObserver(load, { rootMargin: "400px" });

function load(changes) {
  for (const change of changes) {
    if (!change.isIntersecting) continue;
    observer.unobserve(change.target);
    change.target.querySelectorAll(".thumbnail").forEach((place, index) => {
      const image = document.createElement("img");
      image.alt = "";
      image.src = thumbnails.get(change.target)[index];
      place.append(image);
    });
  }
}

function card(href, files, captions) {
  const anchor = document.createElement("a");
  anchor.href = href;
  for (const _ of files) {
    const place = document.createElement("span");
    place.className = "thumbnail";
    anchor.append(place);
  }
  for (const caption of captions) {
    const line = document.createElement("span");
    line.textContent = caption;
    anchor.append(line);
  }
  thumbnails.set(anchor, files);
  observer.observe(anchor);
  return anchor;
}

// Groups of cards, of which the browser lays out only those near the window; 420 are full rows of 4, 6, 7, 10, 12 or 14.
function grouped(cards, className, heightOfCard) {
  const groups = [];
  for (let first = 0; first < cards.length; first += 420) {
    const group = document.createElement("div");
    group.className = className;
    group.append(...cards.slice(first, first + 420));
    group.style.containIntrinsicSize = `auto ${group.children.length * heightOfCard}px`;
    groups.push(group);
  }
  return groups;
}

function focusNext(links, step) {
  const place = links.indexOf(document.activeElement) + step;
  links[Math.min(Math.max(place, 0), links.length - 1)]?.focus();
}

// Arrow keys move between the cards that linksOf() returns, / goes to the search.
function listenToKeys(search, linksOf) {
  const steps = { ArrowRight: 1, ArrowLeft: -1 };
  document.addEventListener("keydown", (event) => {
    if (event.target.matches?.("input, select")) return;
    if (event.key === "/") {
      event.preventDefault();
      search.focus();
    } else if (event.key in steps) {
      event.preventDefault();
      focusNext(linksOf(), steps[event.key]);
    }
  });
}
