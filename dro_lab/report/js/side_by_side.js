// Several runs on one query: their heat maps, held-out answers and rollouts in columns.

const AT_FIRST = 3;
const MORE = 12;

class SideBySide {
  // `data`: runs (names), chosen (indices), heat (by run, or null), answers and rollouts (tables with a column `run`).
  constructor(root, data) {
    this.data = data;
    this.chosen = new Set(data.chosen);
    this.queries = this.known();
    this.query = this.queries.length ? this.queries[0].name : null;
    const queries = data.heat.flatMap((heat) => (heat ? heat.queries : []));
    this.by = queries.some((query) => query.weight) ? "weight" : "sigma";
    this.columns = el("div", { class: "columns" });
    root.replaceChildren(this.makeControls(measures(queries)), this.columns);
    this.update();
  }

  // Queries that any run knows, those of most runs first.
  known() {
    const found = new Map();
    const add = (name, run, where) => {
      if (!found.has(name)) found.set(name, { name, runs: new Set(), where: new Set(), order: found.size });
      found.get(name).runs.add(run);
      found.get(name).where.add(where);
    };
    const { answers, rollouts, heat } = this.data;
    heat.forEach((map, run) => map && map.queries.forEach((query) =>
      add(query.query, run, query.split === "train" ? "training" : "held-out")));
    for (const [data, where] of [[answers, "held-out"], [rollouts, "training"]]) {
      if (data) data.columns.run.forEach((run, row) => add(text(data, "prompt_id", row), run, where));
    }
    const detail = (query) => query.runs.size * 10 + query.where.size;
    return [...found.values()].sort((a, b) => detail(b) - detail(a) || a.order - b.order);
  }

  makeControls(by) {
    const { data } = this;
    const options = this.queries.map((query) =>
      [query.name, `${query.name} · ${[...query.where].join(", ")} · ${counted(query.runs.size, "run")}`]);
    const controls = [labelled("query", select(options, (value) => { this.query = value; this.update(); }, this.query),
      { class: "control wide" })];
    if (by.length > 1) controls.push(radios("coloured by", by, this.by, (value) => { this.by = value; this.update(); }));
    const boxes = data.runs.map((name, run) => el("label", {}, el("input", {
      type: "checkbox", checked: this.chosen.has(run), onchange: (event) => {
        if (event.target.checked) this.chosen.add(run);
        else this.chosen.delete(run);
        this.update();
      },
    }), ` ${name}`));
    controls.push(el("fieldset", { class: "control wide runs" }, el("legend", {}, "runs"), boxes));
    return el("div", { class: "controls" }, controls);
  }

  update() {
    const runs = [...this.chosen].sort((a, b) => a - b);
    const maps = runs.map((run) => this.maps(run));
    // one scale for all columns, so that equal colours are equal numbers
    const top = Math.max(0, ...maps.flat().map((query) => largest(query, this.by)));
    const columns = runs.map((run, index) => this.column(run, maps[index], top));
    this.columns.replaceChildren(...(columns.length ? columns : [el("p", {}, "No run is chosen.")]));
  }

  maps(run) {
    const heat = this.data.heat[run];
    return heat ? heat.queries.filter((query) => query.query === this.query) : [];
  }

  column(run, maps, top) {
    const parts = [el("h3", {}, this.data.runs[run])];
    if (maps.length) parts.push(this.heatPart(maps, top));
    for (const [name, words] of [["answers", "held-out answers"], ["rollouts", "training rollouts"]]) {
      const table = this.data[name];
      const rows = table ? table.columns.run.flatMap((of, row) =>
        of === run && text(table, "prompt_id", row) === this.query ? [row] : []) : [];
      // what training led to comes first, what it started from last
      rows.sort((a, b) => table.columns.step[b] - table.columns.step[a] || a - b);
      if (rows.length) parts.push(el("h4", {}, `${words}: ${rows.length}`), this.list(table, rows));
    }
    if (parts.length === 1) parts.push(el("p", { class: "soft" }, "This page holds nothing of this run on the query."));
    return el("section", { class: "card column" }, parts);
  }

  heatPart(maps, top) {
    const place = el("div", {});
    const show = (index) => {
      const map = new HeatMap(maps[index], { by: this.by, top });
      place.replaceChildren(map.element, el("p", { class: "soft" }, scale(this.by, top)));
    };
    const options = maps.map((query, index) => [String(index), `step ${query.step}`]);
    const last = maps.length - 1;
    show(last);
    if (maps.length === 1) return el("div", {}, el("h4", {}, `reference, step ${maps[0].step}`), place);
    return el("div", {}, labelled("reference at", select(options, (value) => show(Number(value)), String(last))), place);
  }

  list(table, rows) {
    const made = el("ul", { class: "rows" });
    const add = (count) => {
      const from = made.childElementCount;
      made.append(...rows.slice(from, from + count).map((row) => rowElement(table, row)));
      more.hidden = made.childElementCount >= rows.length;
      more.textContent = `${rows.length - made.childElementCount} more`;
    };
    const more = el("button", { type: "button", onclick: () => {
      const next = made.childElementCount;
      add(MORE);
      made.children[next].querySelector("summary").focus();
    } });
    add(AT_FIRST);
    return el("div", {}, made, more);
  }
}
