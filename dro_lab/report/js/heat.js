// The heat map: a reference's tokens, darker where the chosen number is larger, as a share of the largest shown.

const LEVELS = 10;
const MEASURES = { weight: "weight", sigma: "sigma" };

function largest(query, by) {
  return Math.max(0, ...(query[by] || []).filter((value) => value !== null));
}

class HeatMap {
  // `query`: tokens, sigma, weight (or null), prob and truth, as dro_lab.report.heat writes them.
  constructor(query, { by, top }) {
    this.query = query;
    this.numbers = el("p", { class: "numbers", "aria-live": "polite" });
    this.map = el("div", {
      class: "reference",
      role: "listbox",
      tabindex: 0,
      "aria-label": "tokens of the reference; the arrow keys move, the numbers stand below",
      onkeydown: (event) => this.key(event),
      onmouseover: (event) => this.point(event),
      onclick: (event) => this.point(event),
      onfocus: () => this.activate(Math.max(this.active, 0)),
    });
    this.tokens = query.tokens.map((text, index) => this.token(text, index));
    this.map.append(...this.tokens);
    this.active = -1;
    this.element = el("div", { class: "heat" }, this.map, this.numbers);
    this.paint(by, top);
  }

  token(text, index) {
    const space = text.slice(0, text.length - text.trimStart().length);
    const made = el("span", { role: "option", id: freshId("token"), "data-index": index, "aria-selected": "false" });
    if (text.trim() === "") made.setAttribute("aria-label", text.includes("\n") ? "line break" : "white space");
    if (this.query.truth[index]) made.classList.add("truth");
    made.append(space, el("span", { class: "ink" }, text.slice(space.length)));
    return made;
  }

  paint(by, top) {
    const values = this.query[by];
    this.tokens.forEach((token, index) => {
      const value = values ? values[index] : null;
      const level = value === null || !top ? 0 : Math.round((LEVELS * value) / top);
      token.querySelector(".ink").className = `ink h${Math.min(LEVELS, Math.max(0, level))}`;
    });
    this.numbers.textContent = "Point at a token, or move through them with the arrow keys.";
    if (this.active >= 0) this.activate(this.active);
  }

  activate(index) {
    const { query } = this;
    if (this.active >= 0) this.tokens[this.active].setAttribute("aria-selected", "false");
    this.active = Math.min(Math.max(index, 0), this.tokens.length - 1);
    const token = this.tokens[this.active];
    token.setAttribute("aria-selected", "true");
    this.map.setAttribute("aria-activedescendant", token.id);
    const known = query.truth[this.active];
    const parts = [
      `${this.active + 1} of ${this.tokens.length}: “${query.tokens[this.active].trim() || "white space"}”`,
      query.weight ? `weight ${number(query.weight[this.active], 3)}` : "the reward has no weight for it",
      `sigma ${number(query.sigma[this.active], 3)}`,
      `mean probability ${number(query.prob[this.active], 2)}`,
    ];
    if (known !== null) parts.push(known ? "depends on the reasoning's result" : "does not depend on the result");
    this.numbers.textContent = parts.join(" · ");
  }

  point(event) {
    const token = event.target.closest("[data-index]");
    if (token) this.activate(Number(token.dataset.index));
  }

  key(event) {
    const move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
    if (move) this.activate(this.active + move);
    else if (event.key === "Home") this.activate(0);
    else if (event.key === "End") this.activate(this.tokens.length - 1);
    else return;
    event.preventDefault();
  }
}

function measures(queries) {
  return queries.some((query) => query.weight)
    ? [["weight", MEASURES.weight], ["sigma", MEASURES.sigma]]
    : [["sigma", MEASURES.sigma]];
}

function scale(by, top) {
  return [
    `light is 0`,
    el("span", { class: "scale", role: "img", "aria-label": "from light to dark" }),
    `dark is ${number(top, 3)}, the largest ${MEASURES[by]} shown.`,
  ];
}

function queryName(query) {
  return `step ${query.step} · ${query.split === "train" ? "training" : `held-out (${query.split})`} · ${query.query}`;
}

// One run's heat maps: choose the query and what colours it.
function heatWidget(root, data) {
  const queries = data.queries;
  const first = root.dataset.by || "sigma";
  let chosen = 0;
  let by = measures(queries).some(([name]) => name === first) ? first : "sigma";
  const legend = el("p", { class: "soft" });
  const place = el("div", { class: "card" });
  let map = null;

  function show() {
    const top = largest(queries[chosen], by);
    map = new HeatMap(queries[chosen], { by, top });
    legend.replaceChildren(...scale(by, top));
    place.replaceChildren(map.element);
  }

  const options = queries.map((query, index) => [String(index), queryName(query)]);
  const query = select(options, (value) => { chosen = Number(value); show(); }, String(chosen));
  const controls = [labelled("query", query, { class: "control wide" })];
  if (measures(queries).length > 1) {
    controls.push(radios("coloured by", measures(queries), by, (value) => {
      by = value;
      const top = largest(queries[chosen], by);
      map.paint(by, top);
      legend.replaceChildren(...scale(by, top));
    }));
  }
  root.replaceChildren(el("div", { class: "controls" }, controls), place, legend);
  show();
}
