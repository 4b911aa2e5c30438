"use strict";
// How the answers to held-out prompts changed over the run.

function showAnswers(section) {
  const any = RUNS.some(run => run.answers.length);
  if (!any) {
    section.append(el("p", { className: "dim", textContent: "No answers were kept; PPO runs keep some with eval_prompts." }));
    return;
  }
  const prompts = el("select", { "aria-label": "Prompt" }), kinds = el("select", { "aria-label": "Sampling" });
  const body = el("div");
  const all = [...new Map(RUNS.flatMap(run => run.answers.map(entry => [promptText(entry.prompt), entry.prompt]))).entries()];
  const names = [...new Set(RUNS.flatMap(run => run.answers.flatMap(entry => entry.answers.map(answer => answer.evaluation))))];
  options(prompts, all.map(([text], index) => [index, `${index + 1}: ${text.trim().slice(0, 70)}`]));
  options(kinds, names.map(name => [name, name.replaceAll("_", " ")]));
  const show = () => {
    const text = all[Number(prompts.value)][0];
    const rows = RUNS.flatMap((run, index) => run.answers.filter(entry => promptText(entry.prompt) === text).flatMap(entry =>
      entry.answers.filter(answer => answer.evaluation === kinds.value).map(answer => answerRow(index, answer))));
    const heads = [...(RUNS.length > 1 ? ["run"] : []), "step", "score", "answer"];
    body.replaceChildren(
      el("div", { className: "text prompt", tabIndex: 0, role: "group", "aria-label": "Prompt", textContent: text }),
      el("div", { className: "wide", tabIndex: 0, role: "group", "aria-label": "Answers" },
        el("table", { className: "answers" }, el("thead", {}, el("tr", {}, heads.map(head => el("th", { scope: "col", textContent: head })))), el("tbody", {}, rows))),
    );
  };
  for (const control of [prompts, kinds]) control.addEventListener("change", show);
  section.append(el("div", { className: "controls" }, el("label", {}, "Prompt", prompts), el("label", {}, "Sampling", kinds)), body);
  show();
}

function answerRow(run, answer) {
  const parts = Object.entries(answer.rewards).map(([name, value]) => `${name} ${number(value, 3)}`);
  return el("tr", {}, RUNS.length > 1 ? el("td", {}, swatch(run), RUNS[run].name) : null, el("td", { textContent: answer.step }),
    el("td", {}, number(answer.score, 3), parts.length ? el("div", { className: "dim", textContent: parts.join(", ") }) : null),
    el("td", {}, el("div", { className: "cell", textContent: answer.completion.trim() || "(no text)", dir: "auto" })));
}
