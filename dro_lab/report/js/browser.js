// The browser of rollouts or answers: filter, sort, and a page of rows at a time; a row's texts are made when it opens.

const TEXTS = ["prompt", "reasoning", "answer", "reference"];
const PAGE = 20;

function text(data, name, row) {
  const column = data.columns[name];
  return column ? data.strings[column[row]] : "";
}

function pill(words, good) {
  return el("span", { class: good === true ? "pill good" : good === false ? "pill bad" : "pill" }, words);
}

function summaryOf(data, row) {
  const { columns } = data;
  const parts = [el("span", {}, "step ", el("b", {}, number(columns.step[row])))];
  if (columns.split) parts.push(el("span", {}, `${text(data, "split", row)}, ${text(data, "decoding", row)}`));
  if (columns.reward) parts.push(el("span", {}, "reward ", el("b", {}, number(columns.reward[row], 3))));
  if (columns.quality) {
    const quality = columns.quality[row];
    parts.push(pill(`quality ${number(quality)}`, quality === null ? null : quality >= 0.999 ? true : null));
  }
  if (columns.kept) {
    const kept = text(data, "kept", row) === "yes";
    parts.push(pill(kept ? "kept" : "not kept", kept ? true : false));
  }
  for (const flag of ["truncated", "malformed"]) if (columns[flag][row]) parts.push(pill(flag, false));
  parts.push(el("span", { class: "preview" }, text(data, "answer", row).trim().slice(0, 160) || "(empty answer)"));
  return parts;
}

function block(title, content) {
  return el("div", {}, el("p", { class: "head" }, title), content);
}

const VERDICTS = { 1: "✓ met", 0: "✗ not met", "-1": "? no verdict" };

function verdictRow([check, verdict, expected]) {
  const words = expected === "yes" ? check : `${check} (a good answer: ${expected})`;
  return el("tr", {}, el("td", {}, words), el("td", {}, VERDICTS[String(verdict)] || String(verdict)));
}

function detailsOf(data, row) {
  const { columns } = data;
  const written = (name) => block(name, el("div", { class: "text" }, text(data, name, row) || "(empty)"));
  const facts = [["query", text(data, "prompt_id", row)]];
  for (const [name, words] of Object.entries(data.numbers)) facts.push([words, number(columns[name][row], 3)]);
  for (const [name, value] of columns.parts ? columns.parts[row] : []) facts.push([`reward part ${name}`, number(value, 3)]);
  const numbers = facts.map(([words, value]) => el("span", {}, `${words} `, el("b", {}, value)));
  const verdicts = columns.verdicts ? columns.verdicts[row] : [];
  const judged = verdicts.length ? block("verdicts on the answer", el("table", { class: "verdicts" }, verdicts.map(verdictRow))) : null;
  return el("div", { class: "opened" },
    el("div", { class: "facts-line" }, numbers),
    columns.kept ? el("p", { class: "why" }, keptWords(data, row)) : null,
    el("div", { class: "blocks" },
      el("div", { class: "block" }, written("prompt"), written("reasoning")),
      el("div", { class: "block" }, written("answer"), written("reference"), judged)));
}

function keptWords(data, row) {
  if (text(data, "kept", row) === "yes") return "Kept: it taught.";
  return `Not kept: ${text(data, "reason", row) || "no reason was recorded"}.`;
}

function rowElement(data, row) {
  const made = el("details", { class: "card row" }, el("summary", {}, summaryOf(data, row)));
  made.addEventListener("toggle", () => {
    if (made.open && made.children.length === 1) made.append(detailsOf(data, row));
  });
  return el("li", {}, made);
}

class Filters {
  constructor(data) {
    this.data = data;
    this.search = "";
    this.choices = {};
    this.ranges = {};
    this.sort = data.sorts[0] || null;
    this.descending = false;
    this.lower = null;
  }

  rows() {
    const { data } = this;
    let rows = Array.from({ length: data.count }, (_, row) => row);
    const wanted = this.search.trim().toLowerCase();
    if (wanted) {
      this.lower = this.lower || data.strings.map((string) => string.toLowerCase());
      const found = this.lower.map((string) => string.includes(wanted));
      const columns = [...TEXTS, "prompt_id", "reason"].filter((name) => data.columns[name]);
      rows = rows.filter((row) => columns.some((name) => found[data.columns[name][row]]));
    }
    for (const [name, value] of Object.entries(this.choices)) {
      if (value !== "") rows = rows.filter((row) => String(data.columns[name][row]) === value);
    }
    for (const [name, [low, high]] of Object.entries(this.ranges)) {
      const column = data.columns[name];
      if (low !== null) rows = rows.filter((row) => column[row] !== null && column[row] >= low);
      if (high !== null) rows = rows.filter((row) => column[row] !== null && column[row] <= high);
    }
    const column = data.columns[this.sort];
    if (!column) return rows;
    const sign = this.descending ? -1 : 1;
    return rows.sort((a, b) => {
      if (column[a] === null || column[b] === null) return (column[a] === null) - (column[b] === null) || a - b;
      return sign * (column[a] - column[b]) || a - b;
    });
  }
}

class Browser {
  constructor(root, data) {
    this.data = data;
    this.filters = new Filters(data);
    this.page = 0;
    this.status = el("p", { class: "status", role: "status" });
    this.list = el("ul", { class: "rows" });
    this.pager = this.makePager();
    root.replaceChildren(this.makeControls(), this.status, this.list, this.pager);
    this.update();
  }

  changed() {
    this.page = 0;
    this.update();
  }

  makeControls() {
    const { data, filters } = this;
    const waited = later(120, () => this.changed());
    const search = el("input", { type: "search", autocomplete: "off", oninput: () => {
      filters.search = search.value;
      waited();
    } });
    const controls = [labelled("text in prompt, reasoning, answer or reference", search, { class: "control wide" })];
    for (const [name, words] of Object.entries(data.choices)) {
      const values = [...new Set(data.columns[name])];
      if (values.length < 2) continue;
      const options = [["", "any"], ...values.map((value) => [String(value), this.choiceWords(name, value)])];
      controls.push(labelled(words, select(options, (value) => { filters.choices[name] = value; this.changed(); }, "")));
    }
    for (const name of data.ranges) controls.push(this.makeRange(name));
    const orders = data.sorts.flatMap((name) => [
      [`${name} up`, `${data.numbers[name]}, lowest first`],
      [`${name} down`, `${data.numbers[name]}, highest first`],
    ]);
    controls.push(labelled("order", select(orders, (value) => {
      const [name, direction] = value.split(" ");
      Object.assign(filters, { sort: name, descending: direction === "down" });
      this.changed();
    }, orders.length ? orders[0][0] : "")));
    return el("div", { class: "controls", role: "search", "aria-label": `filter the ${data.noun}` }, controls);
  }

  choiceWords(name, value) {
    return name === "run" ? this.data.runs[value] : this.data.strings[value];
  }

  makeRange(name) {
    const { data, filters } = this;
    const values = data.columns[name].filter((value) => value !== null);
    const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
    const waited = later(120, () => this.changed());
    const inputs = [["lowest", low], ["highest", high]].map(([end, bound], index) => {
      const input = el("input", {
        type: "number", step: "any", placeholder: number(bound), "aria-label": `${end} ${data.numbers[name]}`,
        oninput: () => {
          filters.ranges[name] = filters.ranges[name] || [null, null];
          filters.ranges[name][index] = input.value === "" ? null : Number(input.value);
          waited();
        },
      });
      return input;
    });
    return el("fieldset", { class: "control range" }, el("legend", {}, data.numbers[name]), inputs[0], " to ", inputs[1]);
  }

  makePager() {
    const go = (words, to) => {
      const button = el("button", { type: "button", onclick: () => {
        const target = to();
        if (target !== this.page) { this.page = target; this.update(); }
      } }, words);
      button.idle = () => to() === this.page;
      return button;
    };
    const last = () => Math.max(0, Math.ceil(this.found.length / PAGE) - 1);
    this.buttons = [
      go("first", () => 0),
      go("previous", () => Math.max(0, this.page - 1)),
      go("next", () => Math.min(last(), this.page + 1)),
      go("last", last),
    ];
    this.where = el("span", {});
    const all = el("button", { type: "button", onclick: () => {
      const rows = [...this.list.querySelectorAll("details")];
      const open = rows.some((row) => !row.open);
      for (const row of rows) row.open = open;
    } }, "open or close all on this page");
    return el("nav", { class: "pager", "aria-label": `pages of ${this.data.noun}` }, this.buttons, this.where, all);
  }

  update() {
    const { data } = this;
    this.found = this.filters.rows();
    const from = this.page * PAGE;
    const shown = this.found.slice(from, from + PAGE);
    const here = `${data.count.toLocaleString("en")} ${data.noun} on this page`;
    const pages = Math.max(1, Math.ceil(this.found.length / PAGE));
    this.status.textContent = this.found.length
      ? `${from + 1} to ${from + shown.length} of ${this.found.length.toLocaleString("en")} that match, of ${here}.`
      : `Nothing matches, of ${here}.`;
    this.where.textContent = `page ${this.page + 1} of ${pages}`;
    this.list.replaceChildren(...shown.map((row) => rowElement(data, row)));
    // a button that cannot go on keeps the focus, so that the keyboard's place on the page is not lost
    for (const button of this.buttons) button.setAttribute("aria-disabled", String(button.idle()));
  }
}
