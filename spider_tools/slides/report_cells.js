/* The predictions of a slide: what is shown of them, in which colours, and what one of them says. */

const SHARES = 65535; // probabilities and shares of tissue are whole numbers of this

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes.buffer;
}

class Cells {
  constructor(data) {
    const cells = data.cells;
    this.data = data;
    this.rows = data.lattice.rows;
    this.columns = data.lattice.columns;
    this.row = new Uint32Array(bytesOf(cells.row));
    this.column = new Uint32Array(bytesOf(cells.column));
    for (const name of ["shown", "first", "second", "first_probability", "second_probability", "tissue"]) {
      this[name] = new Uint16Array(bytesOf(cells[name]));
    }
    this.entropy = new Float32Array(bytesOf(cells.entropy));
    this.unfamiliarity = cells.unfamiliarity === null ? null : new Float32Array(bytesOf(cells.unfamiliarity));
    this.count = this.row.length;
    this.at = new Int32Array(this.rows * this.columns).fill(-1);
    for (let i = 0; i < this.count; i++) this.at[this.row[i] * this.columns + this.column[i]] = i;
    this.isOn = data.classes.map(() => true);
    this.threshold = 0;
    this.coloring = "class";
  }

  isVisible(i) {
    return this.isOn[this.shown[i]] && this.first_probability[i] / SHARES >= this.threshold;
  }

  isUnfamiliar(i) {
    const most = this.data.unfamiliarity_threshold;
    return this.unfamiliarity !== null && most !== null && !(this.unfamiliarity[i] <= most);
  }

  /* The cell of the lattice at a place in um, -1 where nothing is predicted or shown. */
  indexAt(x, y) {
    const { corner_um: corner, cell_um: cell } = this.data.lattice;
    return this.indexOf(Math.floor((y - corner[1]) / cell[1]), Math.floor((x - corner[0]) / cell[0]));
  }

  indexOf(row, column) {
    if (row < 0 || column < 0 || row >= this.rows || column >= this.columns) return -1;
    const i = this.at[row * this.columns + column];
    return i >= 0 && this.isVisible(i) ? i : -1;
  }

  /* From dark to bright with the value, which also prints in grey. */
  colorOf(i) {
    if (this.coloring === "class") return this.data.classes[this.shown[i]].color;
    return heat(this.coloring === "entropy" ? this.entropy[i] / this.data.most_entropy : this.unfamiliar(i));
  }

  /* 0.5 where the model begins to find a patch unfamiliar. */
  unfamiliar(i) {
    return this.unfamiliarity[i] / (2 * (this.data.unfamiliarity_threshold || 1));
  }

  /* Every cell as one px. */
  raster() {
    const canvas = document.createElement("canvas");
    canvas.width = this.columns;
    canvas.height = this.rows;
    const context = canvas.getContext("2d");
    const image = context.createImageData(this.columns, this.rows);
    for (let i = 0; i < this.count; i++) {
      if (!this.isVisible(i)) continue;
      const place = 4 * (this.row[i] * this.columns + this.column[i]);
      image.data.set([...this.colorOf(i), 255], place);
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  /* By class, the edges beyond which another class begins, or none. */
  outlines() {
    const paths = new Map();
    for (let i = 0; i < this.count; i++) {
      if (!this.isVisible(i)) continue;
      const [row, column, shown] = [this.row[i], this.column[i], this.shown[i]];
      const differs = (r, c) => {
        const other = this.indexOf(r, c);
        return other < 0 || this.shown[other] !== shown;
      };
      if (!paths.has(shown)) paths.set(shown, new Path2D());
      const path = paths.get(shown);
      const line = (x0, y0, x1, y1) => {
        path.moveTo(...this.corner(x0, y0));
        path.lineTo(...this.corner(x1, y1));
      };
      if (differs(row - 1, column)) line(column, row, column + 1, row);
      if (differs(row + 1, column)) line(column, row + 1, column + 1, row + 1);
      if (differs(row, column - 1)) line(column, row, column, row + 1);
      if (differs(row, column + 1)) line(column + 1, row, column + 1, row + 1);
    }
    return paths;
  }

  /* What is unfamiliar, as one path, with no edges between the cells of a row. */
  unfamiliarArea() {
    const path = new Path2D();
    for (let i = 0; i < this.count; ) {
      if (!this.isVisible(i) || !this.isUnfamiliar(i)) {
        i++;
        continue;
      }
      let end = i + 1;
      while (
        end < this.count &&
        this.row[end] === this.row[i] &&
        this.column[end] === this.column[end - 1] + 1 &&
        this.isVisible(end) &&
        this.isUnfamiliar(end)
      ) {
        end++;
      }
      const [x, y] = this.corner(this.column[i], this.row[i]);
      path.rect(x, y, (end - i) * this.data.lattice.cell_um[0], this.data.lattice.cell_um[1]);
      i = end;
    }
    return path;
  }

  corner(column, row) {
    const { corner_um: corner, cell_um: cell } = this.data.lattice;
    return [corner[0] + column * cell[0], corner[1] + row * cell[1]];
  }

  /* Where the numbers of classes stand: in squares of so many cells, of which one class has at least half. */
  marks(side) {
    const counts = new Map(); // by square, then by class
    const columns = Math.ceil(this.columns / side);
    for (let i = 0; i < this.count; i++) {
      if (!this.isVisible(i)) continue;
      const square = Math.floor(this.row[i] / side) * columns + Math.floor(this.column[i] / side);
      if (!counts.has(square)) counts.set(square, new Map());
      const ofSquare = counts.get(square);
      ofSquare.set(this.shown[i], (ofSquare.get(this.shown[i]) || 0) + 1);
    }
    const marks = [];
    for (const [square, ofSquare] of counts) {
      const [shown, most] = [...ofSquare].reduce((a, b) => (b[1] > a[1] ? b : a));
      const [row, column] = [Math.floor(square / columns), square % columns];
      if (2 * most >= side * side) marks.push([...this.corner((column + 0.5) * side, (row + 0.5) * side), shown]);
    }
    return marks;
  }

  shownArea() {
    let [count, mm2] = [0, 0];
    for (let i = 0; i < this.count; i++) {
      if (!this.isVisible(i)) continue;
      count++;
      mm2 += (this.tissue[i] / SHARES) * this.data.cell_mm2;
    }
    return { count, mm2 };
  }

  describe(i) {
    const of = (number) => `${this.data.classes[number].mark} ${this.data.classes[number].name}`;
    const second = this.second_probability[i] / SHARES;
    let text = `${of(this.first[i])}, probability ${(this.first_probability[i] / SHARES).toFixed(3)}`;
    if (second > 0) text += `, then ${of(this.second[i])} ${second.toFixed(3)}`;
    text += `; entropy ${this.entropy[i].toFixed(2)} nat`;
    if (this.unfamiliarity !== null) {
      text += `; unfamiliarity ${this.unfamiliarity[i].toPrecision(3)}`;
      if (this.data.unfamiliarity_threshold !== null) text += this.isUnfamiliar(i) ? " (unfamiliar)" : " (familiar)";
    }
    return `${text}; ${Math.round((100 * this.tissue[i]) / SHARES)}% tissue`;
  }
}

/* A scale whose brightness rises all along: black, blue, red, orange, pale yellow. */
const HEAT = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];

function heat(value) {
  const place = Math.max(0, Math.min(1, value)) * (HEAT.length - 1);
  const from = Math.min(Math.floor(place), HEAT.length - 2);
  return HEAT[from].map((low, k) => Math.round(low + (place - from) * (HEAT[from + 1][k] - low)));
}
