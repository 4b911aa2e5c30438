"use strict";
// One response, token by token.

const SIGNED = new Set(["kl", "rewards", "values", "td_errors", "advantages", "returns", "reward_to_go"]);
const MARKS = { "\n": "↵\n", "\t": "⇥\t" };
const SORTS = {
  kept: ["as kept", () => 0],
  best: ["highest score", (a, b) => b.score - a.score],
  worst: ["lowest score", (a, b) => a.score - b.score],
  longest: ["longest", (a, b) => length(b) - length(a)],
  kl: ["highest KL", (a, b) => total(b, "kl") - total(a, "kl")],
};

function length(response) {
  return response.sampled.reduce((sum, one) => sum + one, 0);
}

function total(response, name) {
  return (response.numbers[name] ?? []).reduce((sum, value) => sum + (value ?? 0), 0);
}

class TokenView {
  constructor(section) {
    this.run = RUNS.findIndex(run => run.tokens.steps.length);
    if (this.run < 0) {
      section.append(el("p", { className: "dim", textContent: "No tokens were kept; PPO runs do with token_samples_every." }));
      return;
    }
    this.step = RUNS[this.run].tokens.steps.length - 1;
    this.name = "advantages";
    this.sort = "kept";
    this.filter = "";
    this.response = null;
    this.token = 0;
    this.runs = this.select("run", "Run");
    this.steps = this.select("step", "Step");
    this.names = this.select("name", "Colour");
    this.sorts = this.select("sort", "Order");
    this.search = el("input", { type: "search", placeholder: "text" });
    this.search.addEventListener("input", () => { this.filter = this.search.value; this.showList(); });
    this.list = el("ul", { className: "list", "aria-label": "Responses" });
    this.count = el("p", { className: "dim", role: "status" });
    this.prompt = el("div", { className: "text prompt", tabIndex: 0, role: "group", "aria-label": "Prompt" });
    this.tokens = el("div", { className: "text response", role: "listbox", tabIndex: 0, "aria-label": "Tokens of the response", "aria-orientation": "horizontal" });
    this.tokens.addEventListener("keydown", event => this.press(event));
    this.sums = el("p", { className: "dim" });
    this.legend = el("div", { className: "legend" });
    this.detail = el("div", { className: "detail", role: "region", "aria-live": "polite", "aria-label": "The chosen token" });
    const label = (text, control) => el("label", {}, text, control);
    section.append(
      el("p", { className: "dim" }, "Each token is coloured by one number. Point at a token, or use ", el("kbd", { textContent: "←" }), " ", el("kbd", { textContent: "→" }),
        " in the response, to read all of them; ", el("kbd", { textContent: "↑" }), " ", el("kbd", { textContent: "↓" }), " change the response."),
      el("div", { className: "controls" }, RUNS.length > 1 ? label("Run", this.runs) : null, label("Step", this.steps), label("Colour by", this.names), label("Order", this.sorts), label("Filter", this.search)),
      el("div", { className: "tokens" }, el("div", {}, this.list, this.count), el("div", {}, this.prompt, this.tokens, this.legend, this.sums), this.detail),
    );
    options(this.runs, RUNS.map((run, index) => [index, run.name]).filter(([index]) => RUNS[index].tokens.steps.length));
    options(this.sorts, Object.entries(SORTS).map(([key, [text]]) => [key, text]));
    this.chooseRun();
  }

  select(field, label) {
    const made = el("select", { "aria-label": label });
    made.addEventListener("change", () => {
      this[field] = ["run", "step"].includes(field) ? Number(made.value) : made.value;
      if (field === "run") this.chooseRun();
      else if (field === "name") this.colourAll();
      else this.showList();
    });
    return made;
  }

  get kept() { return RUNS[this.run].tokens.steps; }
  get titles() { return RUNS[this.run].tokens.numbers; }

  chooseRun() {
    this.runs.value = this.run;
    this.step = Math.min(this.step, this.kept.length - 1);
    options(this.steps, this.kept.map((step, index) => [index, step.step]));
    const there = new Set(this.kept.flatMap(step => step.responses.flatMap(response => Object.keys(response.numbers))));
    const names = Object.entries(this.titles).filter(([name]) => there.has(name));
    if (!there.has(this.name)) this.name = names[0][0];
    options(this.names, names);
    this.names.value = this.name;
    this.showList();
  }

  showList() {
    this.steps.value = this.step;
    const all = this.kept[this.step].responses, wanted = this.filter.toLowerCase();
    this.shown = all.filter(({ prompt, completion }) => `${promptText(prompt)}\n${completion}`.toLowerCase().includes(wanted));
    this.shown = [...this.shown].sort(SORTS[this.sort][1]);
    this.list.replaceChildren(...this.shown.map(response => {
      const button = el("button", { type: "button" }, el("span", { textContent: response.completion.trim().slice(0, 120) || "(no text)", dir: "auto" }),
        el("span", { className: "dim", textContent: `score ${number(response.score, 3)} · KL ${number(total(response, "kl"), 3)} · ${length(response)} tokens` }));
      button.addEventListener("click", () => this.showResponse(response));
      return el("li", {}, button);
    }));
    this.count.textContent = `${this.shown.length} of ${all.length} responses of step ${this.kept[this.step].step}`;
    this.showResponse(this.shown.includes(this.response) ? this.response : this.shown[0] ?? null);
  }

  showResponse(response) {
    this.response = response;
    this.token = 0;
    [...this.list.querySelectorAll("button")].forEach((button, index) => button.setAttribute("aria-pressed", this.shown[index] === response));
    this.prompt.textContent = response ? response.prompt_pieces.join("") : "";
    this.spans = response ? response.pieces.map((piece, index) => this.makeToken(piece, index)) : [];
    this.tokens.replaceChildren(...this.spans);
    this.colourAll();
    this.showSums();
    this.showToken(0);
  }

  makeToken(piece, index) {
    const shown = piece in MARKS ? MARKS[piece] : piece;
    const made = el("span", { className: "token", role: "option", id: `token-${index}` });
    made.textContent = shown === "" ? "" : shown;
    if (shown === "") made.append(el("span", { className: "mark", textContent: "·" }));
    if (!this.response.sampled[index]) made.classList.add("observed");
    made.addEventListener("mouseenter", () => this.showToken(index));
    made.addEventListener("click", () => this.showToken(index));
    return made;
  }

  // The range of the chosen number over the step, so that responses can be compared.
  range() {
    const values = this.kept[this.step].responses.flatMap(response => (response.numbers[this.name] ?? []).filter((value, index) => response.sampled[index] && value !== null));
    const low = Math.min(...values), high = Math.max(...values);
    return { low, high, signed: SIGNED.has(this.name), size: Math.max(Math.abs(low), Math.abs(high)) };
  }

  shade(value, range) {
    if (this.name === "ratios") return value >= 1 ? ["warm", Math.min(1, Math.log2(value) / 0.5)] : ["cool", Math.min(1, -Math.log2(value) / 0.5)];
    if (range.signed) return [value >= 0 ? "warm" : "cool", range.size ? Math.abs(value) / range.size : 0];
    return ["warm", range.high > range.low ? (value - range.low) / (range.high - range.low) : 0];
  }

  colourAll() {
    this.names.value = this.name;
    if (!this.response) { this.legend.replaceChildren(); return; }
    const range = this.range(), numbers = this.response.numbers[this.name] ?? [];
    this.spans.forEach((span, index) => {
      const value = numbers[index];
      if (!this.response.sampled[index] || value === null || value === undefined) { span.style.background = ""; return; }
      const [hue, strength] = this.shade(value, range);
      span.style.background = `rgba(var(--${hue}), ${(0.55 * Math.sqrt(strength)).toFixed(3)})`;
    });
    const bar = el("i");
    const both = range.signed || this.name === "ratios";
    bar.style.background = both ? "linear-gradient(to right, rgba(var(--cool), .55), transparent, rgba(var(--warm), .55))" : "linear-gradient(to right, transparent, rgba(var(--warm), .55))";
    const ends = this.name === "ratios" ? ["≤ 0.71", "≥ 1.41"] : range.signed ? [number(-range.size, 3), number(range.size, 3)] : [number(range.low, 3), number(range.high, 3)];
    this.legend.replaceChildren(el("span", { textContent: this.titles[this.name] }), el("span", { textContent: ends[0] }), bar, el("span", { textContent: ends[1] }));
  }

  showSums() {
    const response = this.response;
    if (!response) { this.sums.textContent = "No response matches."; return; }
    const coef = this.kept[this.step].kl_coef, parts = Object.entries(response.rewards).map(([name, value]) => `${name} ${number(value, 3)}`);
    const columns = Object.entries(response.columns).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
    this.sums.replaceChildren(
      `Score ${number(response.score)} − ${number(coef)} × KL ${number(total(response, "kl"))} = ${number(response.score - coef * total(response, "kl"))}; rewards add up to ${number(total(response, "rewards"))}.`,
      ` ${response.ended ? "Ended." : "Cut off at the limit."}`, parts.length ? ` ${parts.join(", ")}.` : "",
      ...(columns.length ? [el("br"), el("span", { className: "cell", textContent: columns.join("\n") })] : []),
    );
  }

  showToken(index) {
    this.spans[this.token]?.setAttribute("aria-selected", false);
    this.token = index;
    const span = this.spans[index];
    if (!span) { this.detail.replaceChildren(); this.tokens.removeAttribute("aria-activedescendant"); return; }
    span.setAttribute("aria-selected", true);
    this.tokens.setAttribute("aria-activedescendant", span.id);
    const response = this.response, sampled = response.sampled[index], vocabulary = this.kept[this.step].vocabulary;
    const heading = el("h3", {}, `Token ${index + 1} of ${response.pieces.length}: `, el("bdi", { textContent: JSON.stringify(response.pieces[index]) }));
    if (!sampled) {
      this.detail.replaceChildren(heading, el("p", { textContent: "Observed, not sampled: it has no numbers." }));
      return;
    }
    const rows = Object.entries(this.titles).filter(([name]) => name in response.numbers).map(([name, title]) =>
      el("tr", {}, el("th", { scope: "row", textContent: title }), el("td", { className: "number", textContent: number(response.numbers[name][index], 6), "data-number": name })));
    this.detail.replaceChildren(heading, el("table", {}, el("tbody", {}, rows)), ...Object.entries(response.choices).map(([who, places]) => this.choices(who, places[index], vocabulary)));
  }

  choices(who, choices, vocabulary) {
    const rows = choices.map(([token, logprob]) => el("tr", {}, el("td", {}, el("bdi", { textContent: JSON.stringify(vocabulary[token] ?? `#${token}`) })),
      el("td", { className: "number", textContent: `${(100 * Math.exp(logprob)).toPrecision(3)}%` })));
    const head = el("thead", {}, el("tr", {}, el("th", { scope: "col", textContent: `Most likely under the ${who}` }), el("th", { scope: "col", className: "number", textContent: "share" })));
    return el("table", {}, head, el("tbody", {}, rows));
  }

  press(event) {
    const last = this.spans.length - 1, place = this.shown.indexOf(this.response);
    const moves = { ArrowLeft: Math.max(this.token - 1, 0), ArrowRight: Math.min(this.token + 1, last), Home: 0, End: last };
    if (event.key in moves) this.showToken(moves[event.key]);
    else if (event.key === "ArrowDown" && place < this.shown.length - 1) this.showResponse(this.shown[place + 1]);
    else if (event.key === "ArrowUp" && place > 0) this.showResponse(this.shown[place - 1]);
    else return;
    event.preventDefault();
    this.spans[this.token]?.scrollIntoView({ block: "nearest" });
  }
}
