// The attention over a slide: tiles in colour, exact to the slide's own pixels.

const CELLS = 4_000_000; // a lattice of more is drawn tile by tile

export class Overlay {
  constructor(viewer) {
    this.viewer = viewer;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "attention";
    viewer.canvas.append(this.canvas);
    viewer.addHandler("update-viewport", () => this.draw());
  }

  // map: tiles of one magnification, or null; shades: colour of each, by row of `colours`, from 1
  show(map, shades, colours) {
    Object.assign(this, { map, shades });
    if (map) {
      this.colours = colours.map(([r, g, b]) => `rgb(${r} ${g} ${b})`);
      this.picture = lattice(map, shades, colours);
    }
    this.draw();
  }

  set opacity(share) { this.canvas.style.opacity = share; }

  draw() {
    const { canvas } = this, density = window.devicePixelRatio;
    const width = Math.round(canvas.clientWidth * density), height = Math.round(canvas.clientHeight * density);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    if (!this.map) return;
    const { x, y, scale } = frame(this.viewer);
    pen.setTransform(density * scale, 0, 0, density * scale, density * x, density * y);
    pen.imageSmoothingEnabled = false;
    if (this.picture) pen.drawImage(this.picture.canvas, ...this.picture.box);
    else this.drawEach(pen);
  }

  drawEach(pen) {
    const [width, height] = this.map.size_l0;
    const order = [...this.shades.keys()].sort((a, b) => this.shades[a] - this.shades[b]);
    for (const row of order) { // the highest shade is seen where tiles overlap
      pen.fillStyle = this.colours[this.shades[row]];
      pen.clearRect(...this.map.xy_l0[row], width, height);
      pen.fillRect(...this.map.xy_l0[row], width, height);
    }
  }
}

// Where the slide's (0, 0) is on the screen, and how many screen pixels a level-0 pixel takes.
export function frame(viewer) {
  const { viewport } = viewer, item = viewer.world.getItemAt(0);
  const width = item ? item.getContentSize().x : 1;
  const start = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
  const end = viewport.pixelFromPoint(new OpenSeadragon.Point(1, 0), true);
  return { x: start.x, y: start.y, scale: (end.x - start.x) / width };
}

// One pixel a tile, and the level-0 box it fills; null where the tiles lie on no common lattice.
function lattice(map, shades, colours) {
  const [width, height] = map.size_l0;
  let left = Infinity, top = Infinity, right = -Infinity, bottom = -Infinity;
  for (const [x, y] of map.xy_l0) {
    left = Math.min(left, x); right = Math.max(right, x);
    top = Math.min(top, y); bottom = Math.max(bottom, y);
  }
  const columns = (right - left) / width + 1, rows = (bottom - top) / height + 1;
  const fits = map.xy_l0.every(([x, y]) => (x - left) % width === 0 && (y - top) % height === 0);
  if (!fits || columns * rows > CELLS) return null;
  const canvas = new OffscreenCanvas(columns, rows), pen = canvas.getContext("2d");
  const image = pen.createImageData(columns, rows);
  map.xy_l0.forEach(([x, y], row) => {
    const cell = ((y - top) / height) * columns + (x - left) / width;
    image.data.set([...colours[shades[row]], 255], 4 * cell);
  });
  pen.putImageData(image, 0, 0);
  return { canvas, box: [left, top, columns * width, rows * height] };
}
