/** Bends a sine. */

import { rows, settled } from "./browser.mjs";

async function state(page) {
  await settled(page);
  return {
    steps: Number(await page.inputValue("#sine [name=steps]")),
    rate: Number(await page.inputValue("#sine [name=rate]")),
    points: await rows(page, ".points"),
    errors: await rows(page, ".errors"),
    says: await page.textContent("#sine .says"),
  };
}

const handle = (page, i) => page.locator(`.learned .handle >> nth=${i}`);

/** Takes hold of a point. */
async function grab(page, i) {
  const dot = handle(page, i).locator(".dot");
  await dot.scrollIntoViewIfNeeded();
  const box = await dot.boundingBox();
  const at = [box.x + box.width / 2, box.y + box.height / 2];
  await page.mouse.move(...at);
  await page.mouse.down();
  return at;
}

/** Drags, nudges, adds and removes points and slides both sliders; the state after each. */
export async function bendASine(page) {
  const states = { fresh: await state(page) };
  const [x, y] = await grab(page, 0);
  await page.mouse.move(x - 60, y + 40, { steps: 5 });
  await page.mouse.up();
  states.dragged = await state(page);
  await handle(page, 1).focus();
  for (const key of ["ArrowUp", "ArrowUp", "Shift+ArrowLeft"]) await page.keyboard.press(key);
  states.nudged = await state(page);
  await page.click(".random .plot", { position: { x: 60, y: 60 } });
  states.added = await state(page);
  await handle(page, 2).focus();
  await page.keyboard.press("Delete");
  states.removed = await state(page);
  states.removed.focus = await page.evaluate(() => document.activeElement.getAttribute("aria-label"));
  await page.focus("#sine [name=steps]");
  for (let i = 0; i < 7; i++) await page.keyboard.press("ArrowLeft");
  await page.focus("#sine [name=rate]");
  for (let i = 0; i < 4; i++) await page.keyboard.press("ArrowRight");
  states.slid = await state(page);
  return states;
}

/** Milliseconds of the main thread's time for each frame of a drag, everything that the browser does in it included.
 *
 * The least of three drags: whatever else the machine does only adds to it. What the test itself asks of the browser
 * is left out.
 */
export async function timeOfAFrame(page, drags = 3, frames = 40) {
  const client = await page.context().newCDPSession(page);
  await client.send("Performance.enable", { timeDomain: "threadTicks" }); // the thread's own time, whatever else runs
  const busy = async () => {
    const { metrics } = await client.send("Performance.getMetrics");
    const { TaskDuration, DevToolsCommandDuration } = Object.fromEntries(metrics.map((m) => [m.name, m.value]));
    return TaskDuration - DevToolsCommandDuration;
  };
  const drawn = new Set();
  const works = [];
  for (let drag = 0; drag < drags; drag++) {
    const [x, y] = await grab(page, 0);
    const before = await busy();
    for (let i = 0; i < frames; i++) {
      await page.mouse.move(x + i / 3, y - 20 * Math.sin(i / 9));
      drawn.add(
        await page.evaluate(async () => {
          await new Promise(requestAnimationFrame);
          return document.querySelector(".learned .curve.chosen").getAttribute("d");
        }),
      );
    }
    works.push((1000 * ((await busy()) - before)) / frames);
    await page.mouse.up();
  }
  return { work: Math.min(...works), curves: drawn.size };
}
