/* What of the slide is seen, how large, and drawing it: its pictures below, the map above them. */

const MOST_PICTURES = 300; // decoded at once
const FEWEST_PX_OF_A_MARK = 44; // a number every so many px of the screen

class View {
  constructor(canvas, data, cells) {
    this.canvas = canvas;
    this.data = data;
    this.cells = cells;
    this.opacity = 0.5;
    this.mode = "filled";
    this.hatches = true; // what is unfamiliar
    this.pictures = new Map();
    this.center = [0, 0];
    this.scale = 1; // px of the page per um
    this.isWhole = false; // and stays so where the page changes its size
    this.waiting = false;
    this.changed();
    new ResizeObserver(() => (this.isWhole ? this.fit() : this.draw())).observe(canvas);
  }

  get width() {
    return this.canvas.clientWidth;
  }

  get height() {
    return this.canvas.clientHeight;
  }

  /* From px of the canvas to um, and back. */
  um(x, y) {
    return [this.center[0] + (x - this.width / 2) / this.scale, this.center[1] + (y - this.height / 2) / this.scale];
  }

  px(x, y) {
    return [(x - this.center[0]) * this.scale + this.width / 2, (y - this.center[1]) * this.scale + this.height / 2];
  }

  get finest() {
    return this.data.levels[this.data.levels.length - 1].um;
  }

  fit() {
    const [width, height] = this.data.size_um;
    this.center = [width / 2, height / 2];
    this.zoomTo(0, [this.width / 2, this.height / 2]);
    this.isWhole = true;
  }

  /* So many px per um, within bounds; the place at `around`, in px of the canvas, stays where it is. */
  zoomTo(scale, around) {
    const [width, height] = this.data.size_um;
    const least = Math.min(this.width / width, this.height / height);
    const [x, y] = this.um(...around);
    this.scale = Math.max(least, Math.min(scale, Math.max(8 * least, 4 / this.finest)));
    this.center = [x - (around[0] - this.width / 2) / this.scale, y - (around[1] - this.height / 2) / this.scale];
    this.keepInside();
  }

  zoomBy(factor, around = [this.width / 2, this.height / 2]) {
    this.zoomTo(this.scale * factor, around);
  }

  panBy(x, y) {
    this.center = [this.center[0] + x / this.scale, this.center[1] + y / this.scale];
    this.keepInside();
  }

  goTo(x, y) {
    this.center = [x, y];
    this.zoomTo(Math.max(this.scale, Math.min(1, 1 / this.finest)), [this.width / 2, this.height / 2]);
  }

  keepInside() {
    this.isWhole = false;
    this.center = this.center.map((value, axis) => Math.max(0, Math.min(this.data.size_um[axis], value)));
    this.draw();
  }

  /* The predictions, or what is shown of them, have changed. */
  changed() {
    this.made = new Map(); // of the predictions, for as long as the same of them are shown
    this.draw();
  }

  once(what, make) {
    if (!this.made.has(what)) this.made.set(what, make());
    return this.made.get(what);
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.drawNow();
    });
  }

  drawNow() {
    const sharp = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(this.width * sharp), Math.round(this.height * sharp)];
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = 1;
    context.fillStyle = "#d8d8d8";
    context.fillRect(0, 0, width, height);
    const zoom = this.scale * sharp;
    context.setTransform(zoom, 0, 0, zoom, width / 2 - this.center[0] * zoom, height / 2 - this.center[1] * zoom);
    const complete = this.drawPictures(context, zoom);
    if (this.mode !== "hidden") this.drawMap(context, zoom);
    context.setTransform(sharp, 0, 0, sharp, 0, 0);
    if (this.mode !== "hidden" && this.cells.coloring === "class") this.drawMarks(context);
    this.drawScaleBar(context);
    if (document.activeElement === this.canvas) this.drawCross(context);
    // What a test, or a program that reads the page, can wait for.
    this.canvas.dataset.umPerPx = (1 / this.scale).toPrecision(6);
    this.canvas.dataset.complete = complete;
  }

  /* From coarse to fine, so that what is not decoded yet, or not in the file, is there less sharp. */
  drawPictures(context, zoom) {
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    let complete = true;
    for (const level of this.data.levels) {
      if (level !== this.data.levels[0] && level.um * 2 <= 1 / zoom) break;
      const side = this.data.tile_px * level.um;
      const [left, top] = this.um(0, 0);
      const [right, bottom] = this.um(this.width, this.height);
      for (let row = Math.max(0, Math.floor(top / side)); row * side < bottom; row++) {
        if (row * this.data.tile_px >= level.size[1]) break;
        for (let column = Math.max(0, Math.floor(left / side)); column * side < right; column++) {
          if (column * this.data.tile_px >= level.size[0]) break;
          const picture = this.picture(level, `${column},${row}`);
          if (picture === null) continue;
          if (!picture.complete || !picture.naturalWidth) {
            complete = false;
            continue;
          }
          const [w, h] = [picture.naturalWidth * level.um, picture.naturalHeight * level.um];
          context.drawImage(picture, column * side, row * side, w, h);
        }
      }
    }
    return complete;
  }

  picture(level, place) {
    if (!(place in level.tiles)) return null;
    const key = `${level.um} ${place}`;
    let picture = this.pictures.get(key);
    this.pictures.delete(key); // what is drawn last is forgotten last
    if (picture === undefined) {
      picture = new Image();
      picture.onload = () => this.draw();
      picture.src = `data:image/jpeg;base64,${level.tiles[place]}`;
      if (this.pictures.size >= MOST_PICTURES) this.pictures.delete(this.pictures.keys().next().value);
    }
    this.pictures.set(key, picture);
    return picture;
  }

  drawMap(context, zoom) {
    const { corner_um: corner, cell_um: cell, rows, columns } = this.data.lattice;
    const isHeat = this.cells.coloring !== "class";
    if (this.mode === "filled" || isHeat) {
      context.globalAlpha = this.opacity;
      context.imageSmoothingEnabled = false;
      const raster = this.once("raster", () => this.cells.raster());
      context.drawImage(raster, ...corner, columns * cell[0], rows * cell[1]);
      context.globalAlpha = 1;
    }
    if (this.mode === "outlines") {
      context.lineCap = "square";
      for (const [shown, path] of this.once("outlines", () => this.cells.outlines())) {
        context.lineWidth = 4.5 / zoom;
        context.strokeStyle = "#fff";
        context.stroke(path);
        context.lineWidth = 2.5 / zoom;
        context.strokeStyle = `rgb(${this.data.classes[shown].color})`;
        context.stroke(path);
      }
    }
    if (isHeat || !this.hatches) return;
    const hatch = context.createPattern(hatching(), "repeat");
    hatch.setTransform(new DOMMatrix().scale(1 / this.scale));
    context.fillStyle = hatch;
    context.fill(this.once("unfamiliar", () => this.cells.unfamiliarArea()));
  }

  /* Numbers of classes all over the map: nobody must rely on colours. */
  drawMarks(context) {
    const shortest = Math.min(...this.data.lattice.cell_um) * this.scale;
    const side = 2 ** Math.max(0, Math.ceil(Math.log2(FEWEST_PX_OF_A_MARK / shortest)));
    context.font = "600 13px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const [x_um, y_um, shown] of this.once(`marks ${side}`, () => this.cells.marks(side))) {
      const [x, y] = this.px(x_um, y_um);
      if (x < -20 || y < -20 || x > this.width + 20 || y > this.height + 20) continue;
      context.lineWidth = 4;
      context.strokeStyle = "rgba(255, 255, 255, 0.9)";
      context.strokeText(this.data.classes[shown].mark, x, y);
      context.fillStyle = "#111";
      context.fillText(this.data.classes[shown].mark, x, y);
    }
  }

  drawScaleBar(context) {
    const longest = Math.min(200, this.width / 3) / this.scale;
    const power = 10 ** Math.floor(Math.log10(longest));
    const um = [5, 2, 1].map((step) => step * power).find((length) => length <= longest) || power;
    const text = um >= 1000 ? `${um / 1000} mm` : `${um} µm`;
    const [x, y, width] = [14, this.height - 16, um * this.scale];
    context.fillStyle = "rgba(255, 255, 255, 0.85)";
    context.fillRect(x - 6, y - 24, width + 12, 34);
    context.fillStyle = "#111";
    context.fillRect(x, y, width, 3);
    context.font = "13px system-ui, sans-serif";
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    context.fillText(text, x, y - 6);
  }

  /* Where keys read the map. */
  drawCross(context) {
    const [x, y] = [this.width / 2, this.height / 2];
    for (const [width, color] of [[5, "#fff"], [2, "#111"]]) {
      context.lineWidth = width;
      context.strokeStyle = color;
      context.beginPath();
      context.moveTo(x - 12, y);
      context.lineTo(x + 12, y);
      context.moveTo(x, y - 12);
      context.lineTo(x, y + 12);
      context.stroke();
    }
  }
}

/* Black lines on white ones, which are seen on any colour. */
function hatching() {
  const side = 14;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  for (const [width, color] of [[3, "rgba(255, 255, 255, 0.8)"], [1.3, "#111"]]) {
    context.lineWidth = width;
    context.strokeStyle = color;
    for (const shift of [-side, 0, side]) {
      context.beginPath();
      context.moveTo(shift - 2, side + 2);
      context.lineTo(shift + side + 2, -2);
      context.stroke();
    }
  }
  return canvas;
}
