/** "Bend a sine": two networks of the same shape take the same inner steps towards points that the visitor moves. */

import { newest } from "./newest.js";
import { clamp, LIMIT, Plot } from "./plot.js";

const GRID = Array.from({ length: 121 }, (_, i) => -LIMIT + (i * 2 * LIMIT) / 120);
const SHOWN_STEPS = [0, 1, 5, 10];
const NAMES = ["learned", "random"];

/** Ten points of a wave of the training's distribution: amplitude 0.1 to 5, phase 0 to π. */
function randomWave() {
  const [amplitude, phase] = [0.1 + 4.9 * Math.random(), Math.PI * Math.random()];
  const f = (x) => amplitude * Math.sin(x - phase);
  const xs = Array.from({ length: 10 }, () => clamp(LIMIT * (2 * Math.random() - 1)));
  return { points: xs.map((x) => ({ x, y: clamp(f(x)) })), wave: GRID.map(f) };
}

export class Sine {
  /**
   * @param {HTMLElement} section
   * @param {Model} learned
   * @param {Model} random
   * @param {(error: Error) => void} report
   */
  constructor(section, learned, random, report) {
    this.section = section;
    this.models = { learned, random };
    // The first sight is the same for everyone: six points of 3 sin(x - 1), all on one side.
    this.points = [-1, 0, 1, 2, 3, 4].map((x) => ({ x, y: clamp(3 * Math.sin(x - 1)) }));
    this.wave = GRID.map((x) => 3 * Math.sin(x - 1));
    this.chosen = 0;
    this.update = newest(() => this.compute().catch(report));
    this.control = Object.fromEntries([...section.querySelectorAll("[name]")].map((e) => [e.name, e]));
    const on = {
      move: (i, x, y) => this.change(() => Object.assign(this.points[i], { x, y })),
      nudge: (i, dx, dy) => {
        const { x, y } = this.points[i];
        on.move(i, clamp(x + dx), clamp(y + dy));
      },
      add: (x, y) => this.change(() => this.points.push({ x, y })),
      remove: (i) => this.points.length > 1 && this.change(() => this.points.splice(i, 1)),
      choose: (i) => {
        this.chosen = i;
        this.showPoints();
      },
    };
    this.on = on;
    this.plots = NAMES.map((name) => {
      const figure = section.querySelector(`.${name}`);
      return new Plot(figure, figure.textContent, on, name === "learned");
    });
    this.control.steps.addEventListener("input", this.update);
    this.control.rate.addEventListener("input", this.update);
    this.control.add.addEventListener("click", () => {
      on.add(0, 0);
      this.plots[0].focus(this.points.length - 1);
    });
    this.control.remove.addEventListener("click", () => on.remove(this.chosen));
    this.control.wave.addEventListener("click", () => {
      Object.assign(this, randomWave());
      this.showPoints();
      this.update();
    });
    this.use(learned);
  }

  /** Takes another model in place of the meta-learned one. */
  use(model) {
    this.models.learned = model;
    const { steps, rate } = this.control;
    steps.max = Math.min(model.about.steps, this.models.random.about.steps); // both are shown after as many
    steps.value = steps.max;
    const { default: usual, meaning } = model.about.inner_lr;
    this.section.querySelector(".rate").textContent = meaning === "rate" ? "Learning rate" : "Factor on learned rates";
    Object.assign(rate, { max: 4 * usual, step: usual / 20, value: usual });
    this.showPoints();
    this.update();
  }

  change(edit) {
    edit();
    this.wave = null;
    this.showPoints();
    this.update();
  }

  showPoints() {
    this.chosen = Math.min(this.chosen, this.points.length - 1);
    for (const plot of this.plots) plot.drawPoints(this.points, this.chosen);
    this.control.remove.textContent = `Remove point ${this.chosen + 1}`;
    this.control.remove.disabled = this.points.length === 1;
  }

  async compute() {
    const points = this.points.map((p) => ({ ...p }));
    const chosen = Number(this.control.steps.value);
    const rate = Number(this.control.rate.value);
    this.control.steps.nextElementSibling.value = chosen;
    this.control.rate.nextElementSibling.value = rate.toPrecision(2);
    const supportX = Float32Array.from(points, (p) => p.x);
    const queryX = Float32Array.from([...supportX, ...GRID]);
    const targets = points.map((p) => p.y);
    const factor = rate / this.models.learned.about.inner_lr.default;

    const results = [];
    for (const [i, name] of NAMES.entries()) {
      const model = this.models[name];
      const predictions = await model.adapt(supportX, targets, queryX, factor * model.about.inner_lr.default);
      const after = predictions.map((rows) => rows.map((row) => row[0]));
      const curve = (step, kind) => ({ kind, ys: after[step].slice(points.length) });
      const shown = SHOWN_STEPS.filter((step) => step <= this.control.steps.max && step !== chosen);
      const wave = this.wave ? [{ kind: "wave", ys: this.wave }] : [];
      this.plots[i].draw(GRID, [...wave, ...shown.map((s) => curve(s, `after-${s}`)), curve(chosen, "chosen")]);
      results.push({
        at: after[chosen].slice(0, points.length),
        error: (step) => targets.reduce((sum, y, j) => sum + (after[step][j] - y) ** 2, 0) / targets.length,
      });
    }
    this.tell(points, chosen, results);
  }

  tell(points, chosen, results) {
    const last = this.control.steps.max;
    const steps = [...new Set([...SHOWN_STEPS, chosen])].filter((s) => s <= last).sort((a, b) => a - b);
    fill(
      this.section.querySelector(".errors tbody"),
      steps.map((s) => [s, ...results.map((r) => r.error(s))]),
    );
    const rows = points.map(({ x, y }, i) => [i + 1, x, y, ...results.map((r) => r.at[i])]);
    fill(this.section.querySelector(".points tbody"), rows);
    // A screen reader should not be read every frame of a drag.
    clearTimeout(this.saying);
    this.saying = setTimeout(() => {
      const [learned, random] = results.map((r) => r.error(chosen).toFixed(2));
      this.section.querySelector(".says").textContent =
        `After ${chosen} inner ${chosen === 1 ? "step" : "steps"} the mean squared error at the points is ${learned} ` +
        `from the meta-learned initialisation and ${random} from the random one.`;
    }, 200);
  }
}

/** Writes rows of numbers into a table's body; `data-value` holds each in full. */
function fill(body, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach(([head, ...values], i) => {
    const row = body.rows[i] ?? body.insertRow();
    if (!row.cells.length) {
      const th = document.createElement("th");
      th.scope = "row";
      row.append(th);
      for (const _ of values) row.insertCell();
    }
    row.cells[0].textContent = head;
    values.forEach((value, j) => {
      row.cells[j + 1].textContent = value.toFixed(2);
      row.cells[j + 1].dataset.value = value;
    });
  });
}
