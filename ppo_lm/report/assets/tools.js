"use strict";
// What the other programs of the page share.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs;
const COLOURS = {  // told apart with any colour vision (Okabe and Ito)
  light: ["#0072b2", "#d55e00", "#008763", "#a8457c", "#7a6a00", "#3a8fc4", "#444444"],
  dark: ["#56b4e9", "#e69f00", "#2fc79a", "#e08abd", "#f0e442", "#8ab8ff", "#cccccc"],
};
const DARK = matchMedia("(prefers-color-scheme: dark)");

function colour(run) {
  const all = COLOURS[DARK.matches ? "dark" : "light"];
  return all[run % all.length];
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// An element with properties and children; texts become text, never markup.
function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.flat().filter(child => child !== null && child !== undefined));
  return made;
}

function swatch(run) {
  const made = el("span", { className: "swatch" });
  made.style.background = colour(run);
  return made;
}

function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}

function promptText(prompt) {
  return typeof prompt === "string" ? prompt : prompt.map(turn => `${turn.role}: ${turn.content}`).join("\n");
}

function options(select, entries) {
  select.replaceChildren(...entries.map(([value, text]) => el("option", { value, textContent: text })));
}
