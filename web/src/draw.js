/** "Draw it once": the network learns classes from an example or a few of each, and names another drawing. */

import { Card, canDraw } from "./card.js";
import { characters } from "./characters.json";
import { newest } from "./newest.js";

const DRAWN =
  "Draw one character in each box, any that you like, then one of them again below. More drawings of each help. " +
  "Under a box is what the network sees of it.";
const SHOWN = "Choose a picture or more for each class, then another one below.";
const QUESTION = "Which is it?";

const percent = (p) => `${(100 * p).toFixed(0)}\u00a0%`;

/** The pixels of a sample, from 0 to 255, of its 28x28 bits in hexadecimal. */
function sample(character, number, how) {
  const { drawings } = characters[character % characters.length];
  const digits = [...drawings[number % drawings.length]];
  const bits = digits.flatMap((digit) => [8, 4, 2, 1].map((bit) => Number.parseInt(digit, 16) & bit));
  return Uint8Array.from(bits, (ink) => (Boolean(ink) === how.invert ? 255 : 0));
}

export class Draw {
  /**
   * @param {HTMLElement} section
   * @param {Model} model
   * @param {(error: Error) => void} report
   */
  constructor(section, model, report) {
    this.section = section;
    this.report = report;
    this.update = newest(() => this.compute().catch(report));
    this.classes = section.querySelector("[name=classes]");
    this.samples = section.querySelector("[name=samples]");
    this.classes.addEventListener("change", () => this.setClasses(Number(this.classes.value)));
    this.samples.addEventListener("click", () => {
      for (const card of [...this.cards, this.asked]) card.box.querySelector("[name=sample]").click();
    });
    this.use(model);
  }

  /** Takes another model. */
  use(model) {
    this.model = model;
    const { outputs, preprocessing } = model.about;
    const most = Math.max(2, Math.min(outputs ?? 5, 20));
    this.classes.replaceChildren(...Array.from({ length: most - 1 }, (_, i) => new Option(i + 2)));
    this.classes.value = Math.min(5, most);
    this.samples.hidden = !canDraw(preprocessing);
    this.section.querySelector(".how").textContent = canDraw(preprocessing) ? DRAWN : SHOWN;
    this.section.querySelector(".cards").replaceChildren();
    this.section.querySelector(".asked").replaceChildren();
    this.cards = [];
    this.drawings = 0;
    this.asked = this.card(
      this.section.querySelector(".asked"),
      QUESTION,
      () => this.drawings % this.cards.length,
      true,
    );
    this.setClasses(Number(this.classes.value));
  }

  setClasses(number) {
    while (this.cards.length > number) this.cards.pop().box.remove();
    while (this.cards.length < number) {
      const i = this.cards.length;
      this.cards.push(this.card(this.section.querySelector(".cards"), String.fromCharCode(65 + i), () => i));
    }
    this.update();
  }

  card(parent, name, character, single) {
    const how = this.model.about.preprocessing;
    const on = {
      changed: this.update,
      failed: this.report,
      sample: () => sample(character(), this.drawings++, how),
    };
    return new Card(parent, name, how, on, single);
  }

  async compute() {
    const filled = this.cards.filter((card) => card.pictures().length);
    const [question] = this.asked.pictures();
    const body = this.section.querySelector(".probabilities tbody");
    if (filled.length < 2 || !question) {
      body.replaceChildren();
      const missing = filled.length < 2 ? "examples of two classes or more, and " : "";
      this.say(`The answer needs ${missing}a picture under “${QUESTION}”`);
      return;
    }
    const { scale } = this.model.about.preprocessing;
    const numbers = (pictures) => Float32Array.from(pictures.flatMap((pixels) => [...pixels].map((v) => v / scale)));
    const support = filled.flatMap((card, label) => card.pictures().map((pixels) => ({ pixels, label })));
    const predictions = await this.model.adapt(
      numbers(support.map((s) => s.pixels)),
      support.map((s) => s.label),
      numbers([question]),
    );
    const after = predictions.at(-1)[0];
    const before = predictions.length > 1 ? predictions[0][0] : []; // nothing where there is no inner loop
    body.replaceChildren(...filled.map((card, i) => row(card.name, [before[i], after[i]])));
    const best = filled.reduce((top, _, i) => (after[i] > after[top] ? i : top), 0);
    body.rows[best].className = "best";
    const was = before.length ? ` after adaptation, ${percent(before[best])} before` : "";
    this.say(`It is ${filled[best].name}: ${percent(after[best])}${was}.`);
  }

  say(sentence) {
    this.section.querySelector(".says").textContent = sentence;
  }
}

/** A row of the table of probabilities; `data-value` holds each in full. */
function row(name, probabilities) {
  const tr = document.createElement("tr");
  const head = Object.assign(document.createElement("th"), { scope: "row", textContent: name });
  tr.append(head);
  for (const p of probabilities) {
    const cell = tr.insertCell();
    cell.textContent = p === undefined ? "–" : percent(p);
    if (p === undefined) continue;
    cell.dataset.value = p;
    cell.style.setProperty("--part", `${100 * p}%`);
  }
  return tr;
}
