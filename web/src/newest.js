/** Calls an async function once a frame at most, so that a drag never queues up work: only the newest state counts.
 *
 * @param {() => Promise<void>} work
 * @returns {() => void} asks for a call
 */
export function newest(work) {
  let due = false;
  let running = false;

  async function run() {
    running = true;
    try {
      while (due) {
        due = false;
        await work();
        await new Promise(requestAnimationFrame);
      }
    } finally {
      running = false;
    }
  }

  return () => {
    due = true;
    if (!running) run();
  };
}
