// A page about runs: draws the charts, and shows the traces that the filters choose. What a model wrote is only
// ever set as the text of a node. The address after # says what is shown, so that every view is a link.
"use strict";
(() => {
  // A served page has its data in pieces (prl.report.page.pieces): {"§": name} stands for one, {"§": [name]} for a list.
  const given = JSON.parse(document.getElementById("data").textContent);
  const held = new Map(Object.entries(given.pieces ?? {}));

  function joined(value) {
    if (Array.isArray(value)) return value.map(joined);
    if (value === null || typeof value !== "object") return value;
    const named = value["§"];
    if (Array.isArray(named)) return named.flatMap((name) => joined(held.get(name)));
    if (named) return joined(held.get(named));
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, joined(part)]));
  }

  // The names of the pieces below a value that are here, and of those that are not.
  function named_in(value, here = new Set(), lacking = new Set()) {
    if (value !== null && typeof value === "object") {
      for (const name of [value["§"] ?? []].flat()) {
        if (!held.has(name)) lacking.add(name);
        else if (!here.has(name)) named_in(held.get(name), here.add(name), lacking);
      }
      if (!value["§"]) for (const part of Object.values(value)) named_in(part, here, lacking);
    }
    return { here, lacking };
  }

  // The index is written chunk by chunk, and read column by column.
  function read(value) {
    const columns = Object.keys(value.index[0] ?? {});
    return { ...value, index: Object.fromEntries(columns.map((name) => [name, value.index.flatMap((part) => part[name])])) };
  }

  let data = read(given.root ? joined({ "§": given.root }) : given);
  let index = data.index;
  const byId = (name) => document.getElementById(name);

  function node(tag, classes, text) {
    const made = document.createElement(tag);
    if (classes) made.className = classes;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // --- Charts

  // Okabe and Ito's colours, the dark ones lightened where the page is dark.
  const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#aa4c8a", "#7a6a00", "#4d4d4d", "#56a0d8", "#a33b00"];
  const DARK = ["#56b4e9", "#ff9f5a", "#4fd3a5", "#e39ac4", "#f0e442", "#c8c8d0", "#9ad0f5", "#ffc299"];
  const DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [1, 3], [4, 1], [10, 4], [3, 5]];

  // At each point the mean of those that lie less than so many steps before it, and itself.
  function smoothed(points, steps) {
    let first = 0;
    return points.map(([step], at) => {
      while (points[first][0] <= step - steps) first++;
      const latest = points.slice(first, at + 1);
      return [step, latest.reduce((sum, [, value]) => sum + value, 0) / latest.length];
    });
  }

  // Of several runs a colour is a run, in every chart the same, and a dash a curve; of one a colour is a curve.
  function looks(chart) {
    const several = data.runs.length > 1;
    const names = [...new Set(chart.series.map((series) => series.name))];
    const told_apart = several ? data.runs.map((run) => run.name) : names;
    const colours = dark.matches ? DARK : LIGHT;
    const colourOf = (name) => colours[told_apart.indexOf(name) % colours.length];
    const dashOf = (name) => (several ? DASHES[names.indexOf(name) % DASHES.length] : DASHES[0]);
    return { several, names, told_apart, colourOf, dashOf };
  }

  // Which curve is which, beside the chart: so its place is known before it is drawn.
  function legends() {
    byId("staged")?.toggleAttribute("hidden", !data.runs.some((run) => run.stages.length > 1));
    for (const place of document.querySelectorAll(".plot")) {
      const chart = data.charts[Number(place.dataset.chart)];
      const { several, names, colourOf, dashOf } = looks(chart);
      const runs = several ? [...new Set(chart.series.map((series) => series.run))] : [];
      const entries = [
        ...runs.map((name) => [name, colourOf(name), DASHES[0]]),
        ...(names.length > 1 ? names.map((name) => [name, several ? "currentColor" : colourOf(name), dashOf(name)]) : []),
      ];
      place.nextElementSibling.replaceChildren(...entries.map(([name, colour, dash]) => {
        const item = node("li");
        const [swatch, line] = ["svg", "line"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
        swatch.setAttribute("aria-hidden", "true");
        const of = { x1: 0, x2: "100%", y1: "50%", y2: "50%", stroke: colour, "stroke-dasharray": dash };
        for (const [key, value] of Object.entries(of)) line.setAttribute(key, value);
        swatch.append(line);
        item.append(swatch, name);
        return item;
      }));
    }
  }

  function specification(chart) {
    const { several, names, told_apart, colourOf, dashOf } = looks(chart);
    const window = Number(byId("smooth").value);
    const values = chart.series.flatMap((series) =>
      smoothed(series.points, window).map(([step, value]) => ({ step, value, run: series.run, curve: series.name })));
    const staged = data.runs.filter((run) => run.stages.length > 1 && chart.series.some((series) => series.run === run.name));
    const highest = Math.max(...values.map(({ value }) => value));
    const few = Math.max(...chart.series.map((series) => series.points.length)) <= 25;
    const ink = style("--ink");
    const first = chart.series[0].points;
    const told = `${chart.title}. ${names[0]}: ${first[0][1].toPrecision(3)} at step ${first[0][0]}, ` +
      `${first[first.length - 1][1].toPrecision(3)} at step ${first[first.length - 1][0]}.`;
    const encoding = {
      x: { field: "step", type: "quantitative", title: "step", axis: { tickMinStep: 1, format: "d" } },
      y: {
        field: "value", type: "quantitative", title: null,
        scale: chart.logarithmic ? { type: "log" } : chart.share ? { domain: [0, highest > 0.5 ? 1 : Math.max(0.05, 1.2 * highest)] } : { zero: chart.zero },
        axis: chart.share ? { format: "%" } : chart.logarithmic ? { format: ".0e", tickCount: 4 } : { format: ".4~r", tickCount: 5 },
      },
      color: {
        field: several ? "run" : "curve", type: "nominal", legend: null,
        scale: { domain: told_apart, range: told_apart.map(colourOf) },
      },
      ...(several && names.length > 1 ? {
        strokeDash: { field: "curve", type: "nominal", legend: null, scale: { domain: names, range: names.map(dashOf) } },
      } : {}),
      tooltip: [{ field: "step" }, { field: "value", format: ".4g" }, { field: "curve" }, ...(several ? [{ field: "run" }] : [])],
    };
    return {
      description: told, width: "container", height: 230, autosize: { type: "fit", contains: "padding" },
      layer: [
        { data: { values }, mark: { type: "line", point: few, clip: false }, encoding },
        ...staged.flatMap((run, at) => {
          const stages = { values: run.stages.slice(1).map(([step, name]) => ({ step, name })) };
          const color = several ? colourOf(run.name) : ink;
          const x = { field: "step", type: "quantitative" };
          return [
            { data: stages, mark: { type: "rule", strokeDash: [2, 3], color }, encoding: { x } },
            { data: stages, mark: { type: "text", align: "left", dx: 3, y: 6 + 11 * at, fontSize: 10, color }, encoding: { x, text: { field: "name" } } },
          ];
        }),
      ],
      config: {
        background: null, view: { stroke: null }, font: "system-ui, sans-serif",
        axis: { labelColor: ink, titleColor: ink, gridColor: style("--line"), gridOpacity: .6, domainColor: style("--line"), tickColor: style("--line") },
      },
    };
  }

  const { views, watcher, draw, redraw } = drawing((place) => specification(data.charts[Number(place.dataset.chart)]));
  byId("smooth")?.addEventListener("change", redraw);
  dark.addEventListener("change", legends);
  legends();

  // --- Traces

  const form = byId("filters");
  const list = byId("list");
  const PAGE = 10;
  let chosen = [];
  let shown = 0;
  let asked = 0; // of the views asked for the latest counts
  const chunkOf = [];
  const unpacked = new Map();

  async function unpack(chunk) {
    if (!unpacked.has(chunk)) {
      const bytes = Uint8Array.from(atob(data.chunks[chunk]), (character) => character.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      unpacked.set(chunk, new Response(stream).json());
    }
    return unpacked.get(chunk);
  }

  async function details(sample) {
    const [chunk, place] = chunkOf[sample];
    return (await unpack(chunk))[place];
  }

  const KEEP = {
    run: (at, value) => String(index.run[at]) === value,
    step: (at, value) => String(index.step[at]) === value,
    answer: (at, value) => ({ right: 1, wrong: 0, unread: null })[value] === index.correct[at],
    format: (at, value) => index.valid[at] === Number(value === "valid"),
    block: (at, value) => index.parallel[at] === Number(value === "with"),
    look: (at, value) => Boolean(index[value]?.[at]),
    problem: (at, value) => String(numberOf(at)) === value.trim(),
    mode: (at, value) => index.mode[at] === value,
    group: (at, value) => String(index.group[at]) === value,
    sample: (at, value) => String(index.sample[at]) === value,
  };
  const numberOf = (at, of = data) => of.problems[of.index.problem[at]].number;
  const number = (value, missing) => (value === null || value === undefined ? missing : value);
  const ORDER = { // what has no step, as an evaluation, comes last
    first: (a, b) => number(index.step[a], 1e9) - number(index.step[b], 1e9) || a - b,
    last: (a, b) => number(index.step[b], -1) - number(index.step[a], -1) || a - b,
    best: (a, b) => number(index.advantage[b], -1e9) - number(index.advantage[a], -1e9) || a - b,
    worst: (a, b) => number(index.advantage[a], 1e9) - number(index.advantage[b], 1e9) || a - b,
    long: (a, b) => number(index.tokens[b], 0) - number(index.tokens[a], 0) || a - b,
  };

  function asked_for() {
    const [place, query] = location.hash.slice(1).split("?");
    return place === "traces" ? Object.fromEntries(new URLSearchParams(query || "")) : null;
  }

  async function search(parameters, ticket) {
    let found = [...index.step.keys()];
    for (const [name, value] of Object.entries(parameters)) {
      if (KEEP[name] && value !== "") found = found.filter((at) => KEEP[name](at, value));
    }
    const words = (parameters.text || "").toLowerCase();
    if (words) {
      const kept = [];
      for (const at of found) {
        if (ticket !== asked) return null;
        if ((await details(at)).text.toLowerCase().includes(words)) kept.push(at);
      }
      found = kept;
    }
    return found.sort(ORDER[parameters.order] || ORDER.first);
  }

  // Pieces of a response, token by token where the run kept them: [text, sign] with the sign of `shades`.
  function pieces(points, shades, start, end) {
    while (start < end && !points[start].trim()) start++;
    while (end > start && !points[end - 1].trim()) end--;
    if (!shades || !byId("shade").checked) return [[points.slice(start, end).join(""), ""]];
    const found = [];
    let at = 0;
    shades[0].forEach((length, token) => {
      const [from, to] = [Math.max(at, start), Math.min(at + length, end)];
      if (from < to) found.push([points.slice(from, to).join(""), shades[1][token]]);
      at += length;
    });
    return found;
  }

  const SAYS = { f: "forced: the runtime inserted it", "?": "log-probability not kept" };

  function lanes(holder, sample) {
    const points = [...sample.text]; // offsets count characters, not halves of them
    const text = (start, end) => {
      const made = node("div", "text");
      for (const [words, sign] of pieces(points, sample.shades, start, end)) {
        if (!sign) { made.append(words); continue; }
        const token = node("span", sign === "f" ? "forced" : "token", words);
        token.title = SAYS[sign] ?? (sign === "9" ? "log-probability below −4.2" : `log-probability about ${-Number(sign) / 2}`);
        if (sign >= "1" && sign <= "9") token.style.setProperty("--surprise", `${Number(sign) * 5}%`);
        made.append(token);
      }
      return made;
    };
    for (const [kind, ...of] of sample.spans) {
      if (kind === "main") {
        if (points.slice(of[0], of[1]).join("").trim()) {
          const part = node("div", "main");
          part.append(text(of[0], of[1]));
          holder.append(part);
        }
        continue;
      }
      const [paths, summary] = of;
      const side = node("div", "lanes");
      side.tabIndex = 0;
      side.setAttribute("role", "group");
      side.setAttribute("aria-label", `Block of ${paths.length} paths`);
      for (const [start, end, label] of paths) {
        const lane = node("div", "lane");
        lane.append(node("div", "label", label), text(start, end));
        side.append(lane);
      }
      holder.append(side);
      if (summary) {
        const part = node("div", "summary");
        part.append(node("div", "label", "Summary"), text(...summary));
        holder.append(part);
      }
    }
    if (sample.cut) holder.append(node("p", "note", `… and ${sample.cut.toLocaleString()} characters more`));
  }

  function link(text, parameters) {
    const made = node("a", "", text);
    made.href = "#traces?" + new URLSearchParams(parameters);
    return made;
  }

  // What says which sample it is, also in a page of the same runs that holds other ones.
  function placeOf(at, of = data) {
    const place = { problem: numberOf(at, of) };
    for (const name of ["run", "step", "mode", "group", "sample"]) place[name] = of.index[name][at];
    return Object.fromEntries(Object.entries(place).filter(([, value]) => value !== null));
  }
  const keyOf = (at, of = data) => String(new URLSearchParams(placeOf(at, of)));

  async function card(at) {
    const of = data; // as it is when the card is asked for
    const { index } = of;
    const sample = await details(at);
    const problem = of.problems[index.problem[at]];
    const correct = index.correct[at];
    const item = node("li", "trace");
    item.dataset.sample = keyOf(at, of);
    const head = node("h3");
    head.append(correct === null ? node("span", "", "not judged") : node("span", correct ? "right" : "wrong", correct ? "✓ right" : "✗ wrong"));
    const told = {
      "": of.runs.length > 1 ? of.runs[index.run[at]].name : null,
      step: index.step[at], mode: index.mode[at], stage: sample.stage, phase: sample.phase, level: sample.level,
      reward: index.reward[at], advantage: index.advantage[at], tokens: index.tokens[at], "critical path": sample.critical_path,
    };
    for (const [name, value] of Object.entries(told)) {
      if (value !== null && value !== undefined) head.append(node("span", "", `${name} ${value}`.trim()));
    }
    item.append(head);
    const asks = node("p");
    asks.append(node("span", "label", `Problem ${numberOf(at, of)}: `), node("span", "text", problem.problem));
    item.append(asks);
    lanes(item, sample);
    const verdict = node("p");
    verdict.append(node("span", "label", "Answer found: "), node("span", "text", sample.extracted ?? "none"),
      node("span", "label", "  gold: "), node("span", "text", problem.gold ?? "unknown"),
      node("span", "label", `  verifier: ${sample.verdict ?? "not asked"}${sample.truncated ? "; cut off at the length limit" : ""}`));
    item.append(verdict);
    const parts = Object.entries(sample.rewards);
    if (sample.doubt) item.append(node("p", "label", `To be doubted: ${sample.doubt}`));
    if (sample.text.includes("\ufffd")) item.append(node("p", "label", "�: bytes that are no whole character; a token may hold a part of one"));
    if (parts.length > 1) item.append(node("p", "label", parts.map(([name, value]) => `${name} ${value}`).join(", ")));
    if (sample.faults.length) item.append(node("p", "faults", "Faults: " + sample.faults.join("; ")));
    const ways = node("p", "label");
    const run = String(index.run[at]);
    if (index.group[at] !== null) ways.append(link("its group", { run, step: index.step[at], group: index.group[at] }), " · ");
    ways.append(link("this problem in all runs", { problem: numberOf(at, of) }), " · ", link("link to this", placeOf(at, of)));
    item.append(ways);
    return item;
  }

  async function more() {
    const ticket = asked;
    const next = chosen.slice(shown, shown + PAGE);
    const cards = await Promise.all(next.map(card));
    if (ticket !== asked) return;
    list.append(...cards);
    shown += next.length;
    tell();
  }

  function tell() {
    byId("more").hidden = shown >= chosen.length;
    const are = chosen.length === 1 ? "response" : "responses";
    byId("found").textContent = chosen.length
      ? `${chosen.length.toLocaleString()} ${are}, ${shown.toLocaleString()} shown`
      : "No response is like that. Choose “all” somewhere, or press “show all”.";
  }

  // What the form has no field for is a button that takes it away; in print a line stands for the form.
  function tell_filters() {
    const fields = [...form.elements].filter((field) => field.name && field.value);
    byId("asked").textContent = "Chosen: " + fields.map((field) => `${field.name} ${field.selectedOptions?.[0].text ?? field.value}`).join(", ");
    byId("chips").replaceChildren(...fields.filter((field) => field.type === "hidden").map((field) => {
      const chip = node("button", "", `${field.name} ${field.value} ×`);
      chip.type = "button";
      chip.title = "remove this filter";
      chip.addEventListener("click", () => { field.value = ""; go(); form.elements.run.focus(); });
      return chip;
    }));
  }

  let typing = 0;

  // Shows what the form says, which is a step back in the history but for what is being typed.
  function go(is_typed) {
    clearTimeout(typing);
    typing = 0;
    const kept = [...new FormData(form)].filter(([name, value]) => value && !(name === "order" && value === "first"));
    const address = "#traces" + (kept.length ? "?" + new URLSearchParams(kept) : "");
    if (address === location.hash) return;
    history[is_typed ? "replaceState" : "pushState"](null, "", address);
    show();
  }

  async function show() {
    if (!form) return;
    const parameters = asked_for() || {};
    for (const field of form.elements) {
      // Not what is being typed, which the address does not say yet.
      if (field.name && !(typing && field === document.activeElement)) field.value = parameters[field.name] ?? (field.name === "order" ? "first" : "");
    }
    tell_filters();
    const ticket = ++asked;
    list.setAttribute("aria-busy", "true");
    const found = await search(parameters, ticket);
    if (found === null || ticket !== asked) return;
    chosen = found;
    shown = 0;
    if (byId("newer")) byId("newer").hidden = true;
    list.replaceChildren();
    await more();
    list.removeAttribute("aria-busy");
  }

  function arrange() {
    chunkOf.length = 0;
    unpacked.clear();
    data.sizes.forEach((size, chunk) => {
      for (let place = 0; place < size; place++) chunkOf.push([chunk, place]);
    });
    const steps = [...new Set(index.step)].filter((step) => step !== null).sort((a, b) => a - b);
    const runs = data.runs.map((run, at) => [at, run.name]).filter(([at]) => index.run.includes(at));
    const modes = [...new Set(index.mode)].filter((mode) => mode !== null);
    form.elements.mode.parentNode.hidden = !modes.length;
    const same = (value) => [value, value];
    for (const [name, options] of [["run", runs], ["step", steps.map(same)], ["mode", modes.map(same)]]) {
      const field = form.elements[name];
      const value = field.value;
      field.replaceChildren(field.options[0], ...options.map(([of, text]) => {
        const made = node("option", "", text);
        made.value = of;
        return made;
      }));
      field.value = value;
    }
  }

  if (form) {
    arrange();
    form.addEventListener("input", (event) => {
      if (event.target.tagName !== "INPUT") return go();
      clearTimeout(typing);
      typing = setTimeout(go, 250, true);
    });
    form.addEventListener("submit", (event) => { event.preventDefault(); go(); });
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      for (const field of form.elements) if (field.name) field.value = field.name === "order" ? "first" : "";
      go();
    });
    byId("more").addEventListener("click", more);
    byId("shade").addEventListener("change", show);
  }

  // --- A newer page of the same runs, from a server (follow.js): what is on the screen stays where it is.

  function exchange(old, fresh) {
    if (!old || !fresh || old.innerHTML === fresh.innerHTML) return;
    const reached = () => [...old.querySelectorAll("summary, [tabindex]")];
    const focused = reached().indexOf(document.activeElement);
    const opened = [...old.querySelectorAll("details")].map((each) => each.open);
    old.replaceChildren(...document.importNode(fresh, true).childNodes);
    old.querySelectorAll("details").forEach((each, at) => { each.open = opened[at] ?? each.open; });
    if (focused >= 0) reached()[focused]?.focus({ preventScroll: true });
  }

  function exchange_charts(fresh, newer) {
    const charts = document.querySelector(".charts");
    const drawn = new Map(data.charts.map((chart) => [chart.title, JSON.stringify(chart)]));
    const changed = [];
    const figures = [...fresh.querySelectorAll(".charts > figure")];
    figures.forEach((figure, at) => {
      let here = byId(figure.id);
      if (here?.parentNode === charts) {
        for (const part of ["figcaption", "tbody"]) exchange(here.querySelector(part), figure.querySelector(part));
      } else {
        here = document.importNode(figure, true);
        watcher.observe(here.querySelector(".plot"));
      }
      const plot = here.querySelector(".plot");
      plot.dataset.chart = at;
      if (views.has(plot) && drawn.get(newer.charts[at].title) !== JSON.stringify(newer.charts[at])) changed.push(plot);
      if (charts.children[at] !== here) charts.insertBefore(here, charts.children[at] ?? null);
    });
    for (const gone of [...charts.children].slice(figures.length)) {
      const plot = gone.querySelector(".plot");
      views.get(plot)?.finalize();
      views.delete(plot);
      gone.remove();
    }
    for (const missing of document.querySelectorAll("#curves > p[id]")) missing.remove();
    for (const missing of fresh.querySelectorAll("#curves > p[id]")) byId("curves").append(document.importNode(missing, true));
    return changed;
  }

  function is_read() {
    const { top, bottom } = list.getBoundingClientRect();
    return list.contains(document.activeElement) || (bottom > 0 && top < innerHeight);
  }

  // The responses that the filters choose now. Those on the screen stay where another would take their place.
  async function renew_list() {
    if (list.hasAttribute("aria-busy") || !is_read()) return show();
    const ticket = ++asked;
    const found = await search(asked_for() || {}, ticket);
    if (found === null || ticket !== asked) return;
    const standing = [...list.children].map((item) => item.dataset.sample);
    const same = found.slice(0, standing.length).every((at, place) => keyOf(at) === standing[place]);
    if (!standing.length || found.length < standing.length) return show();
    const known = new Map([...index.step.keys()].map((at) => [keyOf(at), at]));
    const others = found.filter((at) => !standing.includes(keyOf(at)));
    chosen = same ? found : [...standing.map((key) => known.get(key)), ...others];
    shown = standing.length;
    byId("newer").hidden = same;
    byId("newer").textContent = "There are newer responses: show them";
    tell();
  }

  // The data of a newer page, of which `ask` gets the pieces that are not here; null where the server has gone on
  // meanwhile, and has them no more.
  async function renewed(root, ask) {
    for (;;) {
      const { here, lacking } = named_in({ "§": root });
      if (!lacking.size) {
        for (const name of held.keys()) if (!here.has(name)) held.delete(name);
        return read(joined({ "§": root }));
      }
      const found = Object.entries(await (await ask(`/pieces?${[...lacking].slice(0, 500).join(",")}`)).json());
      if (!found.length) return null;
      for (const [name, piece] of found) held.set(name, piece);
    }
  }

  // Takes a newer page over; false where it has parts that this one has not, null where it has to be asked for again.
  window.renewPage = async (fresh, root, ask) => {
    const newer = await renewed(root, ask);
    if (!newer) return null;
    const alike = (selector) => !document.querySelector(selector) === !fresh.querySelector(selector);
    if (newer.runs.length !== data.runs.length || !alike("#filters") || !alike(".charts")) return false;
    const changed = document.querySelector(".charts") ? exchange_charts(fresh, newer) : [];
    for (const name of ["repeat", "verdict", "rewards"]) exchange(byId(name), fresh.getElementById(name));
    exchange(document.querySelector("#traces > p"), fresh.querySelector("#traces > p"));
    asked++; // what is being looked for in the older responses is in vain
    data = newer;
    index = data.index;
    legends();
    await Promise.all(changed.map(draw));
    if (form) {
      arrange();
      await renew_list();
    }
    return true;
  };
  byId("newer")?.addEventListener("click", show);

  async function arrive() {
    const target = byId(location.hash.slice(1).split("?")[0]);
    const place = asked_for()?.sample ? byId("found") : target; // one response alone is worth no form above it
    target?.focus({ preventScroll: true });
    place?.scrollIntoView();
    const at = scrollY;
    clearTimeout(typing);
    typing = 0;
    await show();
    if (scrollY === at) place?.scrollIntoView(); // now that there are cards below it, it can be at the top
  }
  addEventListener("hashchange", arrive);
  addEventListener("beforeprint", () => { for (const run of document.querySelectorAll("#repeat details")) run.open = true; });
  arrive().then(() => { document.body.dataset.ready = "yes"; });
})();
