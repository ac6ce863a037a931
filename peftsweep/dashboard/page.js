"use strict";
(() => {
  const rows = JSON.parse(document.getElementById("rows").textContent);
  const root = document.documentElement;
  const NAMES = { macro_f1: "macro-F1", macro_f1_tuned: "macro-F1, tuned thresholds" };
  // after Okabe and Ito's colours, moved apart for those who see two primaries; each goes with a shape of its own
  const COLOURS = ["blue", "orange", "green", "red", "pink", "sky", "yellow"];
  const SHAPES = ["circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon"];
  const byStudy = Object.fromEntries(rows.leaders.map((row) => [row.study, row]));
  const methods = [...new Set(rows.leaders.map((row) => row.method).filter(Boolean))].sort();
  const narrow = () => window.innerWidth < 640;

  // plotly reads a little HTML in its texts: names are to be shown as they are
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (text, longest = 26) => (text.length <= longest ? text : `${text.slice(0, longest - 9)}…${text.slice(-8)}`);
  const figure = (value) => (value === null ? "–" : Number(value).toPrecision(3));
  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // The look of all plots --------------------------------------------------------------------------------------------

  function layout(more = {}) {
    const axis = (own = {}) => ({
      gridcolor: colour("grid"), linecolor: colour("line"), zeroline: false, automargin: true, ticks: "",
      fixedrange: matchMedia("(pointer: coarse)").matches, ...own,
      title: { text: own.title || "", font: { size: 12, color: colour("soft") }, standoff: 12 },
    });
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("soft") },
      hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("text"), size: 12 }, align: "left" },
      hovermode: "closest", showlegend: false, dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      legend: { orientation: "h", x: 0, xref: "container", y: 1, yref: "container", yanchor: "top", font: { color: colour("text") }, itemclick: "toggle" },
      ...more, margin: { l: 8, r: 14, t: 12, b: 8, ...more.margin }, xaxis: axis(more.xaxis), yaxis: axis(more.yaxis),
    };
  }

  const spread = (values) => Math.max(...values) / Math.min(...values.filter((value) => value > 0));

  // Across studies ---------------------------------------------------------------------------------------------------

  function trade(index, field, front, title) {
    const group = rows.groups[index], on = new Set(group[front]), score = group.score;
    const bounds = score === "macro_f1" ? "interval" : "interval_tuned";
    const told = group.studies.map((name) => byStudy[name]);
    const log = spread(told.map((row) => row[field])) > 8;
    const line = group[front].map((name) => byStudy[name]);
    const traces = [{
      x: line.map((row) => row[field]), y: line.map((row) => row[score]), mode: "lines", hoverinfo: "skip",
      line: { color: colour("soft"), dash: "dot", width: 1.5, shape: "hv" }, name: "Pareto front",
    }];
    methods.forEach((method, i) => {
      const own = told.filter((row) => row.method === method);
      if (!own.length) return;
      traces.push({
        x: own.map((row) => row[field]), y: own.map((row) => row[score]), mode: "markers+text", name: plain(method),
        marker: {
          symbol: SHAPES[i % SHAPES.length], size: 12, color: colour(COLOURS[i % COLOURS.length]),
          line: { width: 2, color: colour("card") }, opacity: own.map((row) => (on.has(row.study) ? 1 : 0.65)),
        },
        text: own.map((row) => (told.length <= 8 || on.has(row.study) ? plain(short(row.study, narrow() ? 16 : 26)) : "")),
        textposition: own.map((row) => (row[field] > middle(told.map((other) => other[field]), log) ? "top left" : "top right")),
        textfont: { color: colour("text"), size: 12 }, cliponaxis: false,
        error_y: own.some((row) => row[bounds]) ? {
          type: "data", symmetric: false, thickness: 1, width: 0, color: colour("grey"),
          array: own.map((row) => (row[bounds] ? row[bounds][1] - row[score] : 0)),
          arrayminus: own.map((row) => (row[bounds] ? row[score] - row[bounds][0] : 0)),
        } : undefined,
        customdata: own.map((row) => [plain(row.study), plain(row.model), figure(row[score]), Number(row[field]).toLocaleString("en", { maximumFractionDigits: 1 })]),
        hovertemplate: `<b>%{customdata[0]}</b><br>%{customdata[1]}<br>${NAMES[score]} %{customdata[2]}<br>${title} %{customdata[3]}<extra></extra>`,
      });
    });
    return [traces, layout({
      showlegend: true, xaxis: { title: title + (log ? " (log)" : ""), type: log ? "log" : "linear", ...(log ? { dtick: 1 } : { rangemode: "tozero" }) },
      yaxis: { title: NAMES[score] }, margin: { r: 20 },
    })];
  }

  const middle = (values, log) => (log ? Math.sqrt(Math.min(...values) * Math.max(...values)) : Math.max(...values) / 2); // a linear axis begins at nought

  function classes(index) {
    const group = rows.groups[index], names = Object.keys(group.per_class);
    const z = names.map((name) => group.per_class[name]);
    const known = z.flat().filter((value) => value !== null);
    const floor = Math.floor(10 * Math.min(...known, 0.9)) / 10, ceiling = Math.max(Math.ceil(10 * Math.max(...known)) / 10, floor + 0.1);
    const few = group.labels.length <= 40;
    return [[{
      type: "heatmap", z, x: group.labels.map((_, i) => i), y: names.map((_, i) => i), zmin: floor, zmax: ceiling, xgap: 2, ygap: 2,
      colorscale: [[0, colour("low")], [1, colour("high")]],
      text: z.map((row) => row.map((value) => (value === null ? "" : value.toFixed(2)))), texttemplate: few ? "%{text}" : undefined,
      customdata: names.map((name) => group.labels.map((label) => [plain(name), plain(label)])),
      hovertemplate: "<b>%{customdata[0]}</b><br>%{customdata[1]}: F1 %{text}<extra></extra>",
      colorbar: { title: { text: "F1", side: "top" }, thickness: 10, outlinewidth: 0, len: 1, tickvals: [floor, ceiling], tickformat: ".1f" },
    }], layout({
      xaxis: { tickvals: group.labels.map((_, i) => i), ticktext: group.labels.map((label) => plain(short(label, 20))), side: "bottom", showgrid: false },
      yaxis: { tickvals: names.map((_, i) => i), ticktext: names.map((name) => plain(short(name, narrow() ? 16 : 30))), autorange: "reversed", showgrid: false },
    })];
  }

  function significance(index) {
    const group = rows.groups[index], best = group.pairs[0].first;
    const own = group.pairs.filter((pair) => pair.first === best);
    const sure = (pair) => pair.p_holm < 0.05;
    const traces = [true, false].map((wanted) => {
      const part = own.filter((pair) => sure(pair) === wanted);
      return {
        x: part.map((pair) => -pair.difference), y: part.map((pair) => own.indexOf(pair)), mode: "markers",
        name: wanted ? "different at 5 %" : "no significant difference",
        marker: { symbol: wanted ? "diamond" : "circle", size: 11, color: colour(wanted ? "red" : "blue") },
        error_x: {
          type: "data", symmetric: false, thickness: 2, width: 0,
          array: part.map((pair) => pair.difference - pair.low), arrayminus: part.map((pair) => pair.high - pair.difference),
        },
        customdata: part.map((pair) => [plain(pair.second), signed(-pair.difference), signed(-pair.high), signed(-pair.low), pair.p_holm.toPrecision(2)]),
        hovertemplate: "<b>%{customdata[0]}</b><br>%{customdata[1]} (%{customdata[2]} to %{customdata[3]})<br>p %{customdata[4]}<extra></extra>",
      };
    }).filter((trace) => trace.x.length);
    return [traces, layout({
      showlegend: true, shapes: [{ type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: colour("soft"), width: 1 } }],
      xaxis: { title: `difference in ${NAMES[group.score]}`, tickformat: "+.3~f", nticks: narrow() ? 4 : 8 },
      yaxis: { tickvals: own.map((_, i) => i), ticktext: own.map((pair) => plain(short(pair.second, narrow() ? 16 : 30))), range: [own.length - 0.4, -0.6], showgrid: false },
    })];
  }

  // A study ----------------------------------------------------------------------------------------------------------

  const LOOKS = {
    complete: { colour: "blue", symbol: "circle", dash: "solid" }, pruned: { colour: "grey", symbol: "x-thin-open", dash: "dot" },
    failed: { colour: "red", symbol: "triangle-down", dash: "dash" }, running: { colour: "green", symbol: "circle-open", dash: "dashdot" },
  };

  function dots(study, x, title = "") {
    return Object.entries(LOOKS).map(([state, look]) => {
      const own = study.numbers.map((_, i) => i).filter((i) => study.states[i] === state && study.values[i] !== null && x(i) !== null);
      return {
        x: own.map(x), y: own.map((i) => study.values[i]), mode: "markers", name: state, cliponaxis: false,
        marker: { color: colour(look.colour), symbol: look.symbol, size: 7, opacity: own.length > 200 ? 0.5 : 0.85, line: { width: look.symbol === "x-thin-open" ? 1.5 : 1 } },
        customdata: own.map((i) => [study.numbers[i], figure(study.values[i]), title && figure(x(i))]),
        hovertemplate: `trial %{customdata[0]}: %{customdata[1]}${title ? "<br>" + title + " %{customdata[2]}" : ""}<extra>${state}</extra>`,
      };
    }).filter((trace) => trace.x.length);
  }

  const stairs = (points) => ({
    x: points.map((point) => point[0]), y: points.map((point) => point[1]), mode: "lines", name: "best so far",
    line: { shape: "hv", color: colour("orange"), width: 2.5 }, hovertemplate: "best %{y:.3f}<extra></extra>",
  });

  function trials(index) {
    const study = rows.histories[index];
    return [[...dots(study, (i) => study.numbers[i]), stairs(study.best_by_trial)],
      layout({ showlegend: true, xaxis: { title: "trial", rangemode: "tozero" }, yaxis: { title: NAMES[study.objective] } })];
  }

  function time(index) {
    const study = rows.histories[index], end = Math.max(0, ...study.ended);
    const [unit, size] = end > 7200 ? ["hours", 3600] : end > 180 ? ["minutes", 60] : ["seconds", 1];
    const points = study.best_by_time.map(([at, value]) => [at / size, value]);
    return [[...dots(study, (i) => study.ended[i] === null ? null : study.ended[i] / size), stairs(points)],
      layout({ showlegend: true, xaxis: { title: `${unit} in which trials ran`, rangemode: "tozero" }, yaxis: { title: NAMES[study.objective] } })];
  }

  function curves(index) {
    const study = rows.histories[index], best = study.best_by_trial.length ? study.best_by_trial.at(-1)[1] : null;
    const first = study.values.findIndex((value, i) => study.states[i] === "complete" && value !== null && Math.abs(value - best) < 2e-5);
    const traces = ["pruned", "failed", "running", "complete"].map((state) => lines(study, state, (i) => study.states[i] === state && i !== first, {}));
    if (first >= 0) traces.push(lines(study, "best", (i) => i === first, { color: colour("orange"), width: 3.5 }));
    return [traces.filter((trace) => trace.x.length),
      layout({ showlegend: true, xaxis: { title: "epoch" }, yaxis: { title: NAMES[study.objective] } })];
  }

  // one trace for all trials of a state: a thousand traces would take the browser minutes
  function lines(study, state, wanted, own) {
    const x = [], y = [], numbers = [];
    study.curves.forEach((curve, i) => {
      if (!wanted(i) || !curve.length) return;
      x.push(...study.ladders[study.ladder[i]], null);
      y.push(...curve, null);
      numbers.push(...curve.map(() => study.numbers[i]), null);
    });
    const many = study.curves.length > 60;
    const look = LOOKS[state] || LOOKS.complete;
    return {
      x, y, customdata: numbers, mode: "lines+markers", name: state, opacity: state === "best" ? 1 : many ? 0.35 : 0.75,
      line: { color: colour(look.colour), dash: look.dash, width: state === "pruned" ? 1.2 : 1.6, ...own },
      marker: { size: many ? 3 : 5, symbol: look.symbol === "x-thin-open" ? "x" : look.symbol }, hovertemplate: `trial %{customdata}: %{y:.3f}<extra>${state}</extra>`,
    };
  }

  function ticks(axis, written = plain) {
    if (axis.scale === "choice") return { tickvals: axis.choices.map((_, i) => i), ticktext: axis.choices.map((choice) => written(short(choice, 16))) };
    if (axis.scale === "linear") return {};
    const base = axis.scale === "log2" ? 2 : 10, exponent = (value) => Math.log(value) / Math.log(base);
    const low = Math.floor(exponent(axis.low) + 1e-9), high = Math.ceil(exponent(axis.high) - 1e-9);
    const close = base === 10 && exponent(axis.high) - exponent(axis.low) < 1.6;
    const marks = [];
    for (let power = low; power <= high; power++) {
      for (const step of close ? [1, 2, 5] : [1]) {
        const mark = Number((step * base ** power).toPrecision(3));
        if (mark >= axis.low * 0.999 && mark <= axis.high * 1.001) marks.push(mark);
      }
    }
    return { tickvals: marks, ticktext: marks.map((mark) => (mark < 1e-3 ? mark.toExponential(0) : String(mark))) };
  }

  function parallel(index) {
    const study = rows.histories[index];
    const own = study.numbers.map((_, i) => i).filter((i) => study.values[i] !== null && study.axes.every((axis) => axis.values[i] !== null));
    const dimensions = study.axes.filter((axis) => own.length).map((axis) => {
      const scaled = axis.scale === "log" || axis.scale === "log2" ? Math.log10 : Number;
      const marks = ticks(axis, String); // these it takes as they are
      return {
        label: plain(short(axis.name, 18)), range: [scaled(axis.low), scaled(axis.high)], values: own.map((i) => scaled(axis.values[i])),
        ...(marks.tickvals ? { tickvals: marks.tickvals.map(scaled), ticktext: marks.ticktext } : {}),
      };
    });
    const values = own.map((i) => study.values[i]);
    dimensions.push({ label: NAMES[study.objective], values });
    return [[{
      type: "parcoords", dimensions, labelfont: { color: colour("text"), size: 12 }, tickfont: { color: colour("soft"), size: 11 },
      rangefont: { color: "rgba(0,0,0,0)" }, unselected: { line: { color: colour("grey"), opacity: 0.12 } },
      line: { color: values, colorscale: [[0, colour("grid")], [0.5, colour("sky")], [1, colour("high")]], showscale: false },
    }], layout({ margin: { l: 60, r: 60, t: 48, b: 24 } })];
  }

  function importance(index) {
    const told = Object.entries(rows.histories[index].importance).reverse();
    return [[{
      type: "bar", orientation: "h", x: told.map(([, value]) => value), y: told.map((_, i) => i), width: 0.55,
      marker: { color: colour("blue"), cornerradius: 3 }, text: told.map(([, value]) => value.toFixed(2)), textposition: "outside",
      textfont: { color: colour("text") }, cliponaxis: false, hoverinfo: "skip",
    }], layout({
      xaxis: { title: "share", range: [0, Math.max(...told.map(([, value]) => value)) * 1.15] },
      yaxis: { tickvals: told.map((_, i) => i), ticktext: told.map(([name]) => plain(short(name, 22))), showgrid: false },
    })];
  }

  function slice(place) {
    const [index, inner] = place.split(".").map(Number);
    const study = rows.histories[index], axis = study.axes[inner], marks = ticks(axis);
    const jitter = axis.scale === "choice" ? (i) => ((study.numbers[i] * 0.618034) % 1 - 0.5) * 0.35 : () => 0;
    const traces = dots(study, (i) => (axis.values[i] === null ? null : axis.values[i] + jitter(i)), axis.scale === "choice" ? "" : plain(axis.name));
    const type = axis.scale === "log" || axis.scale === "log2" ? "log" : "linear";
    const scaled = type === "log" ? Math.log10 : Number, room = axis.scale === "choice" ? 0.6 : 0.06 * (scaled(axis.high) - scaled(axis.low)) || 0.5;
    const range = { range: [scaled(axis.low) - room, scaled(axis.high) + room] };
    if (axis.scale === "choice") marks.ticktext = marks.ticktext.map((text) => text.replaceAll("_", "_<br>"));
    return [traces, layout({ xaxis: { title: plain(axis.name), type, ticklabeloverflow: "allow", ...marks, ...range }, yaxis: { title: NAMES[study.objective] } })];
  }

  const PLOTS = {
    cost: (index) => trade(index, "seconds", "cheapest", "seconds"),
    parameters: (index) => trade(index, "parameters", "smallest", "trainable parameters"),
    classes, significance, trials, time, curves, parallel, importance, slice,
  };

  // Drawing, when a plot comes near the screen -----------------------------------------------------------------------

  const drawn = new Set();
  const webgl = (() => { try { return Boolean(document.createElement("canvas").getContext("webgl")); } catch { return false; } })();

  async function draw(place) {
    place.classList.remove("wait");
    if (place.dataset.plot === "parallel" && !webgl) {
      place.textContent = "This plot needs WebGL, which this browser does not offer; the table below has the trials.";
      place.style.height = "auto";
      return;
    }
    drawn.add(place);
    try {
      const [traces, look] = PLOTS[place.dataset.plot](place.dataset.index);
      await Plotly.react(place, traces, look, { responsive: true, displayModeBar: false, displaylogo: false, doubleClick: "reset", plotlyServerURL: "" });
    } catch (error) {
      drawn.delete(place);
      place.textContent = `This plot could not be drawn (${error.message}); the tables have its figures.`;
      place.style.height = "auto";
    }
  }

  let begun = false;
  const watcher = new IntersectionObserver(async (entries) => {
    const near = entries.filter((entry) => entry.isIntersecting).map((entry) => entry.target);
    near.forEach((place) => watcher.unobserve(place));
    for (const place of near) await draw(place);
    if (!begun) { begun = true; root.dataset.ready = "true"; }
  }, { rootMargin: "300px" });
  document.querySelectorAll("[data-plot]").forEach((place) => watcher.observe(place));
  if (!document.querySelector("[data-plot]")) root.dataset.ready = "true";

  // a closed study gives its plots back: browsers allow few WebGL canvases
  document.querySelectorAll("details.study").forEach((study) => study.addEventListener("toggle", () => {
    if (study.open) return;
    study.querySelectorAll("[data-plot]").forEach((place) => {
      if (!drawn.delete(place)) return;
      Plotly.purge(place);
      place.classList.add("wait");
      watcher.observe(place);
    });
  }));

  // Theme, links, tables ---------------------------------------------------------------------------------------------

  const system = matchMedia("(prefers-color-scheme: dark)"), button = document.getElementById("theme");
  const kept = { get: () => { try { return localStorage.getItem("peftsweep-theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("peftsweep-theme", value); } catch { /* a sandbox has none */ } } };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  function themed() {
    button.setAttribute("aria-pressed", String(isDark()));
    drawn.forEach(draw);
  }
  if (["dark", "light"].includes(kept.get())) root.dataset.theme = kept.get();
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; kept.set(root.dataset.theme); themed(); });
  system.addEventListener("change", themed);
  themed();

  document.querySelectorAll('a[href^="#"]').forEach((link) => link.addEventListener("click", (event) => {
    const target = document.getElementById(link.hash.slice(1));
    if (!target) return;
    event.preventDefault(); // in a frame without an address of its own the link would leave the page
    if (target.tagName === "DETAILS") target.open = true;
    target.scrollIntoView();
    const focused = target.tagName === "DETAILS" ? target.querySelector("summary") : target;
    if (focused === target) target.tabIndex = -1;
    focused.focus({ preventScroll: true });
  }));

  document.querySelectorAll("th button").forEach((head) => head.addEventListener("click", () => {
    const cell = head.closest("th"), table = head.closest("table"), at = [...cell.parentNode.children].indexOf(cell);
    const value = (row) => row.children[at].dataset.sort ?? row.children[at].textContent.trim();
    const body = table.tBodies[0], lines = [...body.rows];
    const numeric = lines.every((row) => value(row) === "" || !Number.isNaN(Number(value(row))));
    const up = cell.getAttribute("aria-sort") ? cell.getAttribute("aria-sort") === "descending" : !numeric;
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    cell.setAttribute("aria-sort", up ? "ascending" : "descending");
    lines.sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === "" || b === "") return (a === "") - (b === ""); // what is not known stands last, either way
      return (up ? 1 : -1) * (numeric ? Number(a) - Number(b) : a.localeCompare(b));
    });
    body.append(...lines);
  }));
})();
