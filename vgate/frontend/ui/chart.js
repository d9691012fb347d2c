// Live charts: uPlot, in the colours of the page.
/* global uPlot */

import { h, setText } from "./dom.js";

const KEPT_S = 300;
const LEAST_S = 60;
const HEIGHT = 128;
const Y_AXIS_PX = 56;
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

// Half of a label of the clock, less what is free beside the plot.
const CUT_PX = 20;

/** Whether the label of a time would not fit before the right edge. */
export const isCut = ({ scales: { x }, width }, time) => ((x.max - time) / (x.max - x.min)) * (width - Y_AXIS_PX) < CUT_PX;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * A card with a chart of the last five minutes. `series` are [label, CSS variable of the colour];
 * `show` formats a value; `top` is the axis' end, if it is fixed.
 */
export class Chart {
  constructor(title, series, show, { top } = {}) {
    this.title = title;
    this.series = series;
    this.show = show;
    this.top = top;
    this.data = [[], ...series.map(() => [])];
    this.values = series.map(() => h("b", {}, "–"));
    this.clock = h("span", { class: "at" });
    this.place = h("div", { class: "plot", role: "img" });
    this.element = h("section", { class: "card chart", "aria-label": title },
      h("div", { class: "chart-head" }, h("h3", {}, title), this.clock),
      h("div", { class: "legend" }, series.map(([label, name], index) =>
        h("span", { class: `key ${name.slice(2)}` }, this.values[index], series.length > 1 ? ` ${label}` : null))),
      this.place);
    this.redraw = () => this.draw();
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", this.redraw);
    addEventListener("theme", this.redraw);
    this.resized = new ResizeObserver(() => this.fit());
    this.resized.observe(this.place);
  }

  draw() {
    if (!this.data[0].length) return;
    this.plot?.destroy();
    const axis = { stroke: colour("--faint"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    this.plot = new uPlot({
      width: Math.max(this.place.clientWidth, 100), height: HEIGHT,
      legend: { show: false }, cursor: { drag: { x: false, y: false }, y: false },
      padding: [8, 8, 0, 0],
      scales: {
        x: { time: true, range: (_, first, last) => [Math.min(first, last - LEAST_S), last] },
        y: { range: (_, __, most) => [0, this.top ?? (most > 0 ? most * 1.15 : 1)] },
      },
      axes: [
        { ...axis, space: 110, size: 22, grid: { show: false }, values: (plot, times) => times.map((time) => (isCut(plot, time) ? null : CLOCK.format(time * 1000))) },
        { ...axis, size: Y_AXIS_PX, space: 36, values: (_, values) => values.map(this.show) },
      ],
      series: [{}, ...this.series.map(([label, name], index) => ({
        label, stroke: colour(name), width: 2, points: { show: false }, spanGaps: false,
        fill: index === 0 ? colour(`${name}-fill`) : undefined,
      }))],
      hooks: { setCursor: [() => this.showValues()] },
    }, this.data, this.place);
  }

  /** Show the values under the pointer, or the latest ones. */
  showValues() {
    const at = this.plot?.cursor.idx;
    const index = at ?? this.data[0].length - 1;
    this.values.forEach((element, n) => setText(element, this.show(this.data[n + 1][index] ?? null)));
    setText(this.clock, at === null || at === undefined ? "" : CLOCK.format(this.data[0][at] * 1000));
  }

  fit() {
    const width = this.place.clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  /** Add the values of a moment, in Unix seconds; null leaves a gap. */
  add(time, values) {
    [time, ...values].forEach((value, index) => this.data[index].push(value));
    while (this.data[0][0] < time - KEPT_S) this.data.forEach((column) => column.shift());
    if (this.plot) this.plot.setData(this.data);
    else this.draw();
    this.showValues();
    const now = this.series.map(([label], index) => `${label}: ${this.values[index].textContent}`);
    this.place.setAttribute("aria-label", `${this.title}, the last five minutes. ${now.join(", ")}`);
  }

  destroy() {
    this.resized.disconnect();
    this.dark.removeEventListener("change", this.redraw);
    removeEventListener("theme", this.redraw);
    this.plot?.destroy();
  }
}
