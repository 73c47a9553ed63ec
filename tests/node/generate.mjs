// node generate.mjs FOLDER BUNDLE DTYPE TEXTS.json COUNT
//
// Opens the bundle FOLDER/BUNDLE as transformers.js opens any language model, nothing converted and nothing fetched, and
// prints a JSON array: for each text of TEXTS.json (an array of strings) {"ids": its token ids, "written": the COUNT ids
// that it writes greedily behind them}. DTYPE names the file: fp32, q8 or q4.

import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { AutoModelForCausalLM, AutoTokenizer, env } from "@huggingface/transformers";

const [folder, bundle, dtype, textsFile, count] = process.argv.slice(2);
if (count === undefined) {
  console.error("usage: node generate.mjs FOLDER_THAT_HOLDS_THE_BUNDLE BUNDLE_NAME DTYPE TEXTS.json COUNT");
  process.exit(2);
}

env.allowRemoteModels = false;
env.localModelPath = resolve(folder);
env.useFSCache = false; // a cached copy would hide a bundle that no longer loads

const tokenizer = await AutoTokenizer.from_pretrained(bundle);
const model = await AutoModelForCausalLM.from_pretrained(bundle, { dtype, device: "cpu" });
const answers = [];
for (const text of JSON.parse(await readFile(textsFile, "utf8"))) {
  const inputs = await tokenizer(text, { add_special_tokens: false });
  const numbers = Number(count);
  const whole = await model.generate({
    ...inputs,
    max_new_tokens: numbers,
    min_new_tokens: numbers,
    do_sample: false,
    eos_token_id: [],
  });
  const ids = Array.from(whole.data, Number);
  const given = inputs.input_ids.dims[1];
  answers.push({ ids: ids.slice(0, given), written: ids.slice(given) });
}
console.log(JSON.stringify(answers));
