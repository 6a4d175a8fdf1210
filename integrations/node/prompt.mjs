// What the conditioner takes, made from a prompt.

import { readFileSync } from "node:fs";

import { Tokenizer } from "@huggingface/tokenizers";
import { Tensor } from "onnxruntime-node";

const CLEANINGS = {
  strip: (text) => text.trim(),
  squash: (text) => text.replace(/\s+/g, " "),
  lower: (text) => text.toLowerCase(),
};

/** The inputs of `condition.onnx` by name; `texts` has the prompt and the negative prompt. */
export function promptInputs({ manifest, file }, texts) {
  if (texts.negative && !manifest.prompt_inputs.some(({ source }) => source === "negative")) {
    throw new Error("the bundle takes no negative prompt; leave it out");
  }
  const made = {};
  for (const each of manifest.prompt_inputs) {
    requireKnown(each);
    made[each.name] = filling(each, texts[each.source], manifest, file);
  }
  return made;
}

function filling(each, text, manifest, file) {
  switch (each.fill) {
    case "ids":
      return int64(encode(each, text, file).ids, [1, each.length]);
    case "mask":
      return int64(encode(each, text, file).mask, [1, each.length]);
    case "given":
      return int64([text === "" ? 0 : 1], [1]);
    case "label":
      return int64([classNumber(text, manifest.labels, each.classes)], [1]);
    case "scale": {
      const lora = manifest.live_loras.find(({ name }) => name === each.source);
      return new Tensor("float32", Float32Array.of(lora.scale), [1]);
    }
    default:
      throw new Error(`the bundle takes a ${each.fill}; this runner gives texts and classes only`);
  }
}

/** Refuse what a text would need that is not done here, rather than tokenise another text. */
function requireKnown({ name, quotation, spelled, placeholders, multiple, cleanings }) {
  const needs = [
    ...(quotation ? ["quotation"] : []),
    ...(spelled?.length ? ["spelled"] : []),
    ...(placeholders ? ["placeholders"] : []),
    ...(multiple ? ["multiple"] : []),
    ...(cleanings ?? []).filter((each) => !(each in CLEANINGS)),
  ];
  if (needs.length) {
    throw new Error(`'${name}' needs ${needs.join(", ")}, which this runner does not do; use stepcarve run`);
  }
}

function classNumber(text, labels, classes) {
  if (Object.hasOwn(labels, text)) return labels[text];
  const numbers = Object.values(labels);
  const number = /^\d+$/.test(text) ? Number(text) : -1;
  if (numbers.length ? numbers.includes(number) : number >= 0 && number < classes) return number;
  throw new Error(`there is no class '${text}'; give a number or one of ${Object.keys(labels).join(", ")}`);
}

/** Ids and mask, truncated and padded as the tokenizer's file says. */
function encode(each, text, file) {
  const settings = JSON.parse(readFileSync(file(each.tokenizer), "utf8"));
  const { truncation, padding } = settings;
  for (const part of [truncation, padding]) {
    if (part && part.direction !== "Right") {
      throw new Error(`${each.tokenizer} cuts or pads on the ${part.direction}; this runner does it on the Right`);
    }
  }
  const cleaned = (each.cleanings ?? []).reduce((t, name) => CLEANINGS[name](t), text);
  const whole = `${each.before ?? ""}${cleaned || (each.empty ?? "")}${each.after ?? ""}`;
  const ids = truncated(new Tokenizer(settings, {}), whole, each.special ?? true, truncation?.max_length);
  const filled = padding ? each.length - ids.length : 0;
  const fill = (value, by) => [...value, ...Array(filled).fill(by)];
  return { ids: fill(ids, padding?.pad_id), mask: fill(Array(ids.length).fill(1), 0) };
}

/** The ids of a text, of which the special tokens are kept when the end of the text is cut off. */
function truncated(tokenizer, text, special, limit = Infinity) {
  const plain = tokenizer.encode(text, { add_special_tokens: false }).ids;
  if (!special) return plain.slice(0, limit);
  const whole = tokenizer.encode(text, { add_special_tokens: true }).ids;
  const added = whole.length - plain.length;
  let before = 0;
  while (before < added && plain.some((id, place) => whole[before + place] !== id)) before += 1;
  const after = whole.slice(before + plain.length);
  return [...whole.slice(0, before), ...plain.slice(0, limit - added), ...after];
}

function int64(values, dims) {
  return new Tensor("int64", BigInt64Array.from(values, BigInt), dims);
}
