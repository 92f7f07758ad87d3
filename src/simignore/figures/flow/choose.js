// Chooses which heat map the large stage shows. Without it the page shows the first view of the first answer token.
(() => {
  "use strict";
  const held = document.getElementById("maps-data");
  if (!held) return;
  const find = (id) => document.getElementById(id);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const data = JSON.parse(held.textContent);
  const colours = bytes(data.colours), missing = 255, steps = 254;
  const stage = document.querySelector(".heat.main"), slider = find("maps-layer");
  const cells = [...stage.querySelectorAll(".cells")];
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  const scales = [...document.querySelectorAll("input[name=maps-scale]")];
  let now = { codes: null, scale: [] }, wanted = null; // wanted: what the reader wants colours to follow, once asked for

  const number = (value, digits = 3) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e-3 && size < 1e5) return String(Number(value.toPrecision(digits))).replace("-", "−");
    const [mantissa, power] = value.toExponential(1).split("e");
    const raised = [...String(Number(power))].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("");
    return `${mantissa.replace(/\.0$/, "")}×10${raised}`.replace(/^1×/, "").replace("-", "−");
  };
  const value = (code, [low, high, log]) =>
    log ? low * (high / low) ** (code / steps) : low + (high - low) * (code / steps);
  const picked = (name) => Number(document.querySelector(`input[name=${name}]:checked`).value);

  const map = (view, layer, token) => {
    const maps = data.views[view].maps[layer];
    maps.read ??= bytes(maps.codes);
    const row = maps.scales.length === 1 ? 0 : token;
    return { codes: maps.read.subarray(row * data.count, (row + 1) * data.count), scale: maps.scales[row] };
  };

  // where a code's colour lies among all: codes of maps without numbers below 0 are by the logarithm already
  const colour = (code, [low, high, log], byLogarithm) =>
    log && !byLogarithm && high > low ? Math.round((value(code, [low, high, log]) - low) / (high - low) * steps) : code;

  const paint = (tokens, byLogarithm) => {
    const rows = tokens.length, columns = tokens[0].length;
    const times = Math.max(1, Math.ceil(100 / Math.max(rows, columns)));
    canvas.width = columns * times;
    canvas.height = rows * times;
    tokens.forEach((row, y) => row.forEach((token, x) => {
      const code = token < 0 ? missing : now.codes[token];
      if (code === missing) return;
      const at = 3 * colour(code, now.scale, byLogarithm);
      pen.fillStyle = `rgb(${colours.slice(at, at + 3).join(" ")})`;
      pen.fillRect(x * times, y * times, times, times);
    }));
    return canvas.toDataURL();
  };

  const show = () => {
    const view = picked("maps-view"), token = picked("maps-token"), own = data.views[view];
    slider.disabled = own.maps.length === 1;
    const layer = slider.disabled ? 0 : Number(slider.value);
    const where = layer ? `layer ${data.layers[layer - 1]}` : "all layers";
    find("maps-layer-said").textContent = slider.disabled ? "all (this view has no single layers)" : where.replace("all layers", "all");
    now = map(view, layer, token);
    const [low, high, log, cut] = now.scale, known = now.scale.length > 0;
    const byLogarithm = Boolean(log) && (wanted ?? own.byLogarithm);
    scales.forEach((input) => {
      input.disabled = !log;
      input.checked = (input.value === "1") === byLogarithm;
    });
    cells.forEach((cell) => {
      cell.setAttribute("href", paint(data.panels[cell.dataset.panel][cell.dataset.part].tokens, byLogarithm));
    });
    const middle = byLogarithm ? Math.sqrt(low * high) : (low + high) / 2;
    const ends = known ? [low, middle, high].map((end) => number(end, 2)) : ["–", "–", "–"];
    if (cut) ends[0] = `≤ ${ends[0]}`;
    document.querySelectorAll("#maps-bar .ends span").forEach((end, n) => { end.textContent = ends[n]; });
    document.querySelector("#maps-bar .unit").textContent = own.unit + (byLogarithm ? ", logarithmic" : "");
    const said = find("maps-said");
    const text = document.querySelector(`input[name=maps-token][value="${token}"] + span`).textContent;
    said.querySelector("b").textContent = own.name;
    const piece = Object.assign(document.createElement("bdi"), { textContent: text });
    const more = Object.assign(document.createElement("span"), {
      textContent: known ? `${own.said}.` : "this layer has no attention, so there is nothing to show.",
    });
    said.replaceChildren(said.querySelector("b"), ` of answer token ${token + 1} `, piece, `, ${where}: `, more);
    stage.querySelectorAll("svg").forEach((svg) => {
      svg.setAttribute("aria-label", `heat map over the picture: ${own.name} of answer token ${token + 1}, ${where}`);
    });
    find("maps-read").textContent = "";
  };

  const read = (event) => {
    const svg = event.target.closest("svg");
    if (!svg) return;
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const cell = svg.querySelector(".cells");
    let told = "";
    for (const { box: [left, top, right, bottom], tokens } of cell ? data.panels[cell.dataset.panel] : []) {
      const row = Math.floor((at.y - top) / (bottom - top) * tokens.length);
      const column = Math.floor((at.x - left) / (right - left) * tokens[0].length);
      const token = tokens[row]?.[column] ?? -1;
      if (token < 0) continue;
      const code = now.codes[token];
      const least = code === 0 && now.scale[3] ? "≤ " : "";
      const shown = code === missing ? "no number" : least + number(value(code, now.scale), 2);
      told = `image token ${token} (row ${row}, column ${column}): ${shown}`;
    }
    find("maps-read").textContent = told;
  };

  document.documentElement.classList.remove("plain");
  scales.forEach((input) => input.addEventListener("input", () => { wanted = input.value === "1"; }));
  document.querySelectorAll(".choose input").forEach((input) => input.addEventListener("input", show));
  find("maps-strength").addEventListener("input", (event) => stage.style.setProperty("--strength", event.target.value));
  stage.addEventListener("pointermove", read);
  document.querySelectorAll(".sheet button").forEach((button) => button.addEventListener("click", () => {
    const { view, token } = button.dataset;
    document.querySelector(`input[name=maps-view][value="${view}"]`).checked = true;
    document.querySelector(`input[name=maps-token][value="${token}"]`).checked = true;
    slider.value = 0;
    show();
    document.querySelector(".explorer").scrollIntoView({ block: "nearest" });
  }));
  show();
})();

// Says where a table is wider than the page, and fades its right edge until its end is in sight.
document.querySelectorAll(".wide").forEach((table) => {
  const hint = Object.assign(document.createElement("p"), { className: "hint", textContent: "Scroll sideways for more →" });
  table.after(hint);
  const look = () => {
    hint.hidden = table.scrollWidth <= table.clientWidth + 1;
    table.classList.toggle("more-right", table.scrollLeft + table.clientWidth < table.scrollWidth - 1);
  };
  table.addEventListener("scroll", look, { passive: true });
  addEventListener("resize", look);
  look();
});
