// What all drawings share: elements, scales, numbers as people read them.

/** An HTML element with a class and children (texts or elements). */
export function html(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** An SVG element with attributes and children. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function byId(id) {
  return document.getElementById(id);
}

/** Sets a text only where it changes, so that nothing that is being read or selected is torn down. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A name of the metrics as words. */
export function words(name) {
  return name.replaceAll("_", " ");
}

/** Milliseconds with as many digits as matter: 0.021, 0.25, 9.4, 38, 1240. */
export function ms(value) {
  if (value === 0) return "0";
  if (value < 0.1) return value.toFixed(3);
  if (value < 1) return value.toFixed(2);
  if (value < 100) return value.toFixed(1);
  return value.toFixed(0);
}

/** A time since something: 25 ms, 2.5 s, 3 min. */
export function since(milliseconds) {
  if (milliseconds < 1000) return `${milliseconds.toFixed(0)} ms`;
  if (milliseconds < 100_000) return `${(milliseconds / 1000).toFixed(1)} s`;
  return `${Math.round(milliseconds / 60_000)} min`;
}

/** A number and its unit, the unit set apart. */
export function figure(element, number, unit) {
  const text = `${number} ${unit}`;
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  element.replaceChildren(number, html("span", "unit", unit));
}

/** Colour of part number `index`. */
export function partColour(index) {
  return `var(--part-${index % 12})`;
}

/** Draws into an SVG at its real size, now and whenever that changes. Gives a function that draws again. */
export function canvas(element, draw) {
  const again = () => {
    const { width, height } = element.getBoundingClientRect();
    if (width === 0 || height === 0) return;
    element.setAttribute("viewBox", `0 0 ${width} ${height}`);
    element.replaceChildren(...draw(width, height));
  };
  new ResizeObserver(again).observe(element);
  return again;
}

/** A horizontal line with a number at its left, as axes have them. */
export function gridLine(y, left, right, text) {
  return [
    svg("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }),
    svg("text", { x: left - 8, y: y + 5, "text-anchor": "end" }, text),
  ];
}

/** About `count` round numbers from 0 to `max`. */
export function ticks(max, count) {
  const rough = max / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  return Array.from({ length: Math.floor(max / step) + 1 }, (_, index) => index * step);
}

/** The value below which a share of the numbers lies; 0 of none. */
export function quantile(numbers, share) {
  if (numbers.length === 0) return 0;
  const sorted = Float64Array.from(numbers).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}
