// Draws the charts of a page once they come into view, again where light or dark changes, and all of them to print.
"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// `specify` gives the Vega-Lite specification of a place, an element of the class "plot".
function drawing(specify) {
  const views = new Map();
  const plots = () => [...document.querySelectorAll(".plot")];

  async function draw(place) {
    const runtime = vega.parse(vegaLite.compile(specify(place)).spec, null, { ast: true });
    views.get(place)?.finalize();
    const view = new vega.View(runtime, { expr: window.expressionInterpreter, renderer: "svg", container: place, hover: true });
    views.set(place, view);
    await view.runAsync();
    place.dataset.drawn = "yes";
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting && !views.has(entry.target)) draw(entry.target);
  }, { rootMargin: "400px" });
  const redraw = () => [...views.keys()].forEach(draw);
  plots().forEach((place) => watcher.observe(place));
  dark.addEventListener("change", redraw);
  addEventListener("beforeprint", () => plots().filter((place) => !views.has(place)).forEach(draw));
  return { views, watcher, draw, redraw };
}
