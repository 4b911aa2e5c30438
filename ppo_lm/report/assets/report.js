"use strict";
// Puts the page together.

const SUMMARY = ["score", "loss", "monitor", "kl", "entropy", "length", "explained_variance"];

function showSummary(section) {
  RUNS.forEach((run, index) => {
    const numbers = SUMMARY.filter(name => run.series[name]?.some(value => value !== null)).map(name => {
      const known = run.series[name].filter(value => value !== null), width = Math.max(1, Math.floor(known.length / SMOOTHED));
      const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length;
      return el("li", {}, el("span", { className: "dim", textContent: TITLES[name] ?? name }), el("b", { textContent: `${number(mean(known.slice(0, width)), 3)} → ${number(mean(known.slice(-width)), 3)}` }));
    });
    const steps = run.settings.find(setting => setting.name === "steps");
    const skipped = run.dropped.map(({ step, reason }) => el("p", { className: "health", textContent: `Step ${step} was skipped: ${reason}` }));
    section.append(el("div", { className: "run" }, RUNS.length > 1 ? swatch(index) : null, el("b", { textContent: run.name }), ` (${run.stage}) ${run.done} ${steps ? `of ${steps.value} ` : ""}steps`,
      el("ul", { className: "numbers" }, numbers), run.health.map(text => el("p", { className: "health", textContent: text })), skipped));
  });
}

function showSettings(section) {
  const names = [...new Set(RUNS.flatMap(run => run.settings.map(setting => setting.name)))];
  const of = (run, name) => run.settings.find(setting => setting.name === name);
  const text = setting => setting === undefined ? "" : setting.value === null ? "null" : typeof setting.value === "string" ? setting.value : JSON.stringify(setting.value);
  const table = rows => el("div", { className: "wide", tabIndex: 0, role: "group", "aria-label": "Settings" }, el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col", textContent: "setting" }), RUNS.map((run, index) => el("th", { scope: "col" }, RUNS.length > 1 ? swatch(index) : null, run.name)))),
    el("tbody", {}, rows.map(name => el("tr", {}, el("th", { scope: "row", textContent: name }), RUNS.map(run => el("td", {}, el("div", { className: "cell", textContent: text(of(run, name)) }))))))));
  section.append(el("h3", { textContent: "Other than the defaults" }), table(names.filter(name => RUNS.some(run => of(run, name)?.default === false))));
  section.append(el("details", {}, el("summary", { textContent: "All settings" }), table(names)));
  RUNS.forEach(run => {
    const known = Object.entries(run.environment ?? {}).map(([name, value]) => `${name} ${value}`).join(", ");
    const data = (run.data ?? []).map(report => JSON.stringify(report, null, 1)).join("\n");
    if (known) section.append(el("p", { className: "dim", textContent: `${run.name} ran on: ${known}` }));
    if (data) section.append(el("details", {}, el("summary", { textContent: `Data of ${run.name}` }), el("div", { className: "cell", tabIndex: 0, role: "group", "aria-label": "Data", textContent: data })));
  });
}

const part = id => document.getElementById(id);
part("title").textContent = RUNS.length > 1 ? `${RUNS.length} runs` : `Run ${RUNS[0].name}`;
document.title = `${part("title").textContent} – ppo-lm report`;
part("footer").textContent = `Made by ppo-lm ${DATA.version}. Charts: uPlot, MIT licence.`;
showSummary(part("summary"));
showCurves(part("curves"));
const tokenView = new TokenView(part("tokens"));
showAnswers(part("answers"));
showSettings(part("settings"));
DARK.addEventListener("change", redrawAll);
let waiting = null;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redrawAll, 150); });
