// Values under the pointer, and a line lit by its name in the legend. Without this the page shows the same charts.
(() => {
  "use strict";
  const tip = document.getElementById("tip");
  const numbers = (text) => text.split(" ").map(Number);
  const charts = [...document.querySelectorAll("svg.chart[data-x]")];
  const nearest = (xs, x) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle; else high = middle;
    }
    return x - xs[low] < xs[high] - x ? low : high;
  };
  for (const svg of charts) {
    let lines = null;
    const first = Number(svg.dataset.first), last = Number(svg.dataset.last);
    const read = () => {  // not before a pointer comes: a page may have many values
      lines = [...svg.querySelectorAll(".line")].map((path) => ({
        name: path.dataset.name, xs: numbers(path.dataset.xs), ys: numbers(path.dataset.ys),
      }));
    };
    const left = Number(svg.dataset.left), right = Number(svg.dataset.right);
    const hide = () => { tip.style.display = "none"; svg.querySelector(".cursor").setAttribute("d", ""); };
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
      if (!lines) read();
      const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
      const at = ((event.clientX - box.left) / box.width) * view.width;
      const share = Math.min(1, Math.max(0, (at - left) / (right - left)));
      const wanted = first + share * (last - first);
      const longest = lines.reduce((a, b) => (b.xs.length > a.xs.length ? b : a));
      const x = longest.xs[nearest(longest.xs, wanted)];
      let rows = lines.map((line) => [line.name, line.ys[nearest(line.xs, x)]]);
      rows.sort((a, b) => b[1] - a[1]);
      const more = rows.length - 12;
      if (more > 0) rows = rows.slice(0, 12);
      const unit = svg.dataset.unit ? " " + svg.dataset.unit : "";
      const text = rows.map(([name, y]) => `${name}  ${Number.isNaN(y) ? "NaN" : Number(y.toPrecision(4))}${unit}`);
      tip.textContent = [`${svg.dataset.x} ${x}`, ...text, ...(more > 0 ? [`and ${more} lower`] : [])].join("\n");
      tip.style.display = "block";
      const place = left + (last > first ? (x - first) / (last - first) : 0.5) * (right - left);
      svg.querySelector(".cursor").setAttribute("d", `M${place} 20V${view.height - 24}`);
      const over = event.clientX + 14 + tip.offsetWidth > document.documentElement.clientWidth;
      tip.style.left = Math.max(4, over ? event.clientX - 14 - tip.offsetWidth : event.clientX + 14) + "px";
      tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4) + "px";
    });
  }
  for (const name of document.querySelectorAll("[data-lights]")) {
    const svg = name.closest("[data-group]").querySelector("svg.chart");
    const line = svg && [...svg.querySelectorAll(".line")].find((path) => path.dataset.name === name.dataset.lights);
    if (!line) continue;
    name.addEventListener("pointerenter", () => { svg.classList.add("dim"); line.classList.add("lit"); });
    name.addEventListener("pointerleave", () => { svg.classList.remove("dim"); line.classList.remove("lit"); });
  }
})();
