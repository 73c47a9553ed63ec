// node tags.mjs FOLDER BUNDLE DTYPE TEXTS.json
//
// Opens the bundle FOLDER/BUNDLE as transformers.js opens any tagger, nothing converted and nothing fetched, and prints
// a JSON array: for each text of TEXTS.json (an array of strings) its tokens that are in a span, as [token, tag].
// DTYPE names the file: fp32, fp16 or q8.

import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { env, pipeline } from "@huggingface/transformers";

const [folder, bundle, dtype, textsFile] = process.argv.slice(2);
if (textsFile === undefined) {
  console.error("usage: node tags.mjs FOLDER_THAT_HOLDS_THE_BUNDLE BUNDLE_NAME DTYPE TEXTS.json");
  process.exit(2);
}

env.allowRemoteModels = false;
env.localModelPath = resolve(folder);
env.useFSCache = false; // a cached copy would hide a bundle that no longer loads

const tag = await pipeline("token-classification", bundle, { dtype });
const answers = [];
for (const text of JSON.parse(await readFile(textsFile, "utf8"))) {
  answers.push((await tag(text)).map(({ word, entity }) => [word, entity])); // tokens tagged O are left out
}
console.log(JSON.stringify(answers));
