// The page of a study: draws its charts. The numbers are data; names in them are only ever set as text.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  // Okabe and Ito's colours as they are on white, and what stands for them on black.
  const ON_DARK = {
    "#0072b2": "#56b4e9", "#d55e00": "#ff9f5a", "#009e73": "#4fd3a5", "#cc79a7": "#f08cc0", "#e69f00": "#f5c04a",
    "#56b4e9": "#9ad0f5", "#000000": "#ececf1", "#999999": "#b4b4bf",
  };
  const colourOf = (series) => (dark.matches && ON_DARK[series.colour]) || series.colour;

  const quantitative = (field, more) => ({ field, type: "quantitative", ...more });

  function specification(chart) {
    const ink = style("--ink");
    const names = chart.series.map((series) => series.name);
    const legend = { orient: "bottom", direction: "vertical", title: null, labelLimit: 300, symbolType: "stroke", symbolSize: 700, symbolStrokeWidth: 3, symbolOpacity: 1 };
    const color = { field: "name", type: "nominal", scale: { domain: names, range: chart.series.map(colourOf) }, legend };
    const values = chart.series.flatMap(({ name, points }) => points.map(([x, y, low, high]) => ({ name, x, y, low, high })));
    const highest = Math.max(...values.map((point) => point.high));
    const isFrontier = chart.kind === "frontiers";
    const x = quantitative("x", {
      title: chart.x, axis: { format: "~r", tickCount: 5, ...(isFrontier ? {} : { tickMinStep: 1 }) },
      scale: isFrontier ? { domain: [0, chart.widest], nice: false } : { zero: false, nice: false },
    });
    // Shares from 0 to 100 %, but for what stays far below.
    const y = (field, more) => quantitative(field, {
      title: chart.y, axis: { format: "%", tickCount: 5 }, scale: highest < 0.6 && !isFrontier ? { zero: true } : { domain: [0, 1] }, ...more,
    });
    const tooltip = [{ field: "name", title: "arm" }, { field: "x", title: chart.x, format: ".4~r" }, { field: "y", title: chart.y, format: ".1%" }];
    const base = { data: { values } };
    const layer = chart.kind === "areas" ? [
      { ...base, mark: { type: "area", stroke: style("--paper"), strokeWidth: 1 }, encoding: { x, y: y("y", { stack: "zero" }), color: { ...color, legend: { ...legend, symbolType: "square", symbolSize: 100 } }, order: { field: "name" }, tooltip } },
    ] : curves(chart, { base, x, y, color, tooltip, ink });
    return {
      description: chart.says, width: "container", height: 240, autosize: { type: "fit-x", contains: "padding" }, layer,
      config: {
        background: null, view: { stroke: null }, font: "system-ui, sans-serif",
        axis: { labelColor: ink, titleColor: ink, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", gridColor: style("--line"), gridOpacity: .5, domainColor: style("--line"), tickColor: style("--line") },
        legend: { labelColor: ink, labelFontSize: 12 },
      },
    };
  }

  function curves(chart, { base, x, y, color, tooltip, ink }) {
    const interpolate = chart.kind === "frontiers" ? "step-after" : "linear";
    const mark = (more) => ({ interpolate, clip: true, ...more });
    const of = (values) => ({ data: { values } });
    // As in the figures that are files: the strokes of an arm, and lines that are seen under those drawn on them.
    const widths = chart.series.map((_, place) => 1.7 + .7 * (chart.series.length - 1 - place));
    const dashes = chart.series.map(({ dash }, place) => (dash.length ? dash.map((length) => length * widths[place]) : [1, 0]));
    const strokeDash = { field: "name", type: "nominal", scale: { domain: color.scale.domain, range: dashes }, legend: color.legend };
    const switches = chart.series.flatMap(({ name, switches }) => switches.map((x) => ({ name, x })));
    const ends = chart.series.flatMap(({ name, end }) => (end ? [{ name, x: end[0], y: end[1] }] : []));
    const votes = chart.series.flatMap(({ name, votes }) => Object.entries(votes).map(([k, [x, y]]) => ({ name, k, x, y })));
    const found = [
      { ...base, mark: mark({ type: "area", opacity: .15, aria: false }), encoding: { x, y: y("low"), y2: { field: "high" }, color } },
      ...chart.series.map(({ name }, place) => ({
        ...of(base.data.values.filter((point) => point.name === name)), mark: mark({ type: "line", strokeWidth: widths[place] }), encoding: { x, y: y("y"), color, strokeDash, tooltip },
      })),
    ];
    if (switches.length) found.push({ ...of(switches), mark: { type: "rule", strokeDash: [2, 3] }, encoding: { x: quantitative("x"), color } });
    if (chart.chance !== null) {
      found.push({ ...of([{ y: chart.chance, says: "chance" }]), mark: { type: "rule", strokeDash: [2, 3], color: ink }, encoding: { y: quantitative("y") } });
      found.push({ ...of([{ y: chart.chance, x: chart.widest }]), mark: { type: "text", text: "chance", align: "right", dy: -6, color: ink }, encoding: { x: quantitative("x"), y: quantitative("y") } });
    }
    if (votes.length) {
      const at = { x: quantitative("x"), y: quantitative("y"), color };
      found.push({ ...of(votes), mark: { type: "line", strokeDash: [4, 3], strokeWidth: 1.2 }, encoding: at });
      found.push({ ...of(votes), mark: { type: "point", shape: "diamond", size: 150, filled: false, strokeWidth: 2, opacity: 1 }, encoding: { ...at, tooltip: [{ field: "k", title: "votes" }, ...tooltip] } });
      const several = new Set(votes.map(({ k }) => k)).size > 1;
      if (several) found.push({ ...of(votes), mark: { type: "text", dy: -14, color: ink }, encoding: { x: at.x, y: at.y, text: { field: "k" } } });
    }
    if (ends.length) found.push({ ...of(ends), mark: { type: "point", filled: true, size: 70, opacity: 1, stroke: style("--paper"), strokeWidth: 1.5 }, encoding: { x: quantitative("x"), y: quantitative("y"), color, tooltip } });
    return found;
  }

  drawing((place) => specification(data.charts[Number(place.dataset.chart)]));
  addEventListener("beforeprint", () => { document.querySelector("header details").open = true; });
  document.body.dataset.ready = "yes";
})();
