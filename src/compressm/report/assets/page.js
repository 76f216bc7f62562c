"use strict";
// What the reader can choose: axis, layer, measurement, theme; and what a printer gets.

const choice = { axis: "x", layer: null };

function drawAll() {
  for (const chart of page.charts) {
    drawChart(chart, choice.axis, choice.layer).then((lines) => listen(chart, lines));
  }
  if (page.tradeoffs) drawTradeoffs(page.tradeoffs);
  if (page.spectra.length) drawSpectra();
}

drawAll.chosen = (site) => {
  choice.layer = site;
  const chart = page.charts.find((one) => one.name === "states");
  if (chart) drawChart(chart, choice.axis, site).then((lines) => listen(chart, lines));
};

function listen(chart, lines) {
  const place = byId(`chart-${chart.name}`);
  place.removeAllListeners("plotly_click");
  if (chart.name !== "states" || page.spectra.length !== 1) return;
  place.on("plotly_click", ({ points }) => {
    const line = lines[points[0].curveNumber];
    if (line && line.layer !== null) chooseLayer(line.layer);
  });
}

function setUpSpectra() {
  byId("spectra").hidden = false;
  byId("run").replaceChildren(...page.spectra.map(({ run }) => new Option(run)));
  byId("choose-run").hidden = page.spectra.length < 2;
  byId("run").addEventListener("change", (event) => {
    chooseRun(event.target.selectedIndex);
    drawSpectra();
  });
  byId("layer").addEventListener("change", (event) =>
    chooseLayer(measured().layers[event.target.selectedIndex].site, false));
  byId("when").addEventListener("input", (event) => {
    spectra.when = Number(event.target.value);
    drawSpectra();
  });
  chooseRun(0);  // `drawAll` draws it
}

function isDark() {
  const said = document.documentElement.dataset.theme;
  return said ? said === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function sayTheme() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("theme").title = `Show the page in ${isDark() ? "light" : "dark"} colours`;
}

// On paper: light, as wide as the paper, and with what is folded away on a screen.
const paper = { theme: null, width: 680, opened: [] };

function beforePrint() {
  if (paper.theme !== null) return;
  paper.theme = document.documentElement.dataset.theme ?? "";
  document.documentElement.dataset.theme = "light";
  paper.opened = [...document.querySelectorAll("details:not([open])")];
  for (const folded of paper.opened) folded.open = true;
  drawAll();
  for (const chart of document.querySelectorAll("main > section > .chart.js-plotly-plot")) {
    Plotly.relayout(chart, { width: paper.width });
  }
}

function afterPrint() {
  if (paper.theme) document.documentElement.dataset.theme = paper.theme;
  else delete document.documentElement.dataset.theme;
  for (const folded of paper.opened) folded.open = false;
  paper.theme = null;
  drawAll();
}

byId("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  sayTheme();
  drawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  sayTheme();
  drawAll();
});
byId("axis")?.addEventListener("change", (event) => {
  choice.axis = event.target.value;
  drawAll();
});
addEventListener("beforeprint", beforePrint);
addEventListener("afterprint", afterPrint);

sayTheme();
for (const chart of page.charts) {
  const layered = chart.name === "states" && page.spectra.length === 1;
  writeLegend(chart, layered ? chooseLayer : null);
}
if (page.tradeoffs) byId("tradeoffs").hidden = false;
if (page.spectra.length) setUpSpectra();
drawAll();
