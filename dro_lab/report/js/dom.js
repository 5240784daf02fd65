"use strict";
// Building the page. Text enters as text nodes alone, never as markup: what a policy wrote is shown and not run.

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

let ids = 0;
function freshId(prefix) {
  ids += 1;
  return `${prefix}-${ids}`;
}

function labelled(words, control, attributes) {
  control.id = control.id || freshId("control");
  return el("div", { class: "control", ...attributes }, el("label", { for: control.id }, words), control);
}

function select(options, onchange, chosen) {
  const made = el("select", { onchange: () => onchange(made.value) });
  for (const [value, words] of options) made.append(el("option", { value, selected: value === chosen }, words));
  return made;
}

// A choice of one among a few: a fieldset of radio buttons, which the arrow keys move through.
function radios(legend, options, chosen, onchange) {
  const name = freshId("choice");
  return el(
    "fieldset",
    { class: "control radios" },
    el("legend", {}, legend),
    options.map(([value, words]) =>
      el(
        "label",
        {},
        el("input", { type: "radio", name, value, checked: value === chosen, onchange: () => onchange(value) }),
        ` ${words}`,
      ),
    ),
  );
}

function number(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size !== 0 && size < 0.5 * 10 ** -digits ? value.toExponential(1) : value.toFixed(digits);
}

function counted(count, words) {
  return `${count.toLocaleString("en")} ${words}${count === 1 ? "" : "s"}`;
}

function later(milliseconds, run) {
  let waiting = null;
  return () => {
    clearTimeout(waiting);
    waiting = setTimeout(run, milliseconds);
  };
}
