"use strict";
(() => {
  const page = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const narrow = () => window.innerWidth < 640;
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // Figures come from Python. Columns, colours of the theme and what a narrow screen needs are put in here -----------

  function filled(value, key = "") {
    if (typeof value === "string") return /color(scale)?$/.test(key) && value.startsWith("var(--") ? colour(value.slice(6, -1)) : value;
    if (value === null || typeof value !== "object") return value;
    if (Array.isArray(value)) return value.map((each) => filled(each, key));
    if ("column" in value) return page.columns[value.column];
    if ("join" in value) {
      const parts = filled(value.join);
      return filled(value.order).flatMap((place) => parts[place]);
    }
    if ("repeat" in value) {
      const times = filled(value.times);
      return filled(value.repeat).flatMap((each, i) => Array(times[i]).fill(each));
    }
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, filled(each, name)]));
  }

  function template() {
    const found = filled(page.template), look = found.layout;
    look.font.family = getComputedStyle(document.body).fontFamily;
    if (matchMedia("(pointer: coarse)").matches) { // a finger scrolls the page
      look.dragmode = false;
      look.xaxis.fixedrange = look.yaxis.fixedrange = true;
    }
    return found;
  }

  function figure(name) {
    const { data, layout, narrow: other = {} } = filled(page.figures[name]);
    if (narrow()) {
      for (const [path, value] of Object.entries(other)) {
        const parts = path.split("."), last = parts.pop();
        parts.reduce((at, part) => at[part], { data, layout })[last] = value;
      }
    }
    return [data, { ...layout, template: template() }];
  }

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
      const [traces, layout] = figure(`${place.dataset.plot} ${place.dataset.index}`);
      await Plotly.react(place, traces, layout, { responsive: true, displayModeBar: false, displaylogo: false, doubleClick: "reset", plotlyServerURL: "" });
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
