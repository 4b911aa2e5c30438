"use strict";
// Every metric by step, all runs in one chart.

const GROUPS = {
  "Loss": ["loss"],
  "Reward": ["score", "monitor", /^reward\//, "score_std"],
  "Distance from the reference": ["kl", "kl_coef", "kl_loss", "entropy"],
  "Value model": ["explained_variance", "value_loss", "value_clip_fraction", "value_grad_norm"],
  "Responses": ["length", "ended", "empty"],
  "Policy": ["policy_loss", "ratio", "clip_fraction", "approx_kl", "policy_grad_norm", "sampler_gap", "learning_rate"],
  "Speed and memory": ["tokens_per_second", /^seconds/, "peak_memory_mib"],
};
const FOLDED = new Set(["Policy", "Responses", "Speed and memory"]);
const TITLES = {
  score: "reward (mean score)", monitor: "monitor, never trained on", score_std: "standard deviation of the score",
  kl: "KL, nats per response", kl_coef: "KL coefficient", entropy: "entropy, nats per token", length: "tokens per response",
  ended: "share that ended", empty: "share without text", explained_variance: "explained variance",
  tokens_per_second: "tokens per second", peak_memory_mib: "peak memory, MiB", seconds: "seconds per step",
};
const HEIGHT = 170;
const SMOOTHED = 20;  // a bold line is the mean over a twentieth of the run
const charts = [];

function showCurves(section) {
  const names = [...new Set(RUNS.flatMap(run => Object.keys(run.series)))];
  const shown = new Set();
  for (const [title, wanted] of Object.entries(GROUPS)) {
    const found = wanted.flatMap(want => names.filter(name => want instanceof RegExp ? want.test(name) : want === name));
    found.forEach(name => shown.add(name));
    const extra = title === "Value model" ? positionCharts() : [];
    addGroup(section, title, [...found.map(name => stepChart(name)), ...extra], FOLDED.has(title));
  }
  addGroup(section, "Held-out prompts", evaluationCharts());
  addGroup(section, "Other metrics", names.filter(name => !shown.has(name)).map(name => stepChart(name)), true);
}

function addGroup(section, title, specs, folded = false) {
  const wanted = specs.filter(spec => spec.lines.some(line => line.values.some(value => value !== null)));
  if (!wanted.length) return;
  const box = el("div", { className: "charts" });
  if (folded) {
    const details = el("details", {}, el("summary", { textContent: title }), box);
    details.addEventListener("toggle", () => details.open && !box.childElementCount && wanted.forEach(spec => addChart(box, spec)));
    section.append(details);
    return;
  }
  section.append(el("h3", { textContent: title }), box);
  wanted.forEach(spec => addChart(box, spec));
}

function stepChart(name) {
  const lines = RUNS.map((run, index) => ({ run: index, steps: run.steps, values: run.series[name] ?? run.steps.map(() => null) }));
  return { title: TITLES[name] ?? name, unit: "step", lines, smooth: true };
}

function evaluationCharts() {
  const made = {};
  RUNS.forEach((run, index) => {
    for (const evaluation of run.evaluations) {
      for (const [metric, value] of Object.entries(evaluation.means)) {
        const title = `${TITLES[metric] ?? metric}, ${evaluation.name.replaceAll("_", " ")}`;
        const spec = made[title] ??= { title, unit: "step", lines: [], points: true };
        const line = spec.lines.find(line => line.run === index) ?? (spec.lines.push({ run: index, steps: [], values: [] }), spec.lines.at(-1));
        line.steps.push(evaluation.step);
        line.values.push(value);
      }
    }
  });
  return Object.values(made);
}

function positionCharts() {
  const lines = RUNS.map((run, index) => ({
    run: index, steps: run.explained_by_position.map((_, tenth) => tenth + 1), values: run.explained_by_position,
  }));
  return [{ title: "explained variance by tenth of the response (later half of the run)", unit: "tenth", lines, points: true }];
}

function smoothed(values) {
  const width = Math.max(1, Math.floor(values.length / SMOOTHED));
  return values.map((_, end) => {
    const known = values.slice(Math.max(0, end - width + 1), end + 1).filter(value => value !== null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  });
}

// The lines of a chart on one axis: for each run the values and, with `smooth`, their running means.
function tables(spec) {
  const steps = [...new Set(spec.lines.flatMap(line => line.steps))].sort((a, b) => a - b);
  const rows = spec.lines.flatMap(line => {
    const place = new Map(line.steps.map((step, index) => [step, index]));
    const spread = values => steps.map(step => place.has(step) ? values[place.get(step)] : null);
    return spec.smooth ? [spread(line.values), spread(smoothed(line.values))] : [spread(line.values)];
  });
  return [steps, ...rows];
}

function addChart(box, spec) {
  const readout = el("div", { className: "readout" });
  const place = el("div", { role: "img", "aria-label": describe(spec) });
  box.append(el("figure", {}, el("figcaption", { textContent: spec.title }), place, readout));
  const chart = { spec, place, readout, plot: null };
  charts.push(chart);
  draw(chart);
}

function describe(spec) {
  const lines = spec.lines.map(line => {
    const known = line.values.map((value, index) => [line.steps[index], value]).filter(([, value]) => value !== null);
    if (!known.length) return null;
    const [first, last] = [known[0], known.at(-1)];
    return `${RUNS[line.run].name} from ${number(first[1])} at ${spec.unit} ${first[0]} to ${number(last[1])} at ${spec.unit} ${last[0]}`;
  });
  return `${spec.title}: ${lines.filter(Boolean).join("; ")}`;
}

function draw(chart) {
  const { spec, place, readout } = chart;
  const width = Math.max(place.clientWidth, 200), text = css("--dim"), line = css("--line");
  const data = tables(spec), perRun = spec.smooth ? 2 : 1;
  const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "11px system-ui" };
  const series = spec.lines.flatMap(({ run }) => {
    const raw = { stroke: colour(run) + (spec.smooth ? "66" : ""), width: spec.smooth ? 1 : 2, spanGaps: true, points: { show: Boolean(spec.points), size: 6 } };
    return spec.smooth ? [raw, { stroke: colour(run), width: 2, spanGaps: true, points: { show: data[0].length === 1 } }] : [raw];
  });
  const say = plot => {
    const at = plot.cursor.idx;
    const told = at === null || at === undefined ? [] : spec.lines.map(({ run }, index) => {
      const value = data[1 + index * perRun][at];
      return value === null ? null : `${RUNS.length > 1 ? RUNS[run].name + " " : ""}${number(value)}`;
    }).filter(Boolean);
    readout.textContent = told.length ? `${spec.unit} ${data[0][at]}: ${told.join(", ")}` : "";
  };
  const settings = {
    width, height: HEIGHT, legend: { show: false }, scales: { x: { time: false } },
    cursor: { sync: spec.unit === "step" ? { key: "steps" } : undefined, drag: { x: true, y: false } },
    axes: [{ ...axis, size: 24 }, { ...axis, size: (_, labels) => 16 + 7 * Math.max(...(labels ?? []).map(label => label.length), 4), values: (_, ticks) => ticks.map(tick => number(tick)) }],
    series: [{}, ...series], hooks: { setCursor: [say] },
  };
  chart.plot?.destroy();
  chart.plot = new uPlot(settings, data, place);
}

function redrawAll() {
  charts.forEach(draw);
}
