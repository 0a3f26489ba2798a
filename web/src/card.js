/** A box that collects examples of one class: drawings, pictures and samples. */

import { read, sizeOf } from "./pictures.js";
import { render } from "./strokes.js";

export class Card {
  /**
   * @param {HTMLElement} parent
   * @param {string} name the class
   * @param {object} how export.json's `preprocessing`
   * @param {object} on what to call: changed(), failed(error); sample() gives the pixels of the next sample
   * @param {boolean} single whether only the newest picture counts
   */
  constructor(parent, name, how, on, single = false) {
    Object.assign(this, { name, how, on, single, kept: [], strokes: [] });
    this.box = document.getElementById("card").content.firstElementChild.cloneNode(true);
    parent.append(this.box);
    this.pad = this.box.querySelector(".pad");
    this.seen = this.box.querySelector(".seen");
    this.box.querySelector("legend").textContent = name;
    const { another, sample, clear } = Object.fromEntries(
      [...this.box.querySelectorAll("button")].map((b) => [b.name, b]),
    );
    this.another = another;
    another.addEventListener("click", () => this.keep());
    sample.addEventListener("click", () => this.add(on.sample()));
    clear.addEventListener("click", () => this.clear());
    this.box.querySelector("input").addEventListener("change", async ({ target }) => {
      await this.read(target.files);
      target.value = ""; // so that the same file can be chosen again
    });
    this.box.addEventListener("drop", (event) => {
      const pictures = [...event.dataTransfer.files].filter((file) => file.type.startsWith("image/"));
      if (!pictures.length) return;
      event.preventDefault();
      event.stopPropagation();
      this.read(pictures);
    });
    const draws = canDraw(how);
    this.pad.toggleAttribute("hidden", !draws);
    sample.hidden = another.hidden = !draws;
    if (single) another.hidden = true;
    this.listen();
    this.draw();
  }

  listen() {
    const place = (event) => {
      const box = this.pad.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    this.pad.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary || event.button !== 0) return; // a second finger, another mouse button
      this.pad.setPointerCapture(event.pointerId);
      this.strokes.push([place(event)]);
      this.drawStrokes();
    });
    this.pad.addEventListener("pointermove", (event) => {
      if (!this.pad.hasPointerCapture(event.pointerId)) return;
      this.strokes.at(-1).push(place(event));
      this.drawStrokes();
    });
    for (const end of ["pointerup", "pointercancel"]) this.pad.addEventListener(end, () => this.change());
  }

  /** The pixels of each example, from 0 to 255; of the newest alone where only that counts. */
  pictures() {
    const all = this.strokes.length ? [...this.kept, this.rendered()] : this.kept;
    return this.single ? all.slice(-1) : all;
  }

  rendered() {
    return render(this.strokes, this.how.image_size).map((ink) => (Boolean(ink) === this.how.invert ? 255 : 0));
  }

  keep() {
    if (this.strokes.length) this.kept.push(this.rendered());
    this.strokes = [];
    this.change();
  }

  add(pixels) {
    this.keep();
    this.kept.push(pixels);
    this.change();
  }

  clear() {
    this.kept = [];
    this.strokes = [];
    this.change();
  }

  async read(files) {
    try {
      for (const file of files) this.add(await read(file, this.how));
    } catch (error) {
      this.on.failed(error);
    }
  }

  change() {
    this.draw();
    this.on.changed();
  }

  draw() {
    this.drawStrokes();
    const pictures = this.pictures();
    this.seen.replaceChildren(
      ...pictures.map((pixels, i) => thumbnail(pixels, this.how, `${this.name}, example ${i + 1}`)),
    );
    this.another.disabled = !this.strokes.length;
    const count = pictures.length === 1 ? "1 example" : `${pictures.length} examples`;
    this.pad.setAttribute("aria-label", `Drawing area of ${this.name}, ${count}`);
  }

  drawStrokes() {
    const line = ([first, ...rest]) => `M${first}L${(rest.length ? rest : [first]).join("L")}`;
    this.pad.innerHTML = `<path d="${this.strokes.map(line).join("")}"/>`;
  }
}

/** Whether pictures are black and white line drawings, as Omniglot's, so that a drawn one is like them. */
export function canDraw(how) {
  return Boolean(how.binary_from) && how.channels === 1;
}

/** A picture as the network sees it, pixel for pixel. */
function thumbnail(pixels, how, label) {
  const [height, width] = sizeOf(how);
  const canvas = Object.assign(document.createElement("canvas"), { width, height, role: "img", ariaLabel: label });
  const area = width * height;
  const rgba = new Uint8ClampedArray(4 * area).fill(255);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) rgba[4 * i + c] = pixels[i + (how.channels === 3 ? c * area : 0)];
  }
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  return canvas;
}
