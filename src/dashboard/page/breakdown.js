// The last cycles as stacked bars: where the time from observation to chunk went.

import { byId, canvas, gridLine, html, ms, partColour, quantile, say, svg, ticks, words } from "./draw.js";

const SHOWN = 60;
const MARGIN = { left: 52, right: 8, top: 16, bottom: 10 };

/** Of each cycle: number, ms of each part, ms end to end or null, whether it was late, whether it gave no chunk. */
let bars = [];
let parts = [];
let budgetMs = 50;

const element = byId("breakdown");
const again = canvas(element, draw);

export function forget() {
  bars = [];
}

/** Adds an answer of /api/cycles. */
export function show(news, budget) {
  budgetMs = budget;
  parts = news.parts;
  const cycles = new Map(news.cycles.map((cycle) => [cycle[0], cycle]));
  for (const [number, durations] of news.breakdown) {
    const [, , endToEnd, reason, stage] = cycles.get(number) ?? [number, 0, null, null, null];
    bars.push({ number, durations, endToEnd, late: stage !== null, without: reason !== null });
  }
  bars = bars.slice(-SHOWN);
  again();
  showParts();
}

/** What is in no part. */
function outside({ durations, endToEnd }) {
  return endToEnd === null ? 0 : Math.max(0, endToEnd - sum(durations));
}

function draw(width, height) {
  const [left, right, top, bottom] = [MARGIN.left, width - MARGIN.right, MARGIN.top, height - MARGIN.bottom];
  const totals = bars.map((bar) => sum(bar.durations) + outside(bar));
  const highest = Math.max(budgetMs * 1.3, quantile(totals, 0.9) * 1.2);
  const y = (value) => bottom - (Math.min(value, highest) / highest) * (bottom - top);
  const drawn = ticks(highest, 4).flatMap((tick) => gridLine(y(tick), left, right, tick === 0 ? "0 ms" : String(tick)));

  const step = (right - left) / SHOWN;
  // The newest stands at the right.
  bars.forEach((bar, index) => {
    const x = right - (bars.length - index) * step;
    const tile = (from, to, attributes) => {
      const height = y(from) - y(to);
      return height < 0.2 ? [] : [svg("rect", { x: x + 0.75, y: y(to), width: Math.max(1, step - 1.5), height, ...attributes })];
    };
    let from = 0;
    const tiles = [];
    bar.durations.forEach((duration, part) => {
      tiles.push(...tile(from, from + duration, { fill: partColour(part) }));
      from += duration;
    });
    tiles.push(...tile(from, from + outside(bar), { class: "outside" }));
    from += outside(bar);
    const middle = x + step / 2;
    const size = Math.min(6, step / 2);
    if (bar.late) tiles.push(svg("path", { class: "missed", d: `M${middle} ${y(from) - 2}l${-size} ${-1.7 * size}h${2 * size}Z` }));
    if (bar.without) tiles.push(svg("rect", { class: "dropped", x: middle - size * 0.8, y: y(from) - 2 - 1.6 * size, width: 1.6 * size, height: 1.6 * size }));
    const told = bar.durations.map((duration, part) => `${words(parts[part])} ${ms(duration)} ms`);
    drawn.push(svg("g", {}, svg("title", {}, `cycle ${bar.number}\n${told.join("\n")}`), ...tiles));
  });

  drawn.push(svg("line", { class: "budget", x1: left, x2: right, y1: y(budgetMs), y2: y(budgetMs) }));
  element.setAttribute("aria-label", `Parts of the last ${bars.length} cycles; the list below has their means`);
  return drawn;
}

function showParts() {
  const means = parts.map((name, part) => ({ name: words(name), colour: partColour(part), mean: mean(bars.map((bar) => bar.durations[part])) }));
  const elsewhere = { name: "elsewhere", colour: "var(--outside)", mean: mean(bars.map(outside)) };
  const all = elsewhere.mean < 0.05 ? means : [...means, elsewhere];
  const list = byId("parts");
  if (list.children.length !== all.length) {
    list.replaceChildren(...all.map(() => html("li", "", html("span", "swatch"), html("span", ""), html("span", "amount"))));
  }
  all.forEach(({ name, colour, mean }, index) => {
    const [swatch, label, amount] = list.children[index].children;
    swatch.style.setProperty("--swatch", colour);
    say(label, name);
    say(amount, bars.length > 0 ? `${ms(mean)} ms` : "–");
  });
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}

function mean(numbers) {
  return numbers.length > 0 ? sum(numbers) / numbers.length : 0;
}
