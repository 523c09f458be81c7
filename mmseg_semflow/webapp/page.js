'use strict';

// The mask's canvas. It is our own, since the colour of a pixel is its label:
// whole pixels, no soft edges, a colour for every class.
window.painter = {
  past: [],
  last: null,
  get root() { return document.querySelector('#painter'); },
  get canvas() { return this.root.querySelector('canvas'); },
  get pen() {
    return this.canvas.getContext('2d', {willReadFrequently: true});
  },
  get picture() {
    return this.pen.getImageData(0, 0, this.canvas.width, this.canvas.height);
  },
  // Before the first mask the canvas has no width of its own.
  get isBlank() { return !this.canvas.style.width; },
  get colour() {
    return this.root.querySelector('[data-colour][aria-pressed=true]')
      .dataset.colour;
  },
  get fills() {
    return this.root.querySelector('[data-tool=fill][aria-pressed=true]');
  },
  get radius() { return Number(this.root.querySelector('input').value); },

  put(picture) {
    const {width, height} = picture, canvas = this.canvas;
    if (this.isBlank || canvas.width !== width || canvas.height !== height) {
      Object.assign(canvas, {width, height});
      canvas.style.width = `min(100%, ${Math.round(420 * width / height)}px)`;
    }
    this.pen.putImageData(picture, 0, 0);
    this.root.querySelector('.size').textContent = `${width} × ${height}`;
  },
  remember() { this.past = [...this.past.slice(-19), this.picture]; },
  undo() { if (this.past.length) this.put(this.past.pop()); },
  async load(url) {
    if (!url) return;
    const image = new Image();
    image.src = url;
    await image.decode();
    if (!this.isBlank) this.remember();
    const {width, height} = image;
    const pen = Object.assign(document.createElement('canvas'), {width, height})
      .getContext('2d');
    pen.drawImage(image, 0, 0);
    this.put(pen.getImageData(0, 0, width, height));
  },
  url() { return this.isBlank ? '' : this.canvas.toDataURL('image/png'); },

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      Math.floor((event.clientX - box.left) / box.width * this.canvas.width),
      Math.floor((event.clientY - box.top) / box.height * this.canvas.height)];
  },
  down(event) {
    if (event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.remember();
    this.pen.fillStyle = this.colour;
    this.last = this.at(event);
    if (this.fills) this.flood(...this.last);
    else this.move(event);
  },
  move(event) {
    if (!this.last || this.fills) return;
    const [x0, y0] = this.last, [x1, y1] = this.last = this.at(event);
    const steps = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1);
    for (let i = 0; i <= steps; i++)
      this.dot(Math.round(x0 + (x1 - x0) * i / steps),
               Math.round(y0 + (y1 - y0) * i / steps));
  },
  up() { this.last = null; },
  dot(x, y) {  // in whole pixels: an arc would be antialiased
    const radius = this.radius;
    for (let dy = -radius; dy <= radius; dy++) {
      const dx = Math.round(Math.sqrt(radius ** 2 - dy ** 2));
      this.pen.fillRect(x - dx, y + dy, 2 * dx + 1, 1);
    }
  },
  flood(x, y) {
    const {width, height} = this.canvas, picture = this.picture;
    const pixels = new Uint32Array(picture.data.buffer), start = y * width + x;
    const from = pixels[start];
    this.pen.fillRect(x, y, 1, 1);
    const to = new Uint32Array(this.picture.data.buffer)[start];
    const open = from === to ? [] : [start];
    while (open.length) {
      const i = open.pop();
      if (pixels[i] !== from) continue;
      pixels[i] = to;
      if (i % width) open.push(i - 1);
      if ((i + 1) % width) open.push(i + 1);
      if (i >= width) open.push(i - width);
      if (i < width * (height - 1)) open.push(i + width);
    }
    if (from !== to) this.pen.putImageData(picture, 0, 0);
  },
};

window.setOpacity = value =>
  document.querySelector('#overlay').style.setProperty('--opacity', value);
window.showEntropy = value =>
  document.querySelector('#overlay').classList.toggle('unsure', value);

// On the document: gradio makes the painter after this script has run.
function onPainter(type, selector, act) {
  document.addEventListener(type, event => {
    const target = event.target.closest?.(`#painter ${selector}`);
    if (target) act(event, target);
  });
}

onPainter('pointerdown', 'canvas', event => window.painter.down(event));
onPainter('pointermove', 'canvas', event => window.painter.move(event));
onPainter('pointerup', 'canvas', () => window.painter.up());
onPainter('pointercancel', 'canvas', () => window.painter.up());
onPainter('click', '[data-tool=undo]', () => window.painter.undo());
onPainter('click', '[aria-pressed]', (_, button) => {
  for (const other of button.parentElement.children)
    other.setAttribute('aria-pressed', other === button);
});
