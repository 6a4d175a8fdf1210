// What the conditioner takes, made from a prompt.

import { readFileSync } from "node:fs";

import { Tokenizer } from "@huggingface/tokenizers";
import { Tensor } from "onnxruntime-node";

const CLEANINGS = {
  mend: unchanged,
  unescape: unchanged,
  strip: (text) => text.trim(),
  squash: (text) => text.replace(/\s+/g, " "),
  lower: (text) => text.toLowerCase(),
};

/** Text that neither ftfy nor HTML changes; these are not here. */
function unchanged(text) {
  if (/^[\x20-\x25\x27-\x7e]*$/.test(text)) return text;
  throw new Error(`'${text}' may need cleaning, which this runner does not do; give plain ASCII without '&'`);
}

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
function requireKnown({ name, quotation, spelled, placeholders, cleanings }) {
  const needs = [
    ...(quotation ? ["quotation"] : []),
    ...(spelled?.length ? ["spelled"] : []),
    ...(placeholders ? ["placeholders"] : []),
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
  const { padding } = settings;
  const cleaned = (each.cleanings ?? []).reduce((t, name) => CLEANINGS[name](t), text);
  const whole = `${each.before ?? ""}${cleaned || (each.empty ?? "")}${each.after ?? ""}`;
  const tokens = truncated(settings, whole, each.special ?? true);
  if (!each.multiple) {
    const fill = padded(padding?.direction, padding ? each.length - tokens.length : 0);
    return { ids: fill(tokens, padding?.pad_id), mask: fill(Array(tokens.length).fill(1), 0) };
  }
  const read = tokens.length ? tokens : [each.alone ?? 0];
  const missing = Math.ceil(read.length / each.multiple) * each.multiple - read.length;
  const ids = padded(padding?.direction, missing)(read, padding?.pad_id);
  const end = padded("Right", each.length - ids.length);
  return { ids: end(ids, 0), mask: end(Array(ids.length).fill(1), 0) };
}

/** A function that puts `count` times `by` before or behind values. */
function padded(direction, count) {
  return (values, by) => {
    const filling = Array(count).fill(by);
    return direction === "Left" ? [...filling, ...values] : [...values, ...filling];
  };
}

/** The ids of a text, of which the special tokens are kept when the text is cut. */
function truncated(settings, text, special) {
  const tokenizer = new Tokenizer(settings, {});
  const plain = tokenizer.encode(text, { add_special_tokens: false }).ids;
  const [before, after] = special ? specialTokens(settings, tokenizer, text, plain) : [[], []];
  const { max_length: limit = Infinity, direction } = settings.truncation ?? {};
  const room = Math.min(plain.length, limit - before.length - after.length);
  const start = direction === "Left" ? plain.length - room : 0;
  return [...before, ...plain.slice(start, start + room), ...after];
}

/** The special tokens before and after a text: those of a template, else what the tokenizer adds. */
function specialTokens({ post_processor: last }, tokenizer, text, plain) {
  const template = [last, ...(last?.processors ?? [])].find((each) => each?.type === "TemplateProcessing");
  if (template) { // by their numbers, because they need not be words of the vocabulary
    const place = template.single.findIndex((each) => "Sequence" in each);
    const ids = (parts) => parts.flatMap(({ SpecialToken: { id } }) => template.special_tokens[id].ids);
    return [ids(template.single.slice(0, place)), ids(template.single.slice(place + 1))];
  }
  const whole = tokenizer.encode(text, { add_special_tokens: true }).ids;
  let place = 0;
  while (plain.some((id, k) => whole[place + k] !== id) && place < whole.length) place += 1;
  return [whole.slice(0, place), whole.slice(place + plain.length)];
}

function int64(values, dims) {
  return new Tensor("int64", BigInt64Array.from(values, BigInt), dims);
}
