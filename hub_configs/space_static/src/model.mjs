// The two sides of PIR by onnxruntime-web, which the page loads as the global `ort`.

import { Tokenizer } from "@huggingface/tokenizers";

import { readFile, readJson } from "./files.mjs";
import { decode, pixelValues } from "./pixels.mjs";

/** Make onnxruntime-web take its WebAssembly from the page's files, and one thread: more need headers of a server. */
async function prepareRuntime() {
  const [wasm, glue] = await Promise.all(["ort.wasm", "ort.mjs"].map((name) => readFile(name)));
  ort.env.wasm.wasmBinary = wasm.buffer;
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([glue], { type: "text/javascript" })) };
  ort.env.wasm.numThreads = 1;
}

/**
 * Load the model; its image side, which many visitors never need, when the first image comes.
 * @param {"" | "_quantized"} form which of the exported weights
 * @returns {Promise<{embedText: Function, embedImage: Function}>} each gives a unit vector, Float32Array
 */
export async function loadModel(form) {
  const [tokenizerJson, tokenizerConfig, settings] = await Promise.all(
    ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"].map((name) => readJson(name)),
  );
  const tokenizer = new Tokenizer(tokenizerJson, tokenizerConfig);
  const maxLength = tokenizerJson.truncation.max_length; // which the library leaves to its user
  await prepareRuntime();
  const load = async (name) => ort.InferenceSession.create(await readFile(`${name}${form}.onnx`));
  const textSession = await load("text_model");
  let visionSession = null;

  async function embedText(sentence) {
    let { ids } = tokenizer.encode(sentence);
    if (ids.length <= 2) throw new Error("Write a sentence with at least one word.");
    if (ids.length > maxLength) ids = [...ids.slice(0, maxLength - 1), ids.at(-1)];
    const tensor = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
    const outputs = await textSession.run({ input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) });
    return outputs.text_embeds.data;
  }

  async function embedImage(file) {
    visionSession ??= await load("vision_model");
    const { data, width, height } = await decode(file);
    const shape = [1, 3, settings.size.height, settings.size.width];
    const tensor = new ort.Tensor("float32", pixelValues(data, width, height, settings), shape);
    return (await visionSession.run({ pixel_values: tensor })).image_embeds.data;
  }

  return { embedText, embedImage };
}
