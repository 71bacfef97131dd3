// The last minutes: end-to-end latency of every cycle, the budget, and what was late or gave no chunk.

import { byId, canvas, gridLine, ms, quantile, svg, ticks, words } from "./draw.js";

/** Seconds that are kept: the widest choice. */
const KEPT_S = 300;
const COLUMN_PX = 3;
const MARGIN = { left: 52, right: 8, top: 20, bottom: 26 };

/** `[number, seconds at its end, ms end to end or null, reason or null, stage or null]`, oldest first. */
let cycles = [];
let nowS = 0;
let heardAt = performance.now();
let budgetMs = 50;
let spanS = KEPT_S;
let names = { reasons: [], stages: [] };

const element = byId("timeline");
const again = canvas(element, draw);

for (const button of document.querySelectorAll("[data-span]")) {
  button.addEventListener("click", () => {
    spanS = Number(button.dataset.span);
    for (const other of document.querySelectorAll("[data-span]")) other.setAttribute("aria-pressed", other === button);
    again();
  });
}

export function forget() {
  cycles = [];
}

/** Adds an answer of /api/cycles. */
export function show(news, budget) {
  budgetMs = budget;
  nowS = news.now_s;
  heardAt = performance.now();
  names = news;
  cycles.push(...news.cycles);
  const oldest = nowS - KEPT_S;
  const first = cycles.findIndex(([, at]) => at >= oldest);
  cycles = first < 0 ? [] : cycles.slice(first);
  again();
}

function draw(width, height) {
  const now = nowS + (performance.now() - heardAt) / 1000;
  // Soon after the start there is no past to show.
  const span = Math.min(spanS, Math.max(20, now));
  const [left, right, top, bottom] = [MARGIN.left, width - MARGIN.right, MARGIN.top, height - MARGIN.bottom];
  const shown = cycles.filter(([, at]) => at >= now - span);
  const values = shown.map(([, , value]) => value).filter((value) => value !== null);
  // A few outliers are drawn at the edge rather than flatten all the rest.
  const highest = Math.max(budgetMs * 1.5, quantile(values, 0.95) * 1.3);
  const x = (at) => right - ((now - at) / span) * (right - left);
  const y = (value) => bottom - (Math.min(value, highest) / highest) * (bottom - top);
  const drawn = [];

  for (const tick of ticks(highest, 4)) drawn.push(...gridLine(y(tick), left, right, tick === 0 ? "0 ms" : String(tick)));
  const step = [5, 10, 20, 30, 60].find((seconds) => span / seconds <= 7) ?? 60;
  for (let ago = 0; ago <= span; ago += step) {
    const at = x(now - ago);
    const anchor = ago === 0 ? "end" : at - left < 30 ? "start" : "middle";
    const text = ago === 0 ? "now" : ago % 60 === 0 ? `${ago / 60} min ago` : `${ago} s ago`;
    drawn.push(svg("text", { x: at, y: height - 4, "text-anchor": anchor }, text));
  }

  const columns = gather(shown, x);
  const ranges = columns.map(([at, low, , high]) => `M${at} ${y(low) + 1}V${y(high) - 1}h${COLUMN_PX}V${y(low) + 1}Z`);
  drawn.push(svg("path", { class: "range", d: ranges.join("") }));
  // A gap longer than a few columns is a gap in the line, too.
  let before = -Infinity;
  const line = columns.map(([at, , median]) => {
    const joined = at - before < Math.max(6 * COLUMN_PX, (2.5 * (right - left)) / span);
    before = at;
    return `${joined ? "L" : "M"}${at + COLUMN_PX / 2} ${y(median)}`;
  });
  drawn.push(svg("path", { class: "median", d: line.join("") }));

  drawn.push(svg("line", { class: "budget", x1: left, x2: right, y1: y(budgetMs), y2: y(budgetMs) }));
  drawn.push(svg("text", { class: "budget-label", x: left + 6, y: y(budgetMs) - 7 }, `budget ${ms(budgetMs).replace(/\.0$/, "")} ms`));

  let [late, without] = [0, 0];
  for (const [, at, value, reason, stage] of shown) {
    const column = x(at);
    if (stage !== null) {
      late += 1;
      const tip = value === null ? top : y(value) - 3;
      const title = svg("title", {}, `late by ${words(names.stages[stage] ?? "?")}${value === null ? "" : `: ${ms(value)} ms`}`);
      drawn.push(svg("path", { class: "missed", d: `M${column} ${tip}l-7 -12h14Z` }, title));
    }
    if (reason !== null) {
      without += 1;
      const title = svg("title", {}, `no chunk: ${words(names.reasons[reason] ?? "?")}`);
      drawn.push(svg("rect", { class: "dropped", x: column - 4, y: bottom - 8, width: 8, height: 8 }, title));
    }
  }
  const typical = values.length > 0 ? `, typically ${ms(quantile(values, 0.5))} ms` : "";
  element.setAttribute("aria-label", `The last ${Math.round(span)} s: ${shown.length} cycles${typical}, ${late} late, ${without} without a chunk`);
  return drawn;
}

/** Lowest, median and highest value of each column of pixels that has any. */
function gather(shown, x) {
  const columns = new Map();
  for (const [, at, value] of shown) {
    if (value === null) continue;
    const column = Math.floor(x(at) / COLUMN_PX) * COLUMN_PX;
    if (!columns.has(column)) columns.set(column, []);
    columns.get(column).push(value);
  }
  return [...columns].map(([at, values]) => [at, Math.min(...values), quantile(values, 0.5), Math.max(...values)]);
}
