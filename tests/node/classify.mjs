// node classify.mjs FOLDER BUNDLE DTYPE TEXTS.json
//
// Opens the bundle FOLDER/BUNDLE as transformers.js opens any model folder, nothing converted and nothing fetched, and
// prints a JSON array: for each text of TEXTS.json (an array of strings) its token_ids, logits and top label. DTYPE
// names the file: fp32 for onnx/model.onnx, fp16 for onnx/model_fp16.onnx, q8 for onnx/model_quantized.onnx.

import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { env, pipeline } from "@huggingface/transformers";

const [folder, bundle, dtype, textsFile] = process.argv.slice(2);
if (textsFile === undefined) {
  console.error("usage: node classify.mjs FOLDER_THAT_HOLDS_THE_BUNDLE BUNDLE_NAME DTYPE TEXTS.json");
  process.exit(2);
}

env.allowRemoteModels = false;
env.localModelPath = resolve(folder);
env.useFSCache = false; // a cached copy would hide a bundle that no longer loads

const classifier = await pipeline("text-classification", bundle, { dtype });
const answers = [];
for (const text of JSON.parse(await readFile(textsFile, "utf8"))) {
  const inputs = classifier.tokenizer(text, { truncation: true }); // one text at a time: no padding, as in Python
  const { logits } = await classifier.model(inputs);
  const [{ label }] = await classifier(text);
  answers.push({
    text,
    token_ids: Array.from(inputs.input_ids.data, Number),
    logits: Array.from(logits.data),
    label,
  });
}
console.log(JSON.stringify(answers));
