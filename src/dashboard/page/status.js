// State, figures, sensors, what was late or dropped, and what runs where.

import { byId, figure, html, ms, say, since, svg, words } from "./draw.js";

/** A state as a word to be read from afar. */
function title(state) {
  return state.charAt(0).toUpperCase() + state.slice(1);
}

/** Shows an answer of /api/status. */
export function show(news) {
  const { condition, node } = news;
  const state = byId("state");
  state.dataset.state = condition.state;
  state.dataset.warning = condition.warning;
  say(byId("state-word"), title(condition.state));
  say(byId("state-why"), condition.why);
  document.title = `${title(condition.state)} · pi0_node`;

  figure(byId("figure-budget"), ms(node.budget_ms).replace(/\.0$/, ""), "ms");
  figure(byId("figure-rate"), news.chunks_hz.toFixed(1), "per second");
  const late = news.missed.reduce((sum, { recent }) => sum + recent, 0);
  figure(byId("figure-late"), String(late), late === 1 ? "chunk" : "chunks");
  byId("figure-late-box").classList.toggle("over", late > 0);

  say(byId("device"), node.device);
  say(byId("model"), node.model);
  say(byId("uptime"), duration(node.uptime_s));
  say(byId("version"), node.version);
  showSensors(news.sensors);
  showCounts(news);
  const outcome = byId("task-outcome");
  outcome.hidden = news.task_outcome === null;
  say(outcome, news.task_outcome === null ? "" : `Task: ${news.task_outcome}`);
  say(byId("joins"), news.chunks > 1 ? joins(news.joins) : "");
}

/** Shows the end-to-end figures of an answer of /api/latency. */
export function showEndToEnd(news) {
  const found = news.latencies.find(({ name }) => name === news.end_to_end);
  if (!found || found.recent.count === 0) return;
  figure(byId("figure-p50"), ms(found.recent.p50_ms), "ms");
  figure(byId("figure-p99"), ms(found.recent.p99_ms), "ms");
  byId("figure-typical").classList.toggle("over", found.recent.p50_ms > news.budget_ms);
  byId("figure-worst").classList.toggle("over", found.recent.p99_ms > news.budget_ms);
}

/** How the last chunk followed the one before, in words. */
function joins({ led, led_late, assumed_delay_ms, delay_ms, mismatch, jump, joined_jump }) {
  const number = (value) => value.toFixed(4);
  const joined = joined_jump === jump ? "" : `, ${number(joined_jump)} once joined`;
  const text = `The last chunk left ${ms(delay_ms)} ms after its observation, ${number(jump)} from where the joints were to be${joined}.`;
  if (led === 0) return text;
  const late = led_late === 0 ? "" : ` ${led_late} of ${led} such chunks left later than they assumed.`;
  return `${text} It continued what was sent: ${ms(assumed_delay_ms)} ms were assumed, its first points are ${number(mismatch)} off.${late}`;
}

function showSensors(sensors) {
  // The longest age drawn; what is silent fills its bar.
  const LONGEST_MS = 500;
  const rows = sensors.map(({ name, level, rate_hz, age_ms, refused, trouble }) => {
    const rate = html("span", "rate", rate_hz.toFixed(1), html("span", "unit", " Hz"));
    const bar = html("i", "");
    bar.style.width = `${Math.min(100, (100 * (age_ms ?? 0)) / LONGEST_MS)}%`;
    const told = { ok: () => `${since(age_ms)} ago`, silent: () => `silent for ${since(age_ms)}`, never: () => "nothing yet" };
    const text = html("span", "words", (told[level] ?? told.never)());
    if (refused > 0) text.append(html("div", "refused", `${refused} refused`));
    if (trouble) text.append(html("div", "refused", trouble));
    return html("div", `sensor ${level}`, html("span", "name", html("span", "light"), name), rate, html("span", "age", bar), text);
  });
  byId("sensors").replaceChildren(...rows);
}

function showCounts({ missed, dropped, recent_s, last_error }) {
  const lateMark = () => svg("path", { class: "missed", d: "M2 3H14L8 14Z" });
  const dropMark = () => svg("rect", { class: "dropped", x: 3, y: 3, width: 10, height: 10 });
  const rows = [
    ...missed.map((entry) => ({ ...entry, what: `late by ${words(entry.name)}`, mark: lateMark })),
    ...dropped.map((entry) => ({ ...entry, what: `no chunk: ${words(entry.name)}`, mark: dropMark })),
  ].filter(({ total }) => total > 0);
  say(byId("counts-note"), rows.length > 0 ? `last ${recent_s < 55 ? `${Math.round(recent_s)} s` : "minute"}, and since start` : "");
  const error = byId("last-error");
  error.hidden = last_error === null;
  say(error, last_error === null ? "" : `last error: ${last_error}`);
  if (rows.length === 0) {
    byId("counts").replaceChildren(html("p", "all-well", "No deadline was missed, no chunk was dropped."));
    return;
  }
  const cells = rows.map(({ what, total, recent, mark }) => {
    const name = html("td", "", html("span", "mark-cell", svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, mark()), what));
    return html("tr", "", name, html("td", recent > 0 ? "now" : "", String(recent)), html("td", "", String(total)));
  });
  const head = html("tr", "", html("th", "", ""), html("th", "", "lately"), html("th", "", "in all"));
  byId("counts").replaceChildren(html("table", "counts", html("thead", "", head), html("tbody", "", ...cells)));
}

function duration(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (parts[0] > 0) return `${parts[0]} h ${parts[1]} min`;
  if (parts[1] > 0) return `${parts[1]} min ${parts[2]} s`;
  return `${parts[2]} s`;
}
