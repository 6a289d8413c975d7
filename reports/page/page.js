"use strict";
// The interactive part of a report. Everything on the page can be read without it.
(() => {
  const studies = JSON.parse(document.getElementById("data").textContent);
  // The plot takes texts for a kind of HTML, and %{…} for a variable.
  const plain = (text) =>
    String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/%\{/g, "% {");
  const one = studies.length === 1;
  const byId = (id) => document.getElementById(id);
  const darkMode = matchMedia("(prefers-color-scheme: dark)");
  const palette = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
  const onDark = ["#5BB5EC", "#F08A4B", "#3CC79B", "#E3A3C5", "#F0BC55", "#9AD5F5"];
  const color = (i) => (darkMode.matches ? onDark : palette)[i % palette.length];
  const kinds = [
    [null, "trials", "#8A939C", "circle", 5],
    ...studies[0].baselines.map((b) => [b.kind, `baselines: ${b.label}`, b.color, b.symbol, 7]),
  ];
  const models = Object.keys(studies[0].models).filter((m) => studies.every((s) => m in s.models));
  const budget = one ? studies[0].budget : {};
  const state = {
    split: "search",
    // null: each study's own, where there is no common one.
    model: models.includes(studies[0].model) ? studies[0].model : models[0] || null,
    log: true,
    off: { neuron: new Set(), calibration: new Set(), T: new Set() },
    energy: budget.max_energy ? 100 * budget.max_energy : null,
    lost: budget.max_accuracy_drop != null ? 100 * budget.max_accuracy_drop : 1,
    picked: null,
    brushed: [],
  };

  // ---- numbers ----
  const points = (x) => (100 * x).toFixed(2);
  const plural = (x, noun) => `${x} ${noun}${x === 1 ? "" : "s"}`;
  const percent = (x) =>
    x === null ? "–" : (100 * x).toLocaleString("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 }) +
    " %";
  const ratioOf = (s, t) => {
    if (state.split === "test") return t.test.ratio;
    return state.model ? t.ratios[Object.keys(s.models).indexOf(state.model)] : t.search.ratio;
  };
  const measured = (t) => t[state.split];
  const how = (t) => `${t.neuron}, ${t.calibration}${t.segments ? " +" + t.segments : ""}`;

  function shown(s) {
    return s.trials.filter(
      (t) =>
        measured(t) &&
        !state.off.neuron.has(t.neuron) &&
        !state.off.calibration.has(t.calibration) &&
        !state.off.T.has(String(t.T)),
    );
  }

  // What no other beats in score, energy and the study's other objectives; on the test split the
  // points that were measured.
  function frontOf(s, trials) {
    const sorted = trials
      .filter((t) => t.candidate)
      .sort((a, b) => ratioOf(s, a) - ratioOf(s, b) || b.search.score - a.search.score);
    if (state.split === "test") return sorted;
    const front = [];
    for (const t of sorted) {
      const beats = (f) =>
        f.search.score >= t.search.score && f.others.every((x, i) => x <= t.others[i]);
      if (!front.some(beats)) front.push(t);
    }
    return front;
  }

  function told(s, t) {
    const m = measured(t);
    return (
      `<b>${one ? "" : plain(s.name) + ", "}trial ${t.trial}</b><br>` +
      `${points(m.lost)} points lost (${points(m.low)} to ${points(m.high)})<br>` +
      `${percent(ratioOf(s, t))} of the ANN's energy<br>` +
      `${m.steps.toFixed(2)} steps of T = ${t.T}<br>${plain(how(t))}<extra></extra>`
    );
  }

  // ---- the plot ----
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function scatter(s, trials, options) {
    return {
      type: "scatter",
      mode: "markers",
      x: trials.map((t) => 100 * ratioOf(s, t)),
      y: trials.map((t) => 100 * measured(t).lost),
      customdata: trials.map((t) => [studies.indexOf(s), t.trial]),
      hovertemplate: trials.map((t) => told(s, t)),
      ...options,
    };
  }

  function traces() {
    const found = [];
    studies.forEach((s, i) => {
      const trials = shown(s);
      const own = color(i);
      if (one) {
        for (const [kind, name, fill, symbol, size] of kinds) {
          const some = trials.filter((t) => t.baseline === kind);
          if (some.length)
            found.push(scatter(s, some, { name, marker: { color: fill, symbol, size } }));
        }
      } else {
        const marker = { color: own, size: 4, opacity: 0.35 };
        found.push(scatter(s, trials, { name: plain(s.name) + ": trials", marker }));
      }
      const front = frontOf(s, trials);
      found.push(
        scatter(s, front, {
          name: one ? "front" : plain(s.name),
          mode: "lines+markers",
          marker: { color: own, size: 8, symbol: one ? "circle" : i },
          line: { color: own, width: 2, dash: one ? "solid" : ["solid", "dash", "dot"][i % 3] },
          error_y: {
            type: "data",
            symmetric: false,
            array: front.map((t) => 100 * (measured(t).high - measured(t).lost)),
            arrayminus: front.map((t) => 100 * (measured(t).lost - measured(t).low)),
            thickness: 0.8,
            width: 2,
            color: own,
          },
        }),
      );
    });
    const chosen = picked();
    if (chosen && measured(chosen[1]))
      found.push(
        scatter(chosen[0], [chosen[1]], {
          name: `trial ${chosen[1].trial}`,
          marker: { size: 17, color: "rgba(0,0,0,0)", line: { width: 2.5, color: css("--ink") } },
          showlegend: false,
          hoverinfo: "skip",
          hovertemplate: null,
        }),
      );
    return found;
  }

  function rangeOfLoss() {
    const ms = studies.flatMap((s) => frontOf(s, shown(s)).map(measured));
    if (!ms.length) return [10, -1];
    const top = Math.min(0, ...ms.map((m) => m.low));
    const low = Math.min(Math.max(...ms.map((m) => m.high)), Math.min(...ms.map((m) => m.lost)) + 0.15);
    const margin = 0.06 * (low - top) + 0.001;
    return [100 * (low + margin), 100 * (top - margin)];
  }

  // Of the energies that are drawn; a mark beyond them must not squeeze them.
  function rangeOfEnergy() {
    const found = studies.flatMap((s) => shown(s).map((t) => 100 * ratioOf(s, t)));
    if (!found.length) return [1, 100];
    const [low, high] = [Math.min(...found), Math.max(...found)];
    return state.log ? [low / 1.15, Math.max(high, low * 1.5) * 1.15] : [0, high * 1.05];
  }

  function line(horizontal, value) {
    const own = { x0: value, x1: value, y0: 0, y1: 1, xref: "x", yref: "paper" };
    const other = { x0: 0, x1: 1, y0: value, y1: value, xref: "paper", yref: "y" };
    return {
      type: "line",
      ...(horizontal ? other : own),
      line: { color: css("--good"), width: 3, dash: "dash" },
    };
  }

  function shapes() {
    const found = [];
    if (state.energy) found.push(line(false, state.energy));
    if (state.lost !== null) found.push(line(true, state.lost));
    return found;
  }

  function layout() {
    const ink = css("--ink"), grid = css("--line");
    const narrow = window.innerWidth < 600;
    const axis = { gridcolor: grid, zerolinecolor: ink, linecolor: ink, ticks: "outside" };
    const ticks = [-2, -1, 0, 1, 2, 3, 4, 5].flatMap((e) => [1, 2, 5].map((m) => +`${m}e${e}`));
    const int8 = one ? 100 * studies[0].models[state.model] : null;
    const range = rangeOfEnergy();
    const inside = int8 !== null && int8 >= range[0] && int8 <= range[1];
    const place = (x) => (state.log ? Math.log10(x) : x);
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: narrow ? 11 : 13 },
      margin: { l: 60, r: 12, t: 32, b: narrow ? 130 : 90 },
      dragmode: "select",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--accent") },
      hovermode: "closest",
      hoverlabel: { bgcolor: css("--tint"), font: { color: ink }, align: "left" },
      legend: { orientation: "h", y: narrow ? -0.3 : -0.2 },
      xaxis: {
        ...axis,
        type: state.log ? "log" : "linear",
        range: range.map(place),
        title: { text: `energy, % of the ANN's (${plain(state.model || "each study's own model")})` },
        ...(state.log ? { tickvals: ticks, ticktext: ticks.map(String) } : {}),
      },
      yaxis: { ...axis, range: rangeOfLoss(), title: { text: `${plain(studies[0].metric)} lost, points` } },
      shapes: shapes(),
      selections: [], // a box that stays lies over the lines, which could not be dragged
      annotations:
        int8 === null ? []
          : inside
          ? [{ x: place(int8), y: 1, yref: "paper", ax: 0, ay: -16, arrowhead: 2, arrowsize: 0.8,
               arrowcolor: ink, text: "ANN in int8", font: { size: 11, color: ink } }]
          : [{ x: int8 < range[0] ? 0 : 1, xref: "paper", xanchor: int8 < range[0] ? "left" : "right",
               y: 1.07, yref: "paper", showarrow: false, font: { size: 11, color: ink },
               text: int8 < range[0] ? `← ANN in int8 at ${int8.toPrecision(2)} %`
                 : `ANN in int8 at ${int8.toPrecision(2)} % →` }],
      uirevision: state.model + state.log + state.split,
    };
  }

  const config = {
    responsive: true,
    displaylogo: false,
    showSendToCloud: false, // no data leaves the page
    plotlyServerURL: "",
    edits: { shapePosition: true },
    modeBarButtonsToRemove: ["lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: "spikefront-front" },
  };

  function draw() {
    Plotly.react("plot", traces(), layout(), config);
    verdict();
    brushed();
  }

  // ---- what fits the lines ----
  function verdict() {
    const box = byId("verdict");
    box.replaceChildren();
    studies.forEach((s) => {
      const fits = shown(s)
        .filter((t) => t.candidate && (!state.energy || 100 * ratioOf(s, t) <= state.energy))
        .filter((t) => state.lost === null || (t.promise !== null && 100 * t.promise <= state.lost))
        .sort((a, b) => ratioOf(s, a) - ratioOf(s, b));
      const limits = [
        state.lost === null ? "" : `at most ${plural(state.lost, "point")} lost with ` +
          `${(100 * s.confidence).toFixed(0)} % confidence`,
        state.energy ? `at most ${state.energy} % of the energy` : "",
      ].filter(Boolean).join(" and ");
      const name = one ? "" : `${s.name}: `;
      const text = document.createElement("p");
      box.append(text);
      if (!limits) {
        text.textContent = `${name}${name ? "set" : "Set"} a limit to see the cheapest trial that keeps it.`;
      } else if (!fits.length) {
        text.textContent = `${name}${name ? "no" : "No"} trial keeps this: ${limits}.`;
      } else {
        const t = fits[0];
        text.textContent =
          `${name || ""}${name ? "for" : "For"} ${limits}, the cheapest is trial ${t.trial}: ${percent(ratioOf(s, t))} of ` +
          `the energy, ${points(t.search.lost)} points lost on the search split` +
          (t.test ? `, ${points(t.test.lost)} on test. ` : ". ");
        const look = document.createElement("button");
        look.textContent = "Look at it";
        look.onclick = () => pick(studies.indexOf(s), t.trial);
        text.append(look);
      }
    });
  }

  // ---- one trial ----
  const picked = () => {
    if (!state.picked) return null;
    const s = studies[state.picked[0]];
    return [s, s.trials.find((t) => t.trial === state.picked[1])];
  };

  function pick(study, trial) {
    state.picked = [study, trial];
    draw();
    details();
  }

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function table(head, rows) {
    const made = element("table");
    if (head.some(Boolean)) {
      const top = made.createTHead().insertRow();
      head.forEach((text, i) => top.append(element("th", text, i ? "" : "words")));
    }
    const body = made.createTBody();
    rows.forEach((row) => {
      const line = body.insertRow();
      row.forEach((cell, i) => line.append(element("td", cell, i && head[i] ? "" : "words")));
    });
    const wide = element("div", undefined, "wide");
    wide.append(made);
    return wide;
  }

  function details() {
    const [s, t] = picked();
    const box = byId("details");
    box.hidden = false;
    box.replaceChildren(element("h2", `${one ? "" : s.name + ", "}trial ${t.trial}`));
    const splits = ["search", "test"].filter((split) => t[split]);
    const rows = [
      [s.metric, ...splits.map((k) => percent(t[k].score))],
      ["points lost", ...splits.map((k) => points(t[k].lost))],
      ["95 % interval", ...splits.map((k) => `${points(t[k].low)} to ${points(t[k].high)}`)],
      ["energy / ANN", ...splits.map((k) => percent(t[k].ratio))],
      ["energy, pJ", ...splits.map((k) => Math.round(t[k].pj).toLocaleString("en"))],
      ["mean steps", ...splits.map((k) => t[k].steps.toFixed(2))],
      ["divergence", ...splits.map((k) => t[k].kl.toPrecision(3))],
    ];
    const made = [
      ["T", t.T], ["neuron", t.neuron],
      ["calibration", t.calibration + (t.segments ? `, ${t.segments} segments before` : "")],
      ["exit above", t.alpha === null || t.alpha >= 1 ? "never" : t.alpha.toFixed(2)],
      ["kind", t.baseline ? `baseline (${t.baseline})` : t.exit_of !== null
        ? `additional exit of trial ${t.exit_of}` : "searched"],
      ...(t.bits ? [["weights", `${t.bits} bits`]] : []),
      ...(t.promise === null ? [] : [[`loses at most (${(100 * s.confidence).toFixed(0)} %)`,
        points(t.promise) + " points"]]),
    ].map(([a, b]) => [a, String(b)]);
    const parts = element("div", undefined, "parts");
    const part = (title, content) => {
      const own = element("div");
      own.append(element("h3", title), content);
      parts.append(own);
    };
    part("Measured", table(["", ...splits.map((k) => `${k} split`)], rows));
    part("Made with", table(["", ""], made));
    part("Under other energy models", table(["model", "energy / ANN"],
      Object.keys(s.models).map((m, i) => [m, percent(t.ratios[i])])));
    const exits = element("div", undefined, "small");
    part("Samples leave at step", exits);
    box.append(parts, element("h3", "Take it with you"), command(`${s.export} ${t.trial}`));
    if (t.phi) {
      const names = Object.keys(t.energy);
      const whole = names.reduce((sum, name) => sum + t.energy[name], 0);
      const before = names.filter((name) => !s.layers.includes(name));
      const share = (name) => percent((t.energy[name] || 0) / whole);
      box.append(
        element("h3", "Layer by layer"),
        table(["spikes of", "φ", "ρ", "share of the energy"], [
          ...before.map((name) => [name, "", "", share(name)]),
          ...s.layers.map((name, i) => [name, String(t.phi[i]), t.rho[i].toFixed(2), share(name)]),
        ]),
      );
    }
    const ink = css("--ink");
    Plotly.newPlot(exits, [{ type: "bar", x: t.search.exits.map((_, i) => i + 1),
      y: t.search.exits.map((x) => 100 * x), marker: { color: css("--accent") },
      hovertemplate: "step %{x}: %{y:.1f} %<extra></extra>" }], {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12 },
      margin: { l: 45, r: 5, t: 5, b: 40 }, xaxis: { title: { text: "step" }, dtick: 1 },
      yaxis: { title: { text: "% of samples" }, gridcolor: css("--line") },
    }, { responsive: true, displayModeBar: false });
    box.scrollIntoView({ block: "nearest" });
  }

  function command(text) {
    const row = element("div", undefined, "command");
    const button = element("button", "Copy");
    button.onclick = async () => {
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        const range = document.createRange();
        range.selectNodeContents(row.firstChild);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
    };
    row.append(element("code", text), button);
    return row;
  }

  // ---- what was brushed ----
  function brushed() {
    const box = byId("brushed");
    box.replaceChildren();
    if (!state.brushed.length) return;
    const rows = state.brushed
      .filter(([i, n]) => measured(studies[i].trials.find((t) => t.trial === n)))
      .map(([i, n]) => [studies[i], studies[i].trials.find((t) => t.trial === n)])
      .sort((a, b) => ratioOf(...a) - ratioOf(...b));
    box.append(element("h3", `${rows.length} selected`));
    const made = table(
      ["trial", "points lost", "95 %", "energy / ANN", "steps", "T", "neuron, calibration"],
      rows.map(([s, t]) => {
        const m = measured(t);
        return [(one ? "" : s.name + " ") + t.trial, points(m.lost),
          `${points(m.low)} to ${points(m.high)}`, percent(ratioOf(s, t)), m.steps.toFixed(2),
          String(t.T), how(t)];
      }),
    );
    made.querySelectorAll("tbody tr").forEach((tr, i) => {
      tr.style.cursor = "pointer";
      tr.onclick = () => pick(studies.indexOf(rows[i][0]), rows[i][1].trial);
    });
    box.append(made);
  }

  // ---- controls ----
  function options(select, values, current) {
    values.forEach((v) => select.append(new Option(v, v, v === current, v === current)));
  }

  function checks(name, values) {
    const group = byId(name);
    [...new Set(values)].forEach((value) => {
      const label = element("label");
      const box = Object.assign(element("input"), { type: "checkbox", checked: true, value });
      box.onchange = () => {
        state.off[name][box.checked ? "delete" : "add"](value);
        draw();
      };
      label.append(box, " " + value);
      group.append(label);
    });
    if (group.querySelectorAll("input").length < 2) group.hidden = true;
  }

  const every = studies.flatMap((s) => s.trials);
  options(byId("model"), models.length ? models : ["each study's own"], state.model);
  byId("model").disabled = models.length < 2;
  // What was measured on test is kept under the study's own model.
  const ownModel = () => studies.every((s) => !state.model || s.model === state.model);
  byId("split").disabled = !ownModel();
  byId("model").onchange = (event) => {
    state.model = event.target.value;
    const own = ownModel();
    byId("split").disabled = !own;
    if (!own) state.split = byId("split").value = "search";
    draw();
  };
  const splits = every.some((t) => t.test) ? ["search", "test"] : ["search"];
  options(byId("split"), splits, "search");
  byId("split").onchange = (event) => { state.split = event.target.value; draw(); };
  byId("scale").onchange = (event) => { state.log = event.target.value === "log"; draw(); };
  checks("neuron", every.map((t) => t.neuron));
  checks("calibration", every.map((t) => t.calibration));
  checks("T", every.map((t) => String(t.T)).sort((a, b) => a - b));
  for (const name of ["energy", "lost"]) {
    const input = byId("max-" + name);
    if (state[name] !== null) input.value = state[name];
    input.oninput = () => {
      state[name] = input.value === "" ? null : Number(input.value);
      draw();
    };
  }

  document.documentElement.classList.add("scripted");
  draw();
  const plot = byId("plot");
  plot.on("plotly_click", (event) => {
    const [study, trial] = event.points[0].customdata;
    pick(study, trial);
  });
  plot.on("plotly_selected", (event) => {
    if (!event || !(plot.layout.selections || []).length) return;
    const found = new Map(event.points.map((p) => [p.customdata.join(), p.customdata]));
    state.brushed = [...found.values()];
    brushed();
    setTimeout(() => Plotly.relayout(plot, { selections: [] }));
  });
  plot.on("plotly_relayout", (change) => {
    // A line that was dragged, wherever it was taken, stays straight.
    const moved = Object.keys(change).find((key) => key.startsWith("shapes["));
    if (!moved) return;
    const shape = plot.layout.shapes[Number(moved.match(/\d+/)[0])];
    const [name, value] = shape.xref === "x"
      ? ["energy", (shape.x0 + shape.x1) / 2] : ["lost", (shape.y0 + shape.y1) / 2];
    state[name] = Number(value.toPrecision(3));
    byId("max-" + name).value = state[name];
    draw();
  });
  darkMode.addEventListener("change", () => {
    draw();
    if (state.picked) details();
  });
})();
