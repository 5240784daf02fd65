// Every element with `data-widget` becomes that widget, on the JSON that `data-source` names.

const WIDGETS = {
  heat: heatWidget,
  browser: (root, data) => new Browser(root, data),
  sides: (root, data) => new SideBySide(root, data),
};

for (const root of document.querySelectorAll("[data-widget]")) {
  const data = JSON.parse(document.getElementById(root.dataset.source).textContent);
  WIDGETS[root.dataset.widget](root, data);
}
