/** A model that training/export.py wrote: `adapt.onnx`, the whole adaptation as one graph, and `export.json`. */

import wasm from "onnxruntime-web/ort-wasm-simd-threaded.wasm";
import { env, InferenceSession, Tensor } from "onnxruntime-web/wasm";

env.wasm.wasmPaths = { wasm: new URL(wasm, import.meta.url).href };
env.wasm.numThreads = 1; // more need headers that a static host does not send

/** The files of an exported folder that the page reads. */
export const FILES = ["adapt.onnx", "export.json", "example.safetensors"];

/** Largest difference from the example's predictions. */
const TOLERANCE = 1e-3;

/** What is wrong, as a sentence for the page. */
export class Problem extends Error {}

export class Model {
  /**
   * @param {object} about export.json
   * @param {InferenceSession} session of adapt.onnx
   */
  constructor(about, session) {
    this.about = about;
    this.session = session;
  }

  /** Opens a model, and lets it compute the example that it came with.
   *
   * @param {ArrayBuffer[]} files the contents of FILES
   * @throws {Problem} a file is damaged, or the example's predictions are others
   */
  static async open([graph, json, example]) {
    if (typeof WebAssembly !== "object") {
      throw new Problem("This browser has no WebAssembly, which the models need.");
    }
    const about = read("export.json", () => JSON.parse(new TextDecoder().decode(json)));
    const session = await InferenceSession.create(graph).catch((error) => {
      console.warn(error);
      throw new Problem("adapt.onnx is damaged, or is no model that this browser can run.");
    });
    const model = new Model(about, session);
    await model.check(read("example.safetensors", () => tensors(example)));
    return model;
  }

  get ofClasses() {
    return this.about.task === "classification";
  }

  /** Adapts to support samples and predicts query samples.
   *
   * @param {Float32Array} supportX all samples' numbers, one after the other, as the network takes them
   * @param {ArrayLike<number | bigint>} supportY classes from 0 without a gap, or targets
   * @param {Float32Array} queryX
   * @param {number} rate the inner learning rate, or the factor on the learned ones
   * @returns {Promise<Float32Array[][]>} predictions after each inner step, of each query sample
   */
  async adapt(supportX, supportY, queryX, rate = this.about.inner_lr?.default) {
    const shape = this.about.input_shape;
    const size = shape.reduce((product, n) => product * n, 1);
    const samples = (x) => new Tensor("float32", x, [x.length / size, ...shape]);
    const inputs = {
      support_x: samples(supportX),
      support_y: this.ofClasses
        ? new Tensor("int64", BigInt64Array.from(supportY, BigInt), [supportY.length])
        : new Tensor("float32", Float32Array.from(supportY), [supportY.length, 1]),
      query_x: samples(queryX),
    };
    if (this.about.inputs.includes("inner_lr")) inputs.inner_lr = new Tensor("float32", [rate], []);
    const { predictions } = await this.session.run(inputs);
    const [steps, queries, outputs] = predictions.dims;
    return Array.from({ length: steps }, (_, step) =>
      Array.from({ length: queries }, (_, query) => {
        const start = (step * queries + query) * outputs;
        return predictions.data.slice(start, start + outputs);
      }),
    );
  }

  /** Computes an example. */
  async check({ support_x, support_y, query_x, inner_lr, predictions }) {
    const steps = await this.adapt(support_x, support_y, query_x, inner_lr?.[0]);
    const computed = steps.flat().flatMap((row) => [...row]);
    const off = (value, i) => !(Math.abs(value - predictions[i]) <= TOLERANCE); // true of NaN too
    if (computed.length !== predictions.length || computed.some(off)) {
      throw new Problem("adapt.onnx does not give the predictions in example.safetensors: export it again.");
    }
  }
}

function read(name, parse) {
  try {
    return parse();
  } catch {
    throw new Problem(`${name} is damaged.`);
  }
}

/** The tensors of a safetensors file by name, flat. */
function tensors(buffer) {
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(buffer.slice(8, start)));
  const { __metadata__, ...entries } = header;
  const kinds = { F32: Float32Array, I64: BigInt64Array };
  return Object.fromEntries(
    Object.entries(entries).map(
      ([
        name,
        {
          dtype,
          data_offsets: [from, to],
        },
      ]) => [name, new kinds[dtype](buffer.slice(start + from, start + to))],
    ),
  );
}
