/** Uses the page as a visitor does, in headless Chromium, and prints what it saw as JSON:
 *
 *     node test/drive.mjs '{"address": "http://127.0.0.1:8000/", "chromium": "/usr/bin/chromium", …}'
 *
 * `models` is the folder of the page's models; `own` is that of another model, of pictures, with `pictures` for its
 * classes and one in `question`; `screenshots` is a folder for them, if they are wanted.
 */

import { Browser, record } from "./browser.mjs";
import { choosePictures, drawItOnce } from "./draw.mjs";
import { look } from "./looks.mjs";
import { drop, problems } from "./own.mjs";
import { bendASine, timeOfAFrame } from "./sine.mjs";

const { address, chromium, models, own, pictures, question, screenshots } = JSON.parse(process.argv[2]);

const browser = await Browser.start(chromium, address);
try {
  const page = await browser.open();
  await page.click("#sine summary");
  const seen = { sine: await bendASine(page), frame: await timeOfAFrame(page), draw: await drawItOnce(page) };
  seen.looks = await look(page, screenshots);
  seen.scans = await choosePictures(page, pictures, question);
  seen.problems = await problems(page, `${models}/sinusoid`);
  seen.dropped = [await drop(page, `${models}/sinusoid_random`), await drop(page, own)];
  seen.own = await choosePictures(page, pictures, question);
  const old = await browser.open(() => delete globalThis.WebAssembly);
  seen.problems["no WebAssembly"] = await old.textContent("#problem");
  console.log(JSON.stringify({ ...seen, ...record }));
} finally {
  await browser.close();
}
