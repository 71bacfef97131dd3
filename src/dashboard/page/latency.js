// Quantiles of every stage beside its histogram; all histograms share one logarithmic axis with the budget on it.

import { byId, html, ms, partColour, svg, words } from "./draw.js";

const QUANTILES = [["p50", "p50_ms"], ["p90", "p90_ms"], ["p99", "p99_ms"], ["p99.9", "p999_ms"], ["max", "max_ms"]];

let which = "recent";
let last = null;

for (const button of document.querySelectorAll("[data-which]")) {
  button.addEventListener("click", () => {
    which = button.dataset.which;
    for (const other of document.querySelectorAll("[data-which]")) other.setAttribute("aria-pressed", other === button);
    if (last) show(last);
  });
}
new ResizeObserver(() => last && show(last)).observe(byId("latency"));

/** Shows an answer of /api/latency. */
export function show(news) {
  last = news;
  const table = byId("latency");
  // Measured where the drawings stand, once they do.
  const axis = scale(news, table.querySelector(".plot")?.getBoundingClientRect() ?? { width: 200, height: 30 });
  let part = 0;
  const rows = news.latencies.map((latency) => ({ ...latency, part: latency.part ? part++ : null, numbers: latency[which] }));
  // What the budget bounds first, then its parts as they follow each other, then the rest.
  const rank = ({ name, part }) => (name === news.end_to_end ? 0 : part !== null ? 1 : 2);
  rows.sort((a, b) => rank(a) - rank(b));
  table.replaceChildren(head(axis), ...rows.map((row) => tableRow(row, axis, news)));
}

/** A logarithmic axis over all that was measured and the budget. */
function scale(news, { width, height }) {
  const used = news.latencies.map((latency) => latency[which]).filter(({ count }) => count > 0);
  const edges = news.edges_ms;
  const firsts = used.map(({ first_bin }) => edges[Math.max(0, first_bin - 1)]);
  const lasts = used.map(({ first_bin, bins }) => edges[Math.min(edges.length - 1, first_bin + bins.length - 1)]);
  const low = Math.floor(Math.log10(Math.min(...firsts, news.budget_ms / 100)));
  const high = Math.ceil(Math.log10(Math.max(...lasts, news.budget_ms * 2)) * 2) / 2;
  const x = (value) => ((Math.log10(Math.max(value, 1e-9)) - low) / (high - low)) * width;
  return { x, width, height, low, high };
}

function head(axis) {
  const labels = [];
  const apart = axis.x(10) - axis.x(1);
  for (let power = axis.low; power <= axis.high; power += 1) {
    const at = axis.x(10 ** power);
    // Every second one where they would run into each other.
    if (apart < 48 && (power - axis.low) % 2 === 1) continue;
    const anchor = power === axis.low ? "start" : at > axis.width - 12 ? "end" : "middle";
    labels.push(svg("text", { x: at, y: 16, "text-anchor": anchor }, String(10 ** power)));
  }
  const quantiles = QUANTILES.map(([name]) => cell("columnheader", "number", name));
  const drawing = cell("columnheader", "axis", svg("svg", { "aria-label": "milliseconds" }, ...labels));
  return row("", cell("columnheader", "", ""), drawing, ...quantiles);
}

function tableRow({ name, part, numbers }, axis, news) {
  const hero = name === news.end_to_end;
  const label = cell("rowheader", "name", words(name));
  if (part !== null) {
    const swatch = html("span", "swatch");
    swatch.style.setProperty("--swatch", partColour(part));
    label.prepend(swatch);
  }
  const cells = QUANTILES.map(([, key]) => {
    const over = hero && numbers[key] > news.budget_ms;
    return cell("cell", `number${numbers.count === 0 ? " none" : ""}${over ? " over" : ""}`, numbers.count === 0 ? "–" : ms(numbers[key]));
  });
  const drawing = cell("cell", "", svg("svg", { class: "plot", "aria-hidden": "true" }, ...histogram(numbers, part, axis, news)));
  return row(hero ? "hero" : "", label, drawing, ...cells);
}

function histogram({ count, first_bin, bins, p99_ms, max_ms }, part, axis, news) {
  const { width, height } = axis;
  const [top, base] = [5, height - 4];
  const budget = axis.x(news.budget_ms);
  const drawn = [svg("line", { class: "base", x1: 0, x2: width, y1: base, y2: base })];
  for (let power = axis.low; power <= axis.high; power += 1) {
    drawn.push(svg("line", { class: "grid", x1: axis.x(10 ** power), x2: axis.x(10 ** power), y1: 0, y2: height }));
  }
  if (count > 0) {
    const most = Math.sqrt(Math.max(...bins));
    // Bin i lies between edges i - 1 and i.
    const edge = (bin) => axis.x(news.edges_ms[Math.min(Math.max(bin, 0), news.edges_ms.length - 1)]);
    const steps = bins.map((number, index) => {
      const y = base - (Math.sqrt(number) / most) * (base - top);
      return `V${y.toFixed(1)}H${edge(first_bin + index).toFixed(1)}`;
    });
    const path = svg("path", { class: "shape", d: `M${edge(first_bin - 1)} ${base}${steps.join("")}V${base}Z` });
    if (part !== null) path.style.fill = partColour(part);
    drawn.push(path);
    drawn.push(svg("line", { class: "quantile", x1: axis.x(p99_ms), x2: axis.x(p99_ms), y1: base - 12, y2: base + 4 }));
    drawn.push(svg("circle", { class: "largest", cx: axis.x(max_ms), cy: base, r: 3.5 }));
  }
  drawn.push(svg("line", { class: "budget", x1: budget, x2: budget, y1: 0, y2: height }));
  return drawn;
}

function row(className, ...cells) {
  const element = html("div", className, ...cells);
  element.setAttribute("role", "row");
  return element;
}

function cell(role, className, ...content) {
  const element = html("div", className, ...content);
  element.setAttribute("role", role);
  return element;
}
