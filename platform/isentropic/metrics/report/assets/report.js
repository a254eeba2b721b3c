"use strict";
// Unpacks plotly.js, then draws each chart when it comes into view, in the colours of the reader's scheme.
(async () => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();

  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent.trim()), c => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.appendChild(script);

  // "@c0/0.2" -> rgba of --c0
  const resolve = name => {
    const [variable, opacity] = name.slice(1).split("/");
    const hex = getComputedStyle(document.documentElement).getPropertyValue("--" + variable).trim();
    const [r, g, b] = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
    return `rgba(${r},${g},${b},${opacity ?? 1})`;
  };
  // Only values of keys that name a colour: a run may be called "@warn".
  const scale = name => {
    const colours = getComputedStyle(document.documentElement).getPropertyValue("--" + name.slice(1)).trim().split(/\s+/);
    return colours.map((colour, index) => [index / (colours.length - 1), colour]);
  };
  const paint = (node, name = "") => {
    if (typeof node === "string") {
      if (name === "colorscale") return scale(node);
      return /color$/.test(name) && /^@[a-z]+\d?(\/[\d.]+)?$/.test(node) ? resolve(node) : node;
    }
    if (Array.isArray(node)) {
      return node.length && typeof node[0] === "number" ? node : node.map(item => paint(item, name));
    }
    if (node && typeof node === "object") {
      return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, paint(value, key)]));
    }
    return node;
  };
  const themed = (layout) => {
    const axis = { gridcolor: "@grid", linecolor: "@line", zerolinecolor: "@muted", automargin: true, exponentformat: "power" };
    const result = {
      paper_bgcolor: "@card/0", plot_bgcolor: "@card/0", uirevision: "kept",
      font: { color: "@fg", family: "system-ui, sans-serif", size: 12 },
      margin: { l: 56, r: 16, t: 8, b: 40 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 } },
      hoverlabel: { bgcolor: "@card", bordercolor: "@line", font: { color: "@fg" }, namelength: -1 },
      modebar: { bgcolor: "@card/0", color: "@muted/0.5", activecolor: "@accent" },
      ...layout,
    };
    for (const name of ["xaxis", "yaxis", "yaxis2"]) {
      if (result[name]) result[name] = { ...axis, ...result[name], title: { standoff: 8, ...result[name].title } };
    }
    return paint(result);
  };
  const config = {
    responsive: true, displaylogo: false, showSendToCloud: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], doubleClick: "reset",
  };
  // A narrow card has no room for a colour bar and the title of every axis.
  const fitted = (layout, plot) =>
    plot.clientWidth < 420 ? { ...layout, margin: { l: 44, r: 8, t: 8, b: 36 } } : layout;
  const draw = plot => {
    const figure = figures[Number(plot.dataset.figure)];
    const draws = drawn.has(plot) ? Plotly.react : Plotly.newPlot;
    drawn.add(plot);
    return draws(plot, paint(figure.data), fitted(themed(figure.layout), plot), config);
  };
  const watcher = new IntersectionObserver(entries => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        watcher.unobserve(entry.target);
        draw(entry.target);
      }
    }
  }, { rootMargin: "800px" });
  plots.forEach(plot => watcher.observe(plot));
  dark.addEventListener("change", () => drawn.forEach(draw));
  addEventListener("beforeprint", () => plots.filter(plot => !drawn.has(plot)).forEach(draw));
})().catch(error => {
  const said = document.getElementById("failed");
  said.textContent = `The charts could not be drawn (${error}). They need a browser of 2023 or later.`;
  console.error(error);
});
