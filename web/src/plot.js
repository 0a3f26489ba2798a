/** A plot of curves over x from -5 to 5, and points that pointer and keyboard move. */

export const LIMIT = 5;
const [WIDTH, HEIGHT] = [400, 300];
const [LEFT, BOTTOM] = [30, 26];
const [Y_LOW, Y_HIGH] = [-6, 6];
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

const across = (x) => LEFT + ((x + LIMIT) / (2 * LIMIT)) * (WIDTH - LEFT - 8);
const down = (y) => ((Y_HIGH - y) / (Y_HIGH - Y_LOW)) * (HEIGHT - BOTTOM);
export const clamp = (v) => Math.min(LIMIT, Math.max(-LIMIT, Math.round(v * 100) / 100));

function element(name, attributes, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

export class Plot {
  /**
   * @param {HTMLElement} parent
   * @param {string} label what it shows, for a screen reader
   * @param {object} on what to call: move(i, x, y), nudge(i, dx, dy), add(x, y), remove(i),
   *   choose(i)
   * @param {boolean} focusable whether the keyboard reaches the points; one of two plots of the same points is enough
   */
  constructor(parent, label, on, focusable) {
    this.on = on;
    this.focusable = focusable;
    this.svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "group" }, parent);
    this.svg.setAttribute("aria-label", label);
    this.axes();
    this.curves = element("g", {}, this.svg);
    this.handles = element("g", {}, this.svg);
    this.svg.addEventListener("click", (event) => {
      if (event.target.closest(".handle")) return;
      on.add(...this.place(event));
    });
  }

  axes() {
    const axes = element("g", { class: "axes", "aria-hidden": "true" }, this.svg);
    for (const v of [-5, 0, 5]) {
      element("path", { d: `M${across(v)} 0V${HEIGHT - BOTTOM}M${LEFT} ${down(v)}H${WIDTH - 8}` }, axes);
      element("text", { x: across(v), y: HEIGHT - 8, "text-anchor": "middle" }, axes).textContent = v;
      element("text", { x: LEFT - 5, y: down(v) + 5, "text-anchor": "end" }, axes).textContent = v;
    }
    element("text", { x: across(2.5), y: HEIGHT - 8, "text-anchor": "middle" }, axes).textContent = "x";
    element("text", { x: LEFT - 5, y: down(2.5) + 5, "text-anchor": "end" }, axes).textContent = "y";
  }

  /** Where a pointer is, inside the limits. */
  place(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    const x = ((at.x - LEFT) / (WIDTH - LEFT - 8)) * 2 * LIMIT - LIMIT;
    const y = Y_HIGH - (at.y / (HEIGHT - BOTTOM)) * (Y_HIGH - Y_LOW);
    return [clamp(x), clamp(y)];
  }

  /** Draws curves over the same xs, the last on top.
   *
   * @param {number[]} xs
   * @param {{kind: string, ys: number[]}[]} curves the kind is a CSS class
   */
  draw(xs, curves) {
    const lefts = xs.map((x) => across(x).toFixed(1));
    while (this.curves.children.length < curves.length) element("path", {}, this.curves);
    while (this.curves.children.length > curves.length) this.curves.lastChild.remove();
    curves.forEach(({ kind, ys }, i) => {
      const path = this.curves.children[i];
      path.setAttribute("class", `curve ${kind}`);
      path.setAttribute("d", `M${lefts.map((left, j) => `${left} ${down(ys[j]).toFixed(1)}`).join("L")}`);
    });
  }

  /** Draws the points.
   *
   * @param {{x: number, y: number}[]} points
   * @param {number} chosen the number of the one that buttons act on
   */
  drawPoints(points, chosen) {
    while (this.handles.children.length < points.length) this.makeHandle(this.handles.children.length);
    while (this.handles.children.length > points.length) this.handles.lastChild.remove();
    points.forEach(({ x, y }, i) => {
      const handle = this.handles.children[i];
      handle.setAttribute("transform", `translate(${across(x)} ${down(y)})`);
      handle.classList.toggle("chosen", i === chosen);
      if (this.focusable) {
        handle.setAttribute("aria-valuenow", y);
        handle.setAttribute("aria-valuetext", `x ${x}, y ${y}`);
      }
    });
  }

  focus(i) {
    this.handles.children[i]?.focus();
  }

  makeHandle(i) {
    const handle = element("g", { class: "handle" }, this.handles);
    element("circle", { class: "reach", r: 20 }, handle);
    element("circle", { class: "dot", r: 7 }, handle);
    if (this.focusable) {
      // A slider is what screen readers hand arrow keys to; its value is y, its text both.
      const role = { tabindex: 0, role: "slider", "aria-valuemin": -LIMIT, "aria-valuemax": LIMIT };
      for (const [key, value] of Object.entries(role)) handle.setAttribute(key, value);
      handle.setAttribute("aria-label", `Point ${i + 1}`);
      handle.addEventListener("focus", () => this.on.choose(i));
      handle.addEventListener("keydown", (event) => this.key(event, i));
    } else {
      handle.setAttribute("aria-hidden", "true");
    }
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      this.on.choose(i);
    });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) this.on.move(i, ...this.place(event));
    });
    handle.addEventListener("dblclick", () => this.on.remove(i));
  }

  key(event, i) {
    if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      this.on.remove(i);
      this.focus(Math.min(i, this.handles.children.length - 1));
    } else if (KEYS[event.key]) {
      event.preventDefault();
      this.on.nudge(i, ...KEYS[event.key].map((direction) => direction * (event.shiftKey ? 1 : 0.1)));
    }
  }
}
