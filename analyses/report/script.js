"use strict";
(function () {
  const root = document.documentElement;
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const plots = new Map();
  // A finger scrolls, a pointer zooms: without a pointer the figures stay still and bare.
  const pointer = matchMedia("(hover: hover)").matches;
  const config = {
    responsive: true, displaylogo: false, displayModeBar: pointer ? "hover" : false, showSendToCloud: false,
    plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };

  // What a figure leaves open, the theme decides: text, grid, hover box and the sequential scale.
  function dress(layout, theme) {
    const out = structuredClone(layout);
    const t = themes[theme];
    out.font = Object.assign({}, out.font, { color: t.text });
    out.hoverlabel = Object.assign({}, out.hoverlabel, { bgcolor: t.raised, bordercolor: t.line });
    out.hoverlabel.font = Object.assign({}, out.hoverlabel.font, { color: t.ink });
    if (!pointer) out.dragmode = false;
    out.modebar = { bgcolor: "rgba(0,0,0,0)", color: t.line, activecolor: t.text };
    for (const key of Object.keys(out)) {
      if (/^[xy]axis/.test(key)) out[key].gridcolor = t.grid;
    }
    if (out.coloraxis) out.coloraxis.colorscale = t.scale.map((c, i) => [i / (t.scale.length - 1), c]);
    return out;
  }

  function draw(node) {
    const theme = root.dataset.theme;
    if (plots.get(node) === theme) return;
    plots.set(node, theme);
    const spec = JSON.parse(document.getElementById(node.dataset.spec).textContent);
    Plotly.react(node, spec.data, dress(spec.layout, theme), config);
  }

  function setTheme(theme) {
    root.dataset.theme = theme;
    const button = document.querySelector(".toggle");
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", "Switch to the " + button.textContent.toLowerCase() + " theme");
    plots.forEach((_, node) => draw(node));
  }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = false;
  setTheme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => { if (!chosen) setTheme(dark.matches ? "dark" : "light"); });
  document.querySelector(".toggle").addEventListener("click", () => {
    chosen = true;
    setTheme(root.dataset.theme === "dark" ? "light" : "dark");
  });

  // Figures are drawn as they come near, so that a page with twenty of them opens at once.
  const all = Array.from(document.querySelectorAll(".plot"));
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { near.unobserve(entry.target); draw(entry.target); }
    }
  }, { rootMargin: "600px" });
  all.forEach((node) => near.observe(node));

  let before = null;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    setTheme("light");
    all.forEach((node) => {
      draw(node);
      const height = node.layout.height > 400 ? node.layout.height : Math.min(node.layout.height, 270);
      Plotly.relayout(node, { width: 700, height, autosize: false });
    });
  });
  addEventListener("afterprint", () => {
    all.forEach((node) => plots.set(node, null));
    setTheme(before || "light");
  });

  // "−4.2e−5" and "0.62 [0.58–0.66]" sort by their leading number, dashes always last.
  function key(cell) {
    const text = cell.textContent.trim();
    if (text === "–") return null;
    const value = parseFloat(text.replace(/−/g, "-"));
    return cell.classList.contains("num") && !isNaN(value) ? value : text.toLowerCase();
  }
  document.querySelectorAll("table").forEach((table) => {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const first = head.classList.contains("num") ? "descending" : "ascending";
      const other = first === "descending" ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = Array.from(table.tBodies[0].rows, (row) => [key(row.cells[column]), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        if (typeof a === "number" && typeof b === "number") return sign * (a - b);
        return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  });

  const contents = document.querySelector("nav details");
  const narrow = matchMedia("(max-width: 980px)");
  const fold = () => { contents.open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  fold();

  const links = new Map(Array.from(document.querySelectorAll("nav a"), (a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting || !links.has(entry.target.id)) continue;
      links.forEach((link) => link.removeAttribute("aria-current"));
      links.get(entry.target.id).setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-10% 0px -75% 0px" });
  document.querySelectorAll("[id].panel").forEach((node) => seen.observe(node));
})();
