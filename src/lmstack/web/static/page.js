// Draws the charts, follows live requests, and refreshes numbers. Everything else on the page works without a script.
"use strict";

const REFRESH_MS = 15000;
const MOST_ROWS = 200;
const COLOURS = 8;

/** Return the colour of a CSS variable as the browser resolves it: a canvas takes no variables. */
function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function amount(show, value) {
  if (value === 0) return show === "cost_usd" ? "$0" : "0";
  if (show !== "cost_usd") {
    return Math.abs(value) >= 1e4 ? new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(value)
      : new Intl.NumberFormat("en", { maximumFractionDigits: 1 }).format(value);
  }
  const digits = Math.abs(value) >= 1 ? 2 : Math.abs(value) >= 0.01 ? 3 : 6;
  return "$" + new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: digits }).format(value);
}

function moment(seconds, step) {
  const text = new Date(seconds * 1000).toISOString();
  return step >= 86400 ? text.slice(0, 10) : text.slice(0, 16).replace("T", " ");
}

/** Return the text of a tick: a time of day, or the day where one begins. */
function clock(seconds, step, at) {
  const text = new Date(seconds * 1000).toISOString();
  const days = step >= 86400 || at[at.length - 1] - at[0] > 3 * 86400;
  if (seconds % 86400 === 0) return text.slice(5, 10);
  return days ? "" : text.slice(11, 16);
}

/** Draw stacked bars: each series on top of those before it, so the whole height is the sum. */
function draw(box) {
  const { at, step, series } = JSON.parse(box.dataset.chart);
  const show = box.dataset.show;
  const sums = at.map(() => 0);
  const stacked = series.map((one) => one.values.map((value, i) => (sums[i] += value)));
  const line = colour("--line"), dim = colour("--dim");
  const axis = { stroke: dim, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  const bars = uPlot.paths.bars({ size: [0.8, 60], align: 1 });
  const options = {
    width: box.clientWidth, height: box.clientHeight, tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    padding: [8, 18, 0, 0],
    cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
    scales: {
      x: { range: () => [at[0], at[at.length - 1] + step] },
      y: { range: (plot, low, high) => [0, high > 0 ? high * 1.06 : 1] },
    },
    axes: [{ ...axis, space: 70, size: 36, gap: 9, values: (plot, ticks) => ticks.map((seconds) => clock(seconds, step, at)) }, { ...axis, size: 62, values: (plot, ticks) => ticks.map((value) => amount(show, value)) }],
    // The tallest is drawn first, and the shorter ones cover it.
    series: [{}, ...stacked.map((_, i) => ({ fill: colour(`--c${(stacked.length - 1 - i) % COLOURS}`), width: 0, paths: bars, points: { show: false } }))],
    hooks: {
      setSelect: [(plot) => zoom(plot, step)],
      init: [(plot) => tip(plot, { at, step, series, show })],
    },
  };
  box.textContent = "";
  box.plot = new uPlot(options, [at, ...stacked.toReversed()], box);
  new ResizeObserver(() => box.plot.setSize({ width: box.clientWidth, height: box.clientHeight })).observe(box);
}

/** Go to the span that was selected. Its ends are whole steps, so that its sums are exact. */
function zoom(plot, step) {
  if (plot.select.width < 4) return;
  const from = Math.floor(plot.posToVal(plot.select.left, "x") / step) * step;
  const to = Math.ceil(plot.posToVal(plot.select.left + plot.select.width, "x") / step) * step;
  const query = new URLSearchParams(location.search);
  query.delete("since");
  query.set("from", from);
  query.set("to", to);
  location.search = query;
}

/** Show the values of the step under the pointer. */
function tip(plot, { at, step, series, show }) {
  const box = document.createElement("div");
  box.className = "tip";
  box.hidden = true;
  plot.over.append(box);
  plot.over.addEventListener("mouseleave", () => (box.hidden = true));
  plot.over.addEventListener("mousemove", (event) => {
    const seconds = plot.posToVal(event.offsetX, "x");
    const place = at.findIndex((start) => seconds >= start && seconds < start + step);
    box.hidden = place < 0;
    if (box.hidden) return;
    const lines = [moment(at[place], step)];
    box.replaceChildren(paragraph(lines[0], ""));
    series.forEach((one, i) => {
      if (one.values[place]) box.append(paragraph(one.name, amount(show, one.values[place]), i));
    });
    const right = event.offsetX > plot.over.clientWidth / 2;
    box.style.left = right ? "" : `${event.offsetX + 14}px`;
    box.style.right = right ? `${plot.over.clientWidth - event.offsetX + 14}px` : "";
    box.style.top = "8px";
  });
}

function paragraph(name, value, series) {
  const made = document.createElement("p"), left = document.createElement("span"), right = document.createElement("span");
  if (series !== undefined) {
    const key = document.createElement("i");
    key.className = "key";
    key.style.background = `var(--c${series % COLOURS})`;
    left.append(key);
  }
  left.append(name);
  right.append(value);
  made.append(left, right);
  return made;
}

/** Give the rows of the table the colours of the chart. */
function markSeries(root) {
  const box = root.querySelector("[data-chart]");
  const names = box ? JSON.parse(box.dataset.chart).series.map((one) => one.name) : [];
  for (const key of root.querySelectorAll("[data-series]")) {
    const place = names.indexOf(key.dataset.series);
    key.style.background = `var(--c${place < 0 ? COLOURS - 1 : place % COLOURS})`;
  }
}

/** Follow live requests while the page is in sight: a browser allows few open connections to one host. */
let events = null;
function follow() {
  events?.close();
  events = null;
  const mark = document.querySelector("[data-live]");
  if (!mark || document.hidden) return;
  events = new EventSource(mark.dataset.live);
  events.onopen = () => mark.classList.add("on");
  events.onerror = () => mark.classList.remove("on");
  events.addEventListener("request", (event) => place(event.data));
}

function place(html) {
  const rows = document.getElementById("rows");
  const made = document.createElement("template");
  made.innerHTML = html;
  const row = made.content.querySelector("tr");
  if (!rows || !row) return;
  const old = document.getElementById(row.id);
  row.classList.add("new");
  if (old) old.replaceWith(row);
  else rows.prepend(row);
  document.getElementById("nothing")?.remove();
  while (rows.children.length > MOST_ROWS) rows.lastElementChild.remove();
}

function begin() {
  for (const box of document.querySelectorAll("[data-chart]")) if (!box.plot) draw(box);
  markSeries(document);
  follow();
}

document.addEventListener("change", (event) => {
  const form = event.target.closest?.("form[data-submits]");
  if (form && event.target.tagName === "SELECT") form.requestSubmit();
});
document.addEventListener("visibilitychange", follow);
/** Copy a secret at a click. Browsers allow it on secure pages only, so the button is hidden on others. */
function offerCopies() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  }
}

document.addEventListener("DOMContentLoaded", () => {
  begin();
  offerCopies();
  document.body.addEventListener("htmx:afterSettle", (event) => {
    if (event.detail.target === document.body) begin();
  });
  setInterval(() => {
    const part = document.querySelector("[data-refresh]");
    if (part && !document.hidden) {
      htmx.ajax("GET", location.pathname + location.search, { source: part, target: part, select: `#${part.id}`, swap: "outerHTML" });
    }
  }, REFRESH_MS);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const box of document.querySelectorAll("[data-chart]")) draw(box);
});
