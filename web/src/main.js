/** Loads the page's models, and those that a visitor drops on it. */

import { Draw } from "./draw.js";
import { FILES, Model, Problem } from "./model.js";
import { Sine } from "./sine.js";

const find = (selector) => document.querySelector(selector);

/** Says what is wrong, on the page. */
function report(error) {
  const sentence = error instanceof Problem ? error.message : `Something failed: ${error.message}`;
  find("#problem").textContent = sentence;
  if (!(error instanceof Problem)) console.error(error);
}

async function fetchModel(name) {
  const contents = FILES.map(async (file) => {
    const answer = await fetch(`models/${name}/${file}`);
    if (!answer.ok) throw new Problem(`models/${name}/${file} is missing beside this page.`);
    return answer.arrayBuffer();
  });
  return Model.open(await Promise.all(contents));
}

/** Takes an exported folder into use.
 *
 * @param {File[]} files
 */
async function useOwn(files) {
  find("#problem").textContent = "";
  const found = FILES.map((name) => files.find((file) => file.name === name));
  const missing = FILES.filter((_, i) => !found[i]);
  if (missing.length)
    throw new Problem(`An exported folder has ${FILES.join(", ")}: give ${missing.join(" and ")} too.`);
  const model = await Model.open(await Promise.all(found.map((file) => file.arrayBuffer())));
  const { input_shape: shape, model_class: name } = model.about;
  if (!model.ofClasses && shape.length === 1 && shape[0] === 1 && model.about.outputs === 1) {
    sine.use(model);
    find("#own .says").textContent = `Your ${name} now bends in the first part.`;
  } else if (model.ofClasses && shape.length === 3 && [1, 3].includes(shape[0])) {
    draw.use(model);
    find("#own .says").textContent = `Your ${name} now answers in the second part.`;
  } else {
    throw new Problem("This page shows curves of one number, and classes of pictures. The model is of neither.");
  }
}

/** The files of a drop, and those of a dropped folder. */
async function dropped(items) {
  const entries = [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  const inside = entries.map(async (entry) => {
    if (entry.isFile) return entry;
    const reader = entry.createReader();
    return new Promise((resolve, reject) => reader.readEntries(resolve, reject));
  });
  const files = (await Promise.all(inside)).flat().filter((entry) => FILES.includes(entry.name));
  return Promise.all(files.map((entry) => new Promise((resolve, reject) => entry.file(resolve, reject))));
}

let sine;
let draw;

async function start() {
  const [learned, random, omniglot] = await Promise.all(["sinusoid", "sinusoid_random", "omniglot"].map(fetchModel));
  find("#loading").remove();
  find("main").hidden = false;
  sine = new Sine(find("#sine"), learned, random, report);
  draw = new Draw(find("#draw"), omniglot, report);
  find("#own input").addEventListener("change", ({ target }) => {
    useOwn([...target.files]).catch(report);
    target.value = ""; // so that the same files can be chosen again
  });
  // What was wrong is over with the next picture, point or file.
  addEventListener("change", () => find("#problem").replaceChildren(), { capture: true });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    dropped(event.dataTransfer.items).then(useOwn).catch(report);
  });
}

start().catch((error) => {
  find("#loading").remove();
  report(error);
});
