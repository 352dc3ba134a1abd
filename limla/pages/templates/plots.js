"use strict";
(() => {
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const config = {
    responsive: true,
    displaylogo: false,
    typesetMath: false,
    // named one by one: plotly's own choice has a button that sends the data to a server
    modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
  };
  const plots = [...document.querySelectorAll(".plot")];
  const hidden = (figure) =>
    new Set([...figure.querySelectorAll('.legend button[aria-pressed="false"]')].map((button) => button.dataset.series));

  function draw(element) {
    if (element.dataset.drawn) return;
    element.dataset.drawn = "yes";
    const { data, layout } = JSON.parse(document.getElementById(element.id + "-data").textContent);
    const off = hidden(element.closest("figure"));
    for (const trace of data) trace.visible = !off.has(trace.legendgroup);
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: "rgba(0,0,0,.25)", activecolor: "rgba(0,0,0,.6)" };
    layout.dragmode = isTouch ? false : "zoom"; // a finger on a plot must still scroll the page
    Plotly.newPlot(element, data, layout, config);
  }

  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        seen.unobserve(entry.target);
        draw(entry.target);
      }
    },
    { rootMargin: "400px" },
  );
  for (const element of plots) seen.observe(element);

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const isOn = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(isOn));
      for (const element of button.closest("figure").querySelectorAll(".plot")) {
        if (!element.dataset.drawn) continue;
        const places = element.data.flatMap((trace, place) => (trace.legendgroup === button.dataset.series ? [place] : []));
        if (places.length) Plotly.restyle(element, { visible: isOn }, places);
      }
    });
  }

  // paper has no pointer: every plot is drawn, at the width of the sheet
  addEventListener("beforeprint", () => {
    for (const element of plots) {
      draw(element);
      Plotly.relayout(element, { width: Math.min(element.clientWidth, 660) });
    }
  });
  addEventListener("afterprint", () => {
    for (const element of plots) if (element.dataset.drawn) Plotly.relayout(element, { width: null, autosize: true });
  });
})();
