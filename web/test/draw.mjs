/** Draws it once. */

import { rows, settled } from "./browser.mjs";

const RING = Array.from({ length: 25 }, (_, i) => `${5 + 3 * Math.cos(i / 3.8)} ${5 + 3 * Math.sin(i / 3.8)}`);

/** A cross, a hook, a ring with a dot, a zigzag and stairs, as strokes of points in a box of side 10. */
const SHAPES = ["2 2,8 8|8 2,2 8", "3 1,3 8,5 9,7 8", `${RING}|5 5`, "1 3,3 7,5 3,7 7,9 3", "2 2,5 2,5 5,8 5,8 8"].map(
  (shape) => shape.split("|").map((stroke) => stroke.split(",").map((point) => point.split(" ").map(Number))),
);

/** Draws a shape, scaled and then shifted by parts of the box's side. */
async function drawIn(page, box, shape, [shiftX, shiftY, scale]) {
  const pad = page.locator(`${box} >> .pad`);
  await pad.scrollIntoViewIfNeeded();
  const { x, y, width, height } = await pad.boundingBox();
  const place = ([u, v]) => [x + width * ((u / 10) * scale + shiftX), y + height * ((v / 10) * scale + shiftY)];
  for (const stroke of shape) {
    await page.mouse.move(...place(stroke[0]));
    await page.mouse.down();
    for (const point of stroke.slice(1)) await page.mouse.move(...place(point), { steps: 3 });
    await page.mouse.up();
  }
}

async function state(page) {
  await settled(page);
  const pixels = (selector) =>
    page.$$eval(selector, (all) =>
      all.map((box) =>
        [...box.querySelectorAll("canvas")].map((c) => {
          const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
          return { width: c.width, height: c.height, rgb: [...data].filter((_, i) => i % 4 < 3) };
        }),
      ),
    );
  return {
    classes: await pixels(".cards .card"),
    asked: (await pixels(".asked .card"))[0],
    probabilities: await rows(page, ".probabilities"),
    says: await page.textContent("#draw .says"),
  };
}

/** Draws, adds an example, takes classes away, and does it all by keyboard; the state after each. */
export async function drawItOnce(page) {
  const states = { empty: await state(page) };
  for (const [i, shape] of SHAPES.entries()) await drawIn(page, `.card >> nth=${i}`, shape, [0, 0, 1]);
  await drawIn(page, ".asked", SHAPES[2], [0.2, 0.25, 0.6]);
  states.drawn = await state(page);
  await page.click(".card >> nth=2 >> [name=another]");
  await drawIn(page, ".card >> nth=2", SHAPES[2], [0.05, 0.1, 0.8]);
  states.two = await state(page);
  await page.selectOption("[name=classes]", "3");
  states.three = await state(page);
  for (const name of ["clear", "sample"]) {
    for (const button of await page.$$(`#draw .card [name=${name}]`)) await button.press("Enter");
  }
  states.samples = await state(page);
  return states;
}

/** Chooses picture files: examples of the first classes, and the picture in question. */
export async function choosePictures(page, classes, question) {
  for (const clear of await page.$$("#draw .card [name=clear]")) await clear.click();
  const inputs = await page.$$("#draw .card input");
  for (const [i, files] of classes.entries()) await inputs[i].setInputFiles(files);
  await inputs.at(-1).setInputFiles(question);
  return state(page);
}
