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

/** Drops a folder's files on the page. */
export async function drop(page, folder) {
  const contents = await Promise.all(FILES.map(async (name) => [name, await readFile(`${folder}/${name}`, "base64")]));
  const data = await page.evaluateHandle((files) => {
    const transfer = new DataTransfer();
    for (const [name, base64] of files) {
      transfer.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
    }
    return transfer;
  }, contents);
  await page.dispatchEvent("#own", "drop", { dataTransfer: data });
  await settled(page);
  return { problem: await page.textContent("#problem"), says: await page.textContent("#own .says") };
}
