/** A browser, pages in it, and what they did. */

import { chromium } from "playwright-core";

/** What the pages did: addresses that they asked for, and errors. */
export const record = { requests: [], errors: [] };

export class Browser {
  constructor(browser, address) {
    Object.assign(this, { browser, address });
  }

  static async start(executablePath, address) {
    return new Browser(await chromium.launch({ executablePath }), address);
  }

  /** The loaded page in a new window; the script runs in it before the page's own. */
  async open(script = () => {}) {
    const page = await this.browser.newPage({ viewport: { width: 1280, height: 900 } });
    page.on("request", (request) => record.requests.push(request.url()));
    page.on("pageerror", (error) => record.errors.push(error.message));
    page.on("console", (message) => message.type() === "error" && record.errors.push(message.text()));
    await page.addInitScript(script);
    await page.goto(this.address);
    await page.waitForSelector("#loading", { state: "detached" });
    return page;
  }

  close() {
    return this.browser.close();
  }
}

/** Waits until the page has changed nothing for 300 ms, which is longer than it waits before it speaks. */
export function settled(page) {
  return page.evaluate(
    () =>
      new Promise((done) => {
        let timer = setTimeout(done, 300);
        new MutationObserver(() => {
          clearTimeout(timer);
          timer = setTimeout(done, 300);
        }).observe(document.body, { subtree: true, childList: true, attributes: true });
      }),
  );
}

/** The rows of a table: head, and each cell's number in full. */
export function rows(page, table) {
  return page.$$eval(`${table} tbody tr`, (all) =>
    all.map((tr) => [tr.cells[0].textContent, ...[...tr.cells].slice(1).map((td) => Number(td.dataset.value))]),
  );
}
