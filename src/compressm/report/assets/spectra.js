"use strict";
// The spectrum of a layer, and small ones of the first layers, at the measurement of the slider.

const PANELS = 12;
// Other measurements that a panel and the large chart show faintly.
const FAINT = { panel: 3, large: 24 };

const spectra = { run: 0, layer: 0, when: 0 };
const measured = () => page.spectra[spectra.run];

// Of a layer at a measurement; where it was not measured then, at the last one before.
function spectrumAt(layer, when) {
  const row = measured().spectra[layer];
  for (let i = when; i >= 0; i--) if (row[i] !== null) return row[i];
  return row.find((one) => one !== null) ?? null;
}

// The states of a layer that is not among the lines of the chart, as there are too many.
function lineOfLayer(chart, site) {
  const index = measured().layers.findIndex((layer) => layer.site === site);
  if (index < 0 || page.spectra.length > 1 || chart.lines.some((line) => line.layer === site)) return [];
  const { layers, steps, spectra: rows } = measured();
  const known = rows[index].flatMap((one, i) => (one === null ? [] : [[steps[i], one]]));
  const first = known[0][1][1];
  return [{
    name: layers[index].name, layer: site, color: 1, width: 3, stairs: true, points: false, faint: false,
    x: [0, ...known.map(([when]) => when.step), chart.end],
    y: [first, ...known.map(([, [, states, after]]) => after ?? states), null]
      .map((states, i, all) => states ?? all[i - 1]),
    seconds: chart.lines[0].seconds && [
      chart.lines[0].seconds[0], ...known.map(([when]) => when.seconds), chart.lines[0].seconds.at(-1)],
  }];
}

function curve([count, states, , levels]) {
  const perState = Math.max(1, Math.round(count / Math.max(states, 1)));
  const places = measured().places[count];
  return {
    x: places.map((place) => (place + 1) / perState), y: levels.map((level) => 10 ** (level / 1000)),
  };
}

function evenly(count, most) {
  if (count <= most) return Array.from({ length: count }, (_, i) => i);
  return Array.from({ length: most }, (_, i) => Math.floor(i * (count - 1) / (most - 1)));
}

function spectrumTraces(layer, when, faint) {
  const row = measured().spectra[layer];
  const known = row.flatMap((one, i) => (one === null ? [] : [i]));
  const traces = evenly(known.length, faint).map((place) => {
    const i = known[place];
    const step = measured().steps[i].step ?? "–";
    return {
      ...curve(row[i]), mode: "lines", line: { color: lineColor(0), width: 1 },
      opacity: 0.3 + 0.5 * (i + 1) / row.length,
      hovertemplate: `step ${step}: σ is %{y:.2g} of the largest<extra></extra>`,
    };
  });
  const now = spectrumAt(layer, when);
  if (now === null) return traces;
  const [, states, after, , kept] = now;
  traces.push({
    ...curve(now), mode: "lines", line: { color: lineColor(1), width: 3 },
    hovertemplate: "state %{x}: σ is %{y:.2g} of the largest<extra></extra>",
  });
  if (kept !== null) {
    traces.push({
      x: [after], y: [10 ** (kept / 1000)], mode: "markers",
      marker: { size: 11, color: lineColor(1), line: { color: color("ink"), width: 1 } },
      hovertemplate: `${states} → ${after} states<extra></extra>`,
    });
  }
  return traces;
}

function floorOf(layers) {
  let least = 0;
  for (const layer of layers) {
    for (const one of measured().spectra[layer]) {
      // What is below a millionth matters to nobody.
      if (one !== null) least = Math.min(least, Math.max(one[3].at(-1) / 1000, -6));
    }
  }
  return least - 0.2;
}

function sayMeasurement() {
  const { step, words } = measured().steps[spectra.when];
  const one = spectrumAt(spectra.layer, spectra.when);
  let said = step === null ? "once" : `step ${step.toLocaleString("en")}`;
  if (words) said += ` (${words})`;
  if (one !== null) {
    const [, states, after] = one;
    said += after === null || after === states ? `: ${states} states` : `: ${states} → ${after} states`;
  }
  byId("when-said").textContent = said;
}

function drawSpectra() {
  const layers = measured().layers;
  const { layer, when } = spectra;
  sayMeasurement();
  Plotly.react(byId("chart-spectrum"), spectrumTraces(layer, when, FAINT.large), layoutStyle({
    height: 340, margin: { l: 58, r: 14, t: 34, b: 46 },
    title: { text: plainText(layers[layer].name), font: { size: 14 }, x: 0.5, y: 0.97 },
    xaxis: axisStyle({ title: "state", rangemode: "tozero" }),
    yaxis: axisStyle({
      title: "σ / largest σ", type: "log", exponentformat: "power",
      dtick: 1, range: [floorOf([layer]), 0.2],
    }),
  }), CONFIG);
  if (layers.length < 2) return;
  const shown = layers.slice(0, PANELS).map((_, i) => i);
  const floor = floorOf(shown);
  for (const i of shown) {
    byId(`panel-button-${i}`).setAttribute("aria-pressed", String(i === layer));
    Plotly.react(byId(`panel-${i}`), spectrumTraces(i, when, FAINT.panel), layoutStyle({
      height: 130, margin: { l: 36, r: 8, t: 6, b: 20 }, font: { size: 10, color: color("ink") },
      xaxis: axisStyle({ rangemode: "tozero", nticks: 4, automargin: false }),
      yaxis: axisStyle({
        type: "log", exponentformat: "power", nticks: 4, range: [floor, 0.2], automargin: false,
      }),
    }), { staticPlot: true, responsive: true });
  }
}

function makePanels() {
  const layers = measured().layers;
  const shown = layers.length < 2 ? [] : layers.slice(0, PANELS);
  byId("panels").replaceChildren(...shown.map(({ name, site }, i) => {
    const panel = document.createElement("div");
    const button = document.createElement("button");
    button.type = "button";
    button.id = `panel-button-${i}`;
    button.textContent = button.title = name;
    button.addEventListener("click", () => chooseLayer(site));
    const chart = document.createElement("div");
    chart.id = `panel-${i}`;
    chart.className = "panel";
    panel.append(button, chart);
    return panel;
  }));
  byId("panels-said").textContent = layers.length > PANELS
    ? `The first ${PANELS} of ${layers.length.toLocaleString("en")} layers; the list above has the others.`
    : "";
}

// By its module path; `scroll` brings the spectrum into view.
function chooseLayer(site, scroll = true) {
  const index = measured().layers.findIndex((layer) => layer.site === site);
  if (index < 0) return;
  spectra.layer = index;
  byId("layer").selectedIndex = index;
  byId("said").textContent = `Spectrum of ${measured().layers[index].name}`;
  drawSpectra();
  drawAll.chosen(site);
  if (scroll) byId("chart-spectrum").scrollIntoView({ block: "nearest" });
}

function chooseRun(index) {
  spectra.run = index;
  spectra.layer = 0;
  const slider = byId("when");
  slider.max = measured().steps.length - 1;
  // The first cut, if there is one, says most.
  const cut = measured().spectra[0].findIndex((one) => one !== null && one[4] !== null);
  spectra.when = Math.max(cut, 0);
  slider.value = spectra.when;
  byId("layer").replaceChildren(...measured().layers.map(({ name }) => new Option(name)));
  makePanels();
}
