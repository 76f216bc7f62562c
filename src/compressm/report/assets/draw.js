"use strict";
// How charts look and how they are drawn. What they show is in the element "data".

const page = JSON.parse(document.getElementById("data").textContent);
const byId = (name) => document.getElementById(name);
const touch = matchMedia("(pointer: coarse)").matches;
// On a phone a finger that moves over a chart scrolls the page.
const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset+autosize" };
const CYCLE = 6;
const DASHES = ["solid", "dash", "dot"];
const SYMBOLS = {
  cut: "triangle-down", grow: "triangle-up", trial: "triangle-down-open", accepted: "square",
  rejected: "x", kept: "circle-open",
};
// Lines across a chart; of more cuts the triangles are enough.
const MOST_LINES = 40;

// Plotly reads a little HTML and TeX in every text, and names are not ours.
const plainText = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;")
  .replace(/>/g, "&gt;").replace(/\$/g, "&#36;");

// A name beside a point; the whole one is in the table, and under the mouse.
const LABEL = 18;
const shortText = (text) => {
  const letters = [...text];
  return plainText(letters.length > LABEL ? `${letters.slice(0, LABEL - 1).join("")}…` : text);
};

const color = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const lineColor = (index) => color(index < 0 ? "ink" : `line-${index % CYCLE}`);
const lineDash = (index) =>
  index < 0 ? "solid" : DASHES[Math.floor(index / CYCLE) % DASHES.length];

function axisStyle({ title, ...more }) {
  return {
    title: title ? { text: title, standoff: 10 } : undefined,
    gridcolor: color("grid"), linecolor: color("muted"), tickcolor: color("muted"),
    zeroline: false, ticks: "outside", automargin: true, ...more,
  };
}

function layoutStyle(more) {
  return {
    paper_bgcolor: color("paper"), plot_bgcolor: color("paper"),
    font: { family: "Helvetica, Arial, sans-serif", size: 13, color: color("ink") },
    margin: { l: 58, r: 14, t: 14, b: 46 }, showlegend: false, hovermode: "closest",
    hoverlabel: { bgcolor: color("paper"), align: "left" }, dragmode: touch ? false : "zoom",
    ...more,
  };
}

// Places of a line or mark on the axis that is chosen: "x" (steps) or "seconds".
function along(axis, shown) {
  return axis === "x" ? shown.x : shown.seconds;
}

// A stair with points all along its steps: Plotly finds a line under the mouse by its points.
function dense(x, y) {
  const gap = (x.at(-1) - x[0]) / 80;
  const all = { x: [], y: [] };
  x.forEach((from, i) => {
    const count = i + 1 < x.length && gap > 0 ? Math.ceil((x[i + 1] - from) / gap) : 1;
    for (let k = 0; k < count; k++) {
      all.x.push(from + k * (count > 1 ? (x[i + 1] - from) / count : 0));
      all.y.push(y[i]);
    }
  });
  return all;
}

function lineTrace(chart, line, axis) {
  const unit = axis === "x" ? "step %{x:,.0f}" : "%{x:.1f} s";
  const value = chart.powers ? "%{y} states" : `%{y:.${chart.digits}f}`;
  return {
    ...(line.stairs ? dense(along(axis, line), line.y) : { x: along(axis, line), y: line.y }),
    name: plainText(line.name),
    mode: line.points ? "lines+markers" : "lines", marker: { size: 5 },
    opacity: line.faint ? 0.5 : 1,
    line: {
      color: lineColor(line.color), dash: lineDash(line.color), width: line.width,
      shape: line.stairs ? "hv" : "linear",
    },
    hovertemplate: `%{fullData.name}<br>${value} at ${unit}<extra></extra>`,
  };
}

function markTrace(marks, axis) {
  return {
    x: marks.map((mark) => along(axis, mark)), y: marks.map(() => 0.96), yaxis: "y2",
    mode: "markers", text: marks.map((mark) => plainText(mark.text)), hoverinfo: "text",
    marker: {
      size: 11, symbol: marks.map((mark) => SYMBOLS[mark.kind] ?? "circle"),
      color: marks.map((mark) =>
        mark.kind === "rejected" ? color("warning") : lineColor(page.spectra.length > 1 ? mark.color : -1)),
    },
  };
}

function cutLines(marks, axis) {
  const cuts = marks.filter((mark) => ["cut", "grow", "trial"].includes(mark.kind));
  if (cuts.length > MOST_LINES) return [];
  return cuts.map((mark) => ({
    type: "line", x0: along(axis, mark), x1: along(axis, mark), y0: 0, y1: 1, yref: "paper",
    line: { color: color("muted"), width: 1, dash: "dot" },
  }));
}

function valueAxis(chart) {
  if (!chart.powers) return axisStyle({ title: chart.y_title, range: chart.y_range });
  const [low, high] = chart.y_range.map((end) => Math.round(Math.log2(end)));
  const ticks = Array.from({ length: high - low + 1 }, (_, i) => 2 ** (low + i));
  return axisStyle({
    title: chart.y_title, type: "log", tickvals: ticks, ticktext: ticks.map(String),
    range: [(low - 0.15) * Math.log10(2), (high + 0.12 * (high - low) + 0.15) * Math.log10(2)],
  });
}

function drawChart(chart, axis, chosen) {
  const more = chart.name === "states" && chosen !== null ? lineOfLayer(chart, chosen) : [];
  const lines = [...chart.lines, ...more].filter((line) => along(axis, line));
  const marks = chart.marks.filter((mark) => along(axis, mark) !== null);
  const traces = lines.map((line) => lineTrace(chart, line, axis));
  lines.forEach((line, i) => {
    if (chosen !== null && line.layer === chosen) traces[i].line.width = line.width + 2;
  });
  const withMarks = chart.name === "states" && marks.length > 0;
  if (withMarks) traces.push(markTrace(marks, axis));
  const horizontal = axis === "x"
    ? axisStyle({ title: "training step", range: [0, chart.end * 1.01 || 1] })
    : axisStyle({ title: "wall-clock of the run, s", rangemode: "tozero" });
  const layout = layoutStyle({
    height: 320, xaxis: horizontal, yaxis: valueAxis(chart), shapes: cutLines(marks, axis),
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
  });
  return Plotly.react(byId(`chart-${chart.name}`), traces, layout, CONFIG).then(() => lines);
}

function swatch(line) {
  const dash = { solid: "", dash: "6 3", dot: "2 3" }[lineDash(line.color)];
  const stroke = line.color < 0 ? "ink" : `line-${line.color % CYCLE}`;
  return `<svg width="24" height="10" aria-hidden="true"><line x1="0" y1="5" x2="24" y2="5" ` +
    `style="stroke:var(--${stroke})" stroke-width="3" stroke-dasharray="${dash}" ` +
    `opacity="${line.faint ? 0.5 : 1}"/></svg>`;
}

// The legend is text of the page: it wraps, is read aloud, and its layers are buttons.
function writeLegend(chart, choose) {
  const shown = chart.lines.filter((line) => line.legend);
  byId(`legend-${chart.name}`).replaceChildren(...shown.map((line) => {
    const item = document.createElement("li");
    const inside = document.createElement(line.layer !== null && choose ? "button" : "span");
    inside.innerHTML = swatch(line);
    inside.append(line.name);
    if (inside.tagName === "BUTTON") {
      inside.type = "button";
      inside.addEventListener("click", () => choose(line.layer));
    }
    item.append(inside);
    return item;
  }));
}

function drawTradeoffs(found) {
  for (const [place, key, title] of [
    ["by-states", "states", "states at the end, all layers"],
    ["by-seconds", "seconds", "wall-clock of the whole run, s"],
  ]) {
    const trace = {
      x: found.points.map((point) => point[key]), y: found.points.map((point) => point.value),
      text: found.points.map((point) => shortText(point.name)), mode: "markers+text",
      customdata: found.points.map((point) => plainText(point.name)),
      textposition: "top center", cliponaxis: false,
      marker: { size: 12, color: found.points.map((point) => lineColor(point.color)) },
      hovertemplate: `%{customdata}<br>%{y:.${found.points[0].digits}f}<br>%{x:,.0f} ${
        key === "states" ? "states" : "s"}<extra></extra>`,
    };
    const most = Math.max(...trace.x), least = Math.min(...trace.x);
    const margin = 0.25 * (most - least || most || 1);
    const best = Math.max(...trace.y), worst = Math.min(...trace.y);
    const room = 0.2 * (best - worst || Math.abs(best) || 1);
    Plotly.react(byId(place), [trace], layoutStyle({
      height: 300, margin: { l: 58, r: 24, t: 28, b: 46 },
      xaxis: axisStyle({ title, range: [Math.max(-0.08 * most, least - margin), most + margin] }),
      yaxis: axisStyle({ title: found.title, range: [worst - room, best + room] }),
    }), CONFIG);
  }
}
