// node labels.mjs FOLDER BUNDLE DTYPE TEXTS.json
//
// Opens the bundle FOLDER/BUNDLE as transformers.js opens any model of several labels, nothing converted and nothing
// fetched, and prints a JSON array: for each text of TEXTS.json (an array of strings) the labels whose score is above
// one half, in alphabetic order. DTYPE names the file: fp32, fp16 or q8.

import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { env, pipeline } from "@huggingface/transformers";

const [folder, bundle, dtype, textsFile] = process.argv.slice(2);
if (textsFile === undefined) {
  console.error("usage: node labels.mjs FOLDER_THAT_HOLDS_THE_BUNDLE BUNDLE_NAME DTYPE TEXTS.json");
  process.exit(2);
}

env.allowRemoteModels = false;
env.localModelPath = resolve(folder);
env.useFSCache = false; // a cached copy would hide a bundle that no longer loads

const classify = await pipeline("text-classification", bundle, { dtype });
const answers = [];
for (const text of JSON.parse(await readFile(textsFile, "utf8"))) {
  const scores = await classify(text, { top_k: null }); // each by a sigmoid: config.json says the problem type
  answers.push(scores.filter(({ score }) => score > 0.5).map(({ label }) => label).sort());
}
console.log(JSON.stringify(answers));
