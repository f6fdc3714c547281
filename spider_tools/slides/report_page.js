/* The controls of the map: mouse, touch, keys, and what is switched on. */

const FASTER = 1.4; // a step of the zoom

function byId(id) {
  return document.getElementById(id);
}

function startMap() {
  const data = JSON.parse(byId("map-data").textContent);
  const cells = new Cells(data);
  const canvas = byId("map");
  const view = new View(canvas, data, cells);
  const say = (where, [x, y]) => {
    where.textContent = placeInWords(data, cells, x, y);
  };

  const told = byId("pointed");
  canvas.addEventListener("pointermove", (event) => say(told, view.um(event.offsetX, event.offsetY)));
  canvas.addEventListener("pointerdown", (event) => say(told, view.um(event.offsetX, event.offsetY)));
  followPointers(canvas, view);
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      view.zoomBy(Math.exp(-event.deltaY / 400), [event.offsetX, event.offsetY]);
    },
    { passive: false },
  );

  const spoken = byId("spoken");
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = steps[event.key];
    const distance = event.shiftKey ? Math.min(...data.lattice.cell_um) * view.scale : 60;
    if (step) view.panBy(step[0] * distance, step[1] * distance);
    else if (event.key === "+" || event.key === "=") view.zoomBy(FASTER);
    else if (event.key === "-") view.zoomBy(1 / FASTER);
    else if (event.key === "0" || event.key === "Home") view.fit();
    else return;
    event.preventDefault();
    say(spoken, view.center);
    say(told, view.center);
  });
  canvas.addEventListener("focus", () => {
    view.draw();
    say(spoken, view.center);
  });
  canvas.addEventListener("blur", () => view.draw());

  byId("zoom-in").addEventListener("click", () => view.zoomBy(FASTER));
  byId("zoom-out").addEventListener("click", () => view.zoomBy(1 / FASTER));
  byId("zoom-all").addEventListener("click", () => view.fit());
  listen(cells, view);
  for (const button of document.querySelectorAll("button.patch")) {
    button.addEventListener("click", () => {
      view.goTo(Number(button.dataset.x), Number(button.dataset.y));
      canvas.focus({ preventScroll: true });
      byId("viewer").scrollIntoView({ block: "nearest" });
      say(told, view.center);
    });
  }
  view.fit();
  window.addEventListener("beforeprint", () => view.drawNow());
}

/* The switches, whose state a browser may have kept from an earlier visit. */
function listen(cells, view) {
  const shown = byId("shown-area");
  const recount = () => {
    const { count, mm2 } = cells.shownArea();
    shown.textContent = `Shown: ${mm2.toFixed(3)} mm² of tissue in ${count.toLocaleString("en")} cells.`;
    view.changed();
  };
  const boxes = [...document.querySelectorAll("input[name=class]")];
  const readBoxes = () => boxes.forEach((box) => (cells.isOn[Number(box.value)] = box.checked));
  const all = (on) => {
    boxes.forEach((box) => (box.checked = on));
    readBoxes();
    recount();
  };
  for (const box of boxes) {
    box.addEventListener("change", () => {
      readBoxes();
      recount();
    });
  }
  byId("all-classes").addEventListener("click", () => all(true));
  byId("no-classes").addEventListener("click", () => all(false));

  const threshold = byId("threshold");
  const readThreshold = () => {
    cells.threshold = Number(threshold.value) / 100;
    byId("threshold-value").textContent = cells.threshold.toFixed(2);
  };
  threshold.addEventListener("input", () => {
    readThreshold();
    recount();
  });

  const opacity = byId("opacity");
  const readOpacity = () => {
    view.opacity = Number(opacity.value) / 100;
    byId("opacity-value").textContent = `${opacity.value}%`;
    view.draw();
  };
  opacity.addEventListener("input", readOpacity);

  const hatch = byId("hatch");
  const readHatch = () => {
    view.hatches = hatch !== null && hatch.checked;
    view.draw();
  };
  if (hatch !== null) hatch.addEventListener("change", readHatch);

  const choose = (name, then) => {
    for (const choice of document.querySelectorAll(`input[name=${name}]`)) {
      choice.addEventListener("change", () => then(choice.value));
      if (choice.checked) then(choice.value);
    }
  };
  choose("mode", (mode) => {
    view.mode = mode;
    view.draw();
  });
  choose("coloring", (coloring) => {
    cells.coloring = coloring;
    for (const scale of document.querySelectorAll(".scale")) scale.hidden = scale.dataset.coloring !== coloring;
    view.changed();
  });
  readBoxes();
  readThreshold();
  readOpacity();
  readHatch();
  recount();
}

/* One finger or the mouse moves the slide, two fingers zoom it. */
function followPointers(canvas, view) {
  const down = new Map();
  const where = (event) => [event.offsetX, event.offsetY];
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, where(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = down.get(event.pointerId);
    if (before === undefined) return;
    const now = where(event);
    if (down.size === 1) view.panBy(before[0] - now[0], before[1] - now[1]);
    if (down.size === 2) {
      const [, other] = [...down].find(([id]) => id !== event.pointerId);
      const far = ([x, y]) => Math.hypot(x - other[0], y - other[1]) || 1;
      view.zoomBy(far(now) / far(before), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
    }
    down.set(event.pointerId, now);
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    canvas.addEventListener(end, (event) => down.delete(event.pointerId));
  }
}

function placeInWords(data, cells, x, y) {
  const place = `x ${Math.round(x / data.mpp[0])}, y ${Math.round(y / data.mpp[1])} px`;
  if (x < 0 || y < 0 || x > data.size_um[0] || y > data.size_um[1]) return `Beyond the slide: ${place}`;
  const i = cells.indexAt(x, y);
  const mm = `${(x / 1000).toFixed(3)}, ${(y / 1000).toFixed(3)} mm`;
  return `${i < 0 ? "Nothing is shown here" : cells.describe(i)}; ${place} (${mm})`;
}

document.documentElement.classList.add("with-script");
startMap();
