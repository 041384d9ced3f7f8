"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  // How every method looks comes with the charts: the same as in the pictures.
  const LOOKS = Object.assign({}, ...Object.values(charts).map(chart => chart.looks));
  const root = document.documentElement, redraws = [];
  const isDark = () => root.dataset.theme === "dark";
  const css = name => getComputedStyle(root).getPropertyValue(name).trim();
  const look = name => LOOKS[name];
  const dashes = name => look(name).dashes;
  const colour = name => look(name)[isDark() ? "dark" : "light"];
  const element = (tag, properties = {}, children = []) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const short = value => value === null || value === undefined ? "-" : String(Number(value.toPrecision(4)));

  const storage = {
    get() { try { return localStorage.getItem("asmpg-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("asmpg-theme", value); } catch { /* a page from a file may not */ } },
  };
  const button = document.getElementById("theme"), system = matchMedia("(prefers-color-scheme: dark)");
  const setTheme = dark => {
    root.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-label", dark ? "Change to light colours" : "Change to dark colours");
    button.setAttribute("aria-pressed", String(dark));
    for (const redraw of redraws) redraw();
  };
  button.addEventListener("click", () => { setTheme(!isDark()); storage.set(root.dataset.theme); });
  system.addEventListener("change", event => { if (!storage.get()) setTheme(event.matches); });
  setTheme(storage.get() ? storage.get() === "dark" : system.matches);

  // Lines with their own x, on one x for all; a hole that is nobody's fault is undefined, a missing number null.
  const aligned = (panel, xLog, yLog) => {
    const positive = (values, log) => values.map(value => log && !(value > 0) ? null : value);
    return uPlot.join(panel.series.map(line => {
      const kept = line.x.map((x, i) => i).filter(i => line.x[i] !== null && (!xLog || line.x[i] > 0));
      const at = values => positive(kept.map(i => values[i]), yLog);
      return [kept.map(i => line.x[i]), at(line.y), at(line.low.length ? line.low : line.y),
        at(line.high.length ? line.high : line.y)];
    }));
  };

  const seriesOf = (panel, shown) => panel.series.flatMap(line => {
    const visible = shown.has(line.name), few = line.x.length < 8;
    return [
      { label: line.name, show: visible, width: 2, dash: dashes(line.name), stroke: () => colour(line.name),
        points: { show: few, size: 6, fill: () => colour(line.name) } },
      { label: line.name, show: visible, width: 0, points: { show: false } },
      { label: line.name, show: visible, width: 0, points: { show: false } },
    ];
  });

  const optionsOf = (panel, state, width, said) => {
    const values = [...new Set(panel.series.flatMap(line => line.x))].filter(x => !state.xLog || x > 0).sort((a, b) => a - b);
    const axis = { stroke: () => css("--faint"), grid: { stroke: () => css("--grid"), width: 1 },
      ticks: { stroke: () => css("--grid"), width: 1 }, font: "11px system-ui, sans-serif",
      labelFont: "12px system-ui, sans-serif", labelSize: 18 };
    // By itself a logarithmic scale goes on to the next power of ten; a zoom gives its own bounds.
    const wide = state.xLog && values.length < 8 ? { range: (_, low, high) => [low / 1.1, high * 1.1] } : {};
    const limits = panel.y_limits && (!state.yLog || panel.y_limits[0] > 0) ? { range: () => panel.y_limits } : {};
    return {
      width, height: Math.round(Math.min(300, Math.max(190, 0.68 * width))), legend: { show: false }, padding: [8, 26, 0, 0],
      // Panels of one figure share their cursor.
      cursor: { sync: { key: state.key, setSeries: false }, drag: { x: true, y: false, uni: 10 }, focus: { prox: -1 } },
      scales: { x: { time: false, distr: state.xLog ? 3 : 1, ...wide }, y: { distr: state.yLog ? 3 : 1, ...limits } },
      axes: [
        { ...axis, label: panel.x_label, size: 34, ...(values.length < 8 ? { splits: () => values,
          values: (_, ticks) => ticks.map(short), filter: (_, ticks) => ticks } : {
          values: (_, ticks) => ticks.map(v => v === null ? "" : Math.abs(v) >= 1e4 ? `${short(v / 1e3)}k` : short(v)) }) },
        { ...axis, label: panel.y_label, size: 52,
          values: (_, ticks) => ticks.map(v => v === null ? "" : Math.abs(v) >= 1e5 ? v.toExponential(0) : short(v)) },
      ],
      series: [{}, ...seriesOf(panel, state.shown)],
      bands: panel.series.map((line, i) => ({ series: [3 * i + 3, 3 * i + 2], fill: () => `${colour(line.name)}2b` })),
      hooks: { setCursor: [plot => said(plot)] },
    };
  };

  const makePanel = (panel, state) => {
    const caption = element("figcaption", { textContent: panel.title });
    const place = element("div"), output = element("output");
    output.setAttribute("aria-live", "polite");
    const box = element("figure", { className: "panel", tabIndex: 0 }, [caption, place, output]);
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `${panel.title}: ${panel.y_label} against ${panel.x_label}. Left and right arrow keys read values out.`);
    let plot = null;
    const said = own => {
      const index = own.cursor.idx;
      if (index === null || index === undefined) { output.replaceChildren(); return; }
      const parts = panel.series.flatMap((line, i) => {
        const value = own.data[3 * i + 1][index];
        if (!state.shown.has(line.name) || value === undefined) return [];
        const low = own.data[3 * i + 2][index], high = own.data[3 * i + 3][index];
        const band = line.low.length ? ` [${short(low)}, ${short(high)}]` : "";
        const name = element("b", { textContent: line.name });
        name.style.color = colour(line.name);
        return [element("span", {}, [name, ` ${short(value)}${band}  `])];
      });
      output.replaceChildren(`${panel.x_label} ${short(own.data[0][index])}: `, ...parts);
    };
    const draw = () => {
      if (plot) plot.destroy();
      const width = Math.max(200, place.clientWidth);
      plot = new uPlot(optionsOf(panel, state, width, said), aligned(panel, state.xLog, state.yLog), place);
      plot.root.setAttribute("aria-hidden", "true");
    };
    const move = event => {
      const last = plot.data[0].length - 1, now = plot.cursor.idx ?? -1;
      const to = { ArrowLeft: Math.max(0, now - 1), ArrowRight: Math.min(last, now + 1), Home: 0, End: last }[event.key];
      if (event.key === "Escape") plot.setCursor({ left: -10, top: -10 });
      if (to === undefined) return;
      event.preventDefault();
      plot.setCursor({ left: plot.valToPos(plot.data[0][to], "x"), top: plot.over.clientHeight / 2 });
    };
    box.addEventListener("keydown", move);
    const resize = () => { if (plot && Math.abs(plot.width - place.clientWidth) > 2) draw(); };
    return { box, draw, resize, toggle: () => draw(), plot: () => plot };
  };

  const swatch = name => {
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [key, value] of Object.entries({ width: 26, height: 10, "aria-hidden": "true" })) picture.setAttribute(key, value);
    for (const [key, value] of Object.entries({ x1: 0, x2: 26, y1: 5, y2: 5, "stroke-width": 3,
      "stroke-dasharray": dashes(name).join(" ") })) line.setAttribute(key, value);
    const paint = () => line.setAttribute("stroke", colour(name));
    paint();
    redraws.push(paint);
    picture.append(line);
    return picture;
  };

  const checkbox = (text, checked, changed, extra = []) => {
    const box = element("input", { type: "checkbox", checked });
    box.addEventListener("change", () => changed(box.checked));
    return [element("label", {}, [box, ...extra, text]), box];
  };

  const tableOf = chart => {
    const details = element("details", {}, [element("summary", { textContent: "The same as a table" })]);
    details.addEventListener("toggle", () => {
      if (details.children.length > 1) return;
      const head = ["Panel", "Method", chart.panels[0].x_label, chart.panels[0].y_label, "from", "to"];
      const rows = chart.panels.flatMap(panel => panel.series.flatMap(line => line.x.map((x, i) =>
        [panel.title, line.name, short(x), short(line.y[i]), short(line.low[i]), short(line.high[i])])));
      const row = (tag, cells) => element("tr", {}, cells.map(cell => element(tag, { textContent: cell })));
      const table = element("table", {}, [element("thead", {}, [row("th", head)]),
        element("tbody", {}, rows.map(cells => row("td", cells)))]);
      const scroll = element("div", { className: "scroll", tabIndex: 0 }, [table]);
      scroll.style.maxHeight = "24rem";
      scroll.style.overflowY = "auto";
      details.append(scroll);
    });
    return details;
  };

  for (const place of document.querySelectorAll("[data-chart]")) {
    const chart = charts[place.dataset.chart];
    const names = [...new Set(chart.panels.flatMap(panel => panel.series.map(line => line.name)))];
    const state = { key: place.dataset.chart, shown: new Set(names), xLog: chart.panels[0].x_log, yLog: chart.panels[0].y_log };
    const panels = chart.panels.map(panel => makePanel(panel, state));
    const drawAll = () => { for (const panel of panels) panel.draw(); };
    const methods = names.map(name => checkbox(name, true, on => {
      if (on) state.shown.add(name); else state.shown.delete(name);
      drawAll();
    }, [swatch(name)]));
    const all = element("button", { type: "button", textContent: "All or none" });
    all.addEventListener("click", () => {
      const on = state.shown.size < names.length;
      for (const [i, [, box]] of methods.entries()) {
        box.checked = on;
        if (on) state.shown.add(names[i]); else state.shown.delete(names[i]);
      }
      drawAll();
    });
    const axes = ["x", "y"].map(letter => checkbox(`log ${letter}`, state[`${letter}Log`], on => {
      state[`${letter}Log`] = on;
      drawAll();
    })[0]);
    const group = (label, children) => element("fieldset", { className: "controls" }, [element("legend", { textContent: label }), ...children]);
    const grid = element("div", { className: "panels" }, panels.map(panel => panel.box));
    grid.classList.toggle("few", chart.panels.length < 4);
    grid.style.setProperty("--least", chart.panels.length > 4 ? "260px" : "340px");
    place.append(element("h4", { textContent: chart.title[0].toUpperCase() + chart.title.slice(1) }), group("Methods", [...methods.map(([label]) => label), all]),
      group("Axes", axes), grid, tableOf(chart));
    drawAll();
    redraws.push(drawAll);
    new ResizeObserver(() => { for (const panel of panels) panel.resize(); }).observe(grid);
  }
  root.dataset.ready = "yes";
})();
