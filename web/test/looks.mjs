/** Looks at the page at a phone's and a desk's width, dark and light. */

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { settled } from "./browser.mjs";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** The page's width and what axe finds wrong with it; a screenshot where there is a folder for it. */
export async function look(page, folder) {
  const seen = {};
  for (const [device, width, height] of [
    ["phone", 360, 740],
    ["desk", 1280, 900],
  ]) {
    await page.setViewportSize({ width, height });
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await settled(page);
      const { violations } = await page.evaluate(`${axe}; axe.run()`);
      seen[`${device}-${colorScheme}`] = {
        width: await page.evaluate(() => document.documentElement.scrollWidth),
        violations: violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.target).join(", ")}`),
      };
      if (folder) await page.screenshot({ path: `${folder}/${device}-${colorScheme}.png`, fullPage: true });
    }
  }
  return seen;
}
