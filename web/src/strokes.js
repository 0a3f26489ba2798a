/** From strokes to the pixels that Omniglot's drawings come to after our preprocessing. */

/** Omniglot's drawings are 105 pixels wide and high. The longer side of a character is 69 of them (the median of
 * 1500 drawings of images_background), and its middle that of the drawing (within 12 pixels in 90 %). */
const DRAWING = 105;
const LONGER_SIDE = 69;
/** The width of its pen. */
const PEN = 5;

/** Renders strokes centred and scaled; only the pixels that nearest-neighbour resizing would take are computed.
 *
 * @param {[number, number][][]} strokes points in any unit, y down; a stroke of one point is a dot
 * @param {number} size height and width in pixels
 * @returns {Uint8Array} 1 where there is ink, row by row
 */
export function render(strokes, size) {
  const points = strokes.flat();
  const [left, top] = [0, 1].map((d) => Math.min(...points.map((p) => p[d])));
  const [right, bottom] = [0, 1].map((d) => Math.max(...points.map((p) => p[d])));
  const extent = Math.max(right - left, bottom - top);
  const scale = extent > 0 ? (LONGER_SIDE - PEN) / extent : 1;
  const place = ([x, y]) => [
    (x - (left + right) / 2) * scale + DRAWING / 2,
    (y - (top + bottom) / 2) * scale + DRAWING / 2,
  ];
  const segments = strokes.flatMap((stroke) => {
    const placed = stroke.map(place);
    return placed.length > 1 ? placed.slice(1).map((point, i) => [placed[i], point]) : [[placed[0], placed[0]]];
  });
  const centre = (i) => Math.floor(((i + 0.5) * DRAWING) / size) + 0.5;
  return Uint8Array.from({ length: size * size }, (_, i) => {
    const pixel = [centre(i % size), centre(Math.floor(i / size))];
    return segments.some((segment) => distance(pixel, segment) <= PEN / 2) ? 1 : 0;
  });
}

/** From a point to a segment; a dot counts as a square, which meets at least one of the pixels. */
function distance([x, y], [[x1, y1], [x2, y2]]) {
  const [dx, dy] = [x2 - x1, y2 - y1];
  const length = dx * dx + dy * dy;
  if (length === 0) return Math.max(Math.abs(x - x1), Math.abs(y - y1));
  const along = Math.min(1, Math.max(0, ((x - x1) * dx + (y - y1) * dy) / length));
  return Math.hypot(x - x1 - along * dx, y - y1 - along * dy);
}
