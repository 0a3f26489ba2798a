/** From a picture file to a network's pixels, as few_shot/data/pictures.py does it. */

import { Problem } from "./model.js";

/** Height and width: export.json has one number where they are equal. */
export function sizeOf(how) {
  return typeof how.image_size === "number" ? [how.image_size, how.image_size] : how.image_size;
}

/** Reads a picture as export.json's `preprocessing` says.
 *
 * @param {File} file
 * @param {object} how
 * @returns {Promise<Uint8Array>} channels, rows, columns
 */
export async function read(file, how) {
  const [height, width] = sizeOf(how);
  let picture;
  try {
    picture = await createImageBitmap(file); // turned by its EXIF orientation
  } catch {
    throw new Problem(`${file.name} is no picture that this browser reads.`);
  }
  const [w, h] = [picture.width, picture.height];
  const context = new OffscreenCanvas(w, h).getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, w, h);
  context.drawImage(picture, 0, 0);
  const scale = Math.min(w / width, h / height);
  const crop = how.crop === "center" ? [width, height].map((side) => Math.max(1, Math.round(side * scale))) : [w, h];
  const [left, top] = [Math.floor((w - crop[0]) / 2), Math.floor((h - crop[1]) / 2)];
  const planes = channels(context.getImageData(left, top, ...crop).data, how.channels);
  const pixels = planes.flatMap((plane) => {
    const binary = how.binary_from;
    const [w1, h1] = binary ? [binary, binary] : [width, height];
    const resized = resizeRows(resizeRows(plane, crop[0], crop[1], w1), crop[1], w1, h1);
    return Array.from(binary ? nearest(resized, binary, width, height) : resized);
  });
  return Uint8Array.from(pixels, (value) => (how.invert ? 255 - value : value));
}

/** Red, green and blue, or grey as Pillow weighs them. */
function channels(rgba, number) {
  const of = (f) => Uint8Array.from({ length: rgba.length / 4 }, (_, i) => f(4 * i));
  if (number === 3) return [0, 1, 2].map((c) => of((i) => rgba[i + c]));
  return [of((i) => (19595 * rgba[i] + 38470 * rgba[i + 1] + 7471 * rgba[i + 2] + 0x8000) >> 16)];
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const lanczos = (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0);

/** Resizes rows from `width` to `to` pixels with Pillow's Lanczos filter, and transposes; twice resizes a picture.
 *
 * @returns {Uint8Array} `[to, height]`
 */
function resizeRows(pixels, width, height, to) {
  const scale = width / to;
  const reach = 3 * Math.max(1, scale);
  const out = new Uint8ClampedArray(to * height); // rounds and clips
  for (let x = 0; x < to; x++) {
    const centre = (x + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - reach + 0.5));
    const last = Math.min(width, Math.floor(centre + reach + 0.5));
    const weights = Array.from({ length: last - first }, (_, i) =>
      lanczos((first + i - centre + 0.5) / Math.max(1, scale)),
    );
    const total = weights.reduce((sum, w) => sum + w, 0);
    for (let y = 0; y < height; y++) {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * pixels[y * width + first + i];
      out[x * height + y] = width === to ? pixels[y * width + x] : sum / total;
    }
  }
  return out;
}

/** The nearest pixels of a square picture, black or white. */
function nearest(pixels, from, width, height) {
  const at = (i, to) => Math.floor(((i + 0.5) * from) / to);
  return Uint8Array.from({ length: width * height }, (_, i) => {
    const value = pixels[at(Math.floor(i / width), height) * from + at(i % width, width)];
    return value >= 128 ? 255 : 0;
  });
}
