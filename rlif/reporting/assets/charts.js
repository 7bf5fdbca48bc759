"use strict";
// Draws the figures in #data by uPlot. Text from there is put on screen by textContent or on a canvas, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

// Finds the place of the number nearest to `value` in ascending numbers.
const nearest = (numbers, value) => {
  let low = 0, high = numbers.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= value) low = middle; else high = middle;
  }
  return value - numbers[low] <= numbers[high] - value ? low : high;
};

// Finds the first of `width` places around i, and the one after the last; there are fewer at the ends.
const around = (i, width, length) => [Math.max(0, i - Math.floor((width - 1) / 2)), Math.min(length, i + Math.floor(width / 2) + 1)];

// Each point becomes the mean of the points around it; gaps stay gaps.
const smoothed = (values, width) => {
  const sums = [0], counts = [0];
  for (const value of values) {
    sums.push(sums.at(-1) + (value ?? 0));
    counts.push(counts.at(-1) + (value === null ? 0 : 1));
  }
  return values.map((value, i) => {
    const [from, to] = around(i, width, values.length);
    return value === null ? null : (sums[to] - sums[from]) / (counts[to] - counts[from]);
  });
};

const figures = Object.values(data.figures);
const stepLines = figures.filter((figure) => figure.axis === "step").flatMap((figure) => figure.lines);
const numbers = [
  ...stepLines.flatMap((line) => [data.axes[line.x][0], data.axes[line.x].at(-1)]),
  ...figures.flatMap((figure) => figure.lines.map((line) => line.step).filter((step) => step !== null)),
  ...data.runs.flatMap((run) => run.steps.map((entry) => entry.step)),
].filter((number) => number !== undefined);
const range = [Math.floor(Math.min(...numbers)), Math.ceil(Math.max(...numbers))];
const longest = Math.max(0, ...figures.filter((figure) => figure.smooth).map((figure) =>
  Math.max(...figure.lines.map((line) => line.y.length))));
const widths = [1, 3, 10, 30, 100, 300, 1000, 3000].filter((width) => width === 1 || width <= longest / 4);
const view = { step: range[1], width: widths.findLast((width) => width <= Math.max(1, longest / 150)), listeners: [] };

const plain = (value, digits = 6) => {
  const rounded = Number(value.toPrecision(digits)), size = Math.abs(rounded);
  return size >= 1e9 || (size > 0 && size < 1e-4) ? rounded.toExponential() : rounded.toLocaleString("en", { maximumSignificantDigits: digits });
};
const written = (value, percent) =>
  value === null || value === undefined ? "no number" : percent ? `${(100 * value).toFixed(1)}%` : plain(value, 5);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const FONT = "11px system-ui, sans-serif";

class Chart {
  constructor(node, figure) {
    this.node = node;
    this.figure = figure;
    this.stepwise = figure.axis === "step";
    this.place = node.querySelector(".plot");
    this.readout = node.querySelector(".values");
    this.stale = true;
    this.visible = false;
    this.choose();
  }

  // Chooses the lines to draw, and makes the entries of the values below the figure.
  choose() {
    this.picked = this.figure.lines.some((line) => line.step !== null) ? this.chosen() : null;
    this.lines = this.figure.kind === "bars" ? this.picked : this.figure.lines;
    this.entries = (this.picked ?? this.lines).map((line) => {
      const entry = element("span"), swatch = element("i"), text = element("span");
      swatch.style.borderTopColor = line.colour;
      swatch.style.borderTopStyle = line.dash.length === 0 ? "solid" : line.dash[0] > 2 ? "dashed" : "dotted";
      entry.append(swatch, text);
      return { line, entry, text };
    });
    this.head = element("b");
    this.readout.replaceChildren(this.head, ...this.entries.map(({ entry }) => entry));
    this.read(null);
  }

  // The lines of the evaluation that is nearest to the chosen step, per run.
  chosen() {
    return this.figure.lines.filter((line) => {
      const own = this.figure.lines.filter((other) => other.run === line.run).map((other) => other.step);
      const best = own.reduce((a, b) => (Math.abs(b - view.step) < Math.abs(a - view.step) ? b : a));
      return line.step === best;
    });
  }

  // Makes uPlot's columns and series: per line a band, the values and their means where they are smoothed.
  columns(lines) {
    const { kind, smooth } = this.figure;
    const tables = [], series = [{}], bands = [];
    const tops = new Map(); // of the bars that stand on each other
    let floor = lines[0].y.map(() => 0);
    if (kind === "stack") for (const line of lines) tops.set(line, (floor = floor.map((value, i) => value + line.y[i])));
    for (const line of kind === "stack" ? [...lines].reverse() : lines) {
      const table = [data.axes[line.x]];
      const add = (values, options) => {
        table.push(values);
        series.push({ points: { show: false }, ...options });
        return series.length - 1;
      };
      const few = line.y.filter((value) => value !== null).length <= 15;
      const faint = this.picked && !this.picked.includes(line) ? "55" : "";
      if (kind !== "curve") {
        const size = kind === "stack" ? 0.92 : 1;
        add(tops.get(line) ?? line.y, { fill: line.colour + (kind === "stack" ? "" : "77"), stroke: line.colour, width: 0.5,
          paths: uPlot.paths.bars({ size: [size, Infinity] }) });
      } else {
        if (line.low) {
          const high = add(line.high, { width: 0, stroke: "transparent" });
          bands.push({ series: [high, add(line.low, { width: 0, stroke: "transparent" })], fill: line.colour + "2a" });
        }
        const means = smooth && view.width > 1;
        if (means) add(line.y, { stroke: line.colour + "40", width: 1 });
        add(means ? smoothed(line.y, view.width) : line.y, { stroke: line.colour + faint, width: 1.8, dash: line.dash,
          points: { show: few, size: 5, fill: line.colour + faint, stroke: line.colour + faint } });
      }
      tables.push(table);
    }
    return { columns: uPlot.join(tables), series, bands };
  }

  draw() {
    this.stale = false;
    this.plot?.destroy();
    const { kind, percent, axis } = this.figure;
    const { columns, series, bands } = this.columns(this.lines);
    const ink = colour("--ink"), faint = colour("--line");
    const label = (value) => (percent ? `${plain(100 * value)}%` : plain(value));
    const marks = (values) => values.map((value) => (value === null ? "" : label(value)));
    const rank = axis.startsWith("rank");
    const bar = columns[0].length > 1 ? Math.min(...columns[0].slice(1).map((x, i) => x - columns[0][i])) / 2 : 0.5;
    const options = {
      width: this.place.clientWidth, height: 190, padding: [10, rank ? 30 : 22, 0, 0], series, bands, legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: kind === "curve", size: 6 },
        ...(this.stepwise ? { sync: { key: "steps" } } : {}) },
      scales: {
        x: { time: false, range: (plot, low, high) =>
          kind !== "curve" ? [low - bar, high + bar] : this.stepwise && range[1] > range[0] ? range : rank ? [0, 1] : [low - 0.5, high + 0.5] },
        y: { range: (plot, low, high) => {
          if (low === null || high === null) return [0, 1];
          if (kind === "stack") return [0, 1];
          if (kind === "bars") return [0, 1.08 * high || 1];
          const room = (high - low > 1e-6 * Math.abs(high) && 0.06 * (high - low)) || Math.abs(high) / 10 || 1;
          return [percent || low >= 0 ? Math.max(0, low - room) : low - room, percent ? Math.min(1.02, high + room) : high + room];
        } },
      },
      axes: [
        { stroke: ink, font: FONT, size: 28, gap: 3, grid: { show: false }, ticks: { stroke: faint, size: 4 }, space: 60,
          incrs: this.stepwise ? [1, 2, 5].flatMap((n) => [...Array(9).keys()].map((e) => n * 10 ** e)).sort((a, b) => a - b) : undefined,
          values: (plot, values) => (rank ? values.map((value) => (value === 0 ? "least sure" : value === 1 ? "most sure" : "")) : values.map((value) => plain(value))) },
        { stroke: ink, font: FONT, gap: 4, grid: { stroke: faint, width: 1 }, ticks: { show: false }, space: 32,
          size: (plot, values) => 16 + 6.4 * Math.max(3, ...(values ?? []).map((value) => value.length)),
          values: (plot, values) => marks(values) },
      ],
      hooks: {
        ready: [() => this.point()],
        draw: [(plot) => this.collapses(plot, ink)],
        setCursor: [(plot) => this.read(plot.cursor.left < 0 ? null : plot.data[0][plot.cursor.idx] ?? null)],
      },
    };
    this.plot = new uPlot(options, columns, this.place);
    const { over } = this.plot;
    over.addEventListener("mouseleave", () => charts.forEach((chart) => chart.point()));
    if (this.stepwise) over.addEventListener("click", () => moveTo(Math.round(this.plot.data[0][this.plot.cursor.idx])));
  }

  collapses(plot, ink) {
    const { ctx } = plot, { left, top, height } = plot.bbox, scale = devicePixelRatio;
    for (const line of this.stepwise ? this.lines : []) {
      if (line.collapse === null || line.collapse === undefined) continue;
      const x = plot.valToPos(line.collapse, "x", true);
      ctx.save();
      ctx.strokeStyle = line.colour;
      ctx.lineWidth = scale;
      ctx.setLineDash([scale, 2 * scale]);
      ctx.beginPath();
      ctx.moveTo(x, top);
      ctx.lineTo(x, top + height);
      ctx.stroke();
      ctx.translate(x - 4 * scale, top);
      ctx.rotate(-Math.PI / 2);
      ctx.fillStyle = ink;
      ctx.font = `${10 * scale}px system-ui, sans-serif`;
      ctx.textAlign = "right";
      ctx.fillText("collapse", 0, 0);
      ctx.restore();
    }
  }

  // Puts the cursor at the chosen step, and the values there below the figure.
  point() {
    // status 1: uPlot has found its scales
    if (this.plot?.status === 1 && this.stepwise) this.plot.setCursor({ left: this.plot.valToPos(view.step, "x"), top: 0 }, false, false);
    this.read(null);
  }

  // Writes the value of each line at x; without x at the chosen step, or what is known of the whole line.
  read(x) {
    const { percent, smooth, axis, kind } = this.figure;
    const where = x === null && this.stepwise ? view.step : x;
    const several = data.runs.length > 1 || this.figure.lines.length > 1;
    let head = this.picked && this.picked[0] && kind === "bars" ? `step ${this.picked[0].step}: ${this.picked[0].note}` : "";
    for (const { line, text } of this.entries) {
      const parts = [several ? line.label : ""];
      if (where === null) {
        if (kind !== "bars") parts.push(line.note);
      } else {
        const xs = data.axes[line.x], i = nearest(xs, where);
        head = this.stepwise ? `step ${Math.round(where).toLocaleString("en")}` : axis.startsWith("rank") ? `tenth ${i + 1} of ${xs.length}` : `about ${written(xs[i])} nats`;
        parts.push(written(line.y[i], percent));
        if (line.low && line.low[i] !== null) parts.push(`[${written(line.low[i], percent)}, ${written(line.high[i], percent)}]`);
        if (smooth && view.width > 1) {
          const near = line.y.slice(...around(i, view.width, line.y.length)).filter((value) => value !== null);
          if (near.length) parts.push(`(mean of ${near.length}: ${written(near.reduce((a, b) => a + b) / near.length, percent)})`);
        }
        if (this.stepwise && xs[i] !== Math.round(where)) parts.push(`at step ${written(xs[i])}`);
      }
      text.textContent = parts.filter(Boolean).join(" ");
    }
    this.head.textContent = head;
  }
}

const charts = [...document.querySelectorAll("figure[data-key]")].map((node) => new Chart(node, data.figures[node.dataset.key]));
const redraw = (changed = charts) => {
  for (const chart of changed) {
    chart.choose();
    if (chart.visible) chart.draw(); else chart.stale = true;
  }
};
const moveTo = (step) => {
  view.step = Math.min(range[1], Math.max(range[0], step));
  at("at").value = view.step;
  at("at-text").textContent = view.step.toLocaleString("en");
  at("at").setAttribute("aria-valuetext", `step ${view.step}`);
  for (const chart of charts) {
    if (!chart.picked) chart.point();
    else if (chart.chosen().some((line, i) => line !== chart.picked[i])) redraw([chart]);
  }
  view.listeners.forEach((listener) => listener());
};
const smoothBy = (place) => {
  view.width = widths[place];
  const text = view.width > 1 ? `mean of ${view.width} steps` : "none";
  at("smooth").value = place;
  at("smooth-text").textContent = text;
  at("smooth").setAttribute("aria-valuetext", text);
  redraw(charts.filter((chart) => chart.figure.smooth));
};

if (numbers.length) {
  at("steering").hidden = false;
  at("at").min = range[0];
  at("at").max = range[1];
  at("smooth").max = widths.length - 1;
  at("smoothing").hidden = widths.length < 2;
  at("steering").addEventListener("submit", (event) => event.preventDefault());
  at("at").addEventListener("input", (event) => moveTo(Number(event.target.value)));
  at("smooth").addEventListener("input", (event) => smoothBy(Number(event.target.value)));
  smoothBy(widths.indexOf(view.width));
  moveTo(view.step);
}

// Figures are drawn when they come near the screen.
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.find((each) => each.node === entry.target);
    chart.visible = entry.isIntersecting;
    if (chart.visible && chart.stale) chart.draw();
  }
}, { rootMargin: "300px" });
const sized = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.find((each) => each.place === entry.target);
    if (chart.plot && chart.plot.width !== chart.place.clientWidth) {
      chart.plot.setSize({ width: chart.place.clientWidth, height: 190 });
      queueMicrotask(() => chart.point()); // once uPlot has the new size
    }
  }
});
for (const chart of charts) {
  seen.observe(chart.node);
  sized.observe(chart.place);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
addEventListener("beforeprint", () => charts.filter((chart) => chart.stale).forEach((chart) => chart.draw()));
