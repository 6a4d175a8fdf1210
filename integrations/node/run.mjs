// node run.mjs BUNDLE --prompt TEXT --latents FILE.npy: makes pictures with a bundle, without Python.

import { parseArgs } from "node:util";

import { openBundle } from "./bundle.mjs";
import { readFloats, writeNpy, writePng } from "./files.mjs";
import { loadGraphs, runBundle } from "./program.mjs";
import { promptInputs } from "./prompt.mjs";

const { values: asked, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    prompt: { type: "string" },
    negative: { type: "string", default: "" },
    latents: { type: "string" },
    height: { type: "string" },
    width: { type: "string" },
    "num-images": { type: "string" },
    "save-latents": { type: "string" },
    output: { type: "string", short: "o" },
  },
});

try {
  await main(positionals[0]);
} catch (error) {
  console.error(`Error: ${error.message}`);
  process.exitCode = 2;
}

async function main(folder) {
  if (folder === undefined || asked.prompt === undefined || asked.latents === undefined) {
    throw new Error("a bundle, --prompt and --latents are needed; see README.md");
  }
  const bundle = openBundle(folder, {
    height: number(asked.height),
    width: number(asked.width),
    images: number(asked["num-images"]),
  });
  const prompt = promptInputs(bundle, { prompt: asked.prompt, negative: asked.negative });
  const known = readFloats(asked.latents);
  const { latents, image } = await runBundle(bundle, await loadGraphs(bundle), prompt, known);
  if (asked["save-latents"]) writeNpy(asked["save-latents"], latents.data, latents.dims);
  if (asked.output) {
    if (image.dims.length !== 4) throw new Error("the bundle makes videos; leave -o out");
    for (let k = 0; k < image.dims[0]; k += 1) writePng(numbered(asked.output, k, image.dims[0]), image, k);
  }
}

function number(text) {
  return text === undefined ? undefined : Number(text);
}

function numbered(path, k, count) {
  return count === 1 ? path : path.replace(/(\.\w+)?$/, `-${k}$1`);
}
