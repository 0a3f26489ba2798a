/** Gives the page a model of the visitor's, and files that are none. */

import { readFile } from "node:fs/promises";
import { settled } from "./browser.mjs";

const FILES = ["adapt.onnx", "export.json", "example.safetensors"];

async function choose(page, files) {
  await page.setInputFiles("#own input", files);
  await settled(page);
  return page.textContent("#problem");
}

/** What the page says to a folder in which each file in turn is missing, or damaged. */
export async function problems(page, folder) {
  const said = {};
  for (const bad of FILES) {
    const rest = FILES.filter((name) => name !== bad).map((name) => `${folder}/${name}`);
    said[`no ${bad}`] = await choose(page, rest);
    const whole = await Promise.all(
      rest.map(async (path) => ({ name: path.split("/").at(-1), mimeType: "", buffer: await readFile(path) })),
    );
    said[`bad ${bad}`] = await choose(page, [...whole, { name: bad, mimeType: "", buffer: Buffer.from("{ nothing") }]);
  }
  return said;
}

/** Drops a folder on the page; what it says then. */
export async function drop(page, folder) {
  const client = await page.context().newCDPSession(page);
  const data = { items: [], files: [folder], dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"]) {
    await client.send("Input.dispatchDragEvent", { type, x: 300, y: 300, data });
  }
  await settled(page);
  return { problem: await page.textContent("#problem"), says: await page.textContent("#own .says") };
}
