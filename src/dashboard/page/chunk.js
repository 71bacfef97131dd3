// The chunk that was sent last: a small curve per joint, each on a scale of its own.

import { byId, html, say, svg, words } from "./draw.js";

/** The least that a curve's height stands for, so that noise does not look like motion. Radians or metres. */
const LEAST_RANGE = 0.1;

let sequence = null;

/** Shows an answer of /api/chunk. */
export function show(news) {
  if (news === null) {
    byId("joints").replaceChildren();
    say(byId("chunk-note"), "none yet");
    return;
  }
  if (news.sequence === sequence) return;
  sequence = news.sequence;
  const points = news.joints[0]?.positions.length ?? 0;
  const seconds = (points / news.control_hz).toFixed(2).replace(/\.?0+$/, "");
  const note = byId("chunk-note");
  note.classList.toggle("holding-note", news.hold !== null);
  if (news.hold !== null) say(note, `number ${news.sequence}: hold, because of ${words(news.hold)}`);
  else say(note, `number ${news.sequence}: ${points} points, ${seconds} s at ${news.control_hz} Hz; first and last position`);
  const list = byId("joints");
  if (list.children.length !== news.joints.length) list.replaceChildren(...news.joints.map(frame));
  news.joints.forEach((joint, index) => fill(list.children[index], joint));
}

/** Two digits, and a minus sign that is as wide as a digit. */
function position(value) {
  return value.toFixed(2).replace("-", "\u2212");
}

function frame() {
  const drawing = svg("svg", { "aria-hidden": "true" });
  return html("div", "joint", html("div", "name"), drawing, html("div", "ends", html("span", ""), html("span", "")));
}

function fill(element, { name, positions }) {
  const [label, drawing, ends] = element.children;
  say(label, words(name));
  label.title = name;
  const [first, last] = [positions[0] ?? 0, positions.at(-1) ?? 0];
  say(ends.firstChild, position(first));
  say(ends.lastChild, position(last));
  const { width, height } = drawing.getBoundingClientRect();
  if (width === 0) return;
  drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const [low, high] = [Math.min(...positions), Math.max(...positions)];
  const range = Math.max(high - low, LEAST_RANGE);
  const PAD = 5;
  const middle = (low + high) / 2;
  const y = (value) => height / 2 - ((value - middle) / range) * (height - 2 * PAD);
  const x = (index) => PAD + (index / Math.max(1, positions.length - 1)) * (width - 2 * PAD);
  const line = positions.map((value, index) => `${index === 0 ? "M" : "L"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`);
  drawing.replaceChildren(
    svg("line", { class: "start", x1: 0, x2: width, y1: y(first), y2: y(first) }),
    svg("path", { class: "curve", d: line.join("") }),
    svg("circle", { class: "point", cx: x(0), cy: y(first), r: 4 }),
  );
}
