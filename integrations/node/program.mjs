// The program of a bundle: condition, prologue, calls with caches and the sampler's sums, decoder.

import { InferenceSession, Tensor } from "onnxruntime-node";

/** Load the graphs of a variant, once. */
export async function loadGraphs({ variant, file }) {
  const names = [variant.conditioner, variant.prologue, variant.decoder, ...variant.graphs];
  const sessions = {};
  for (const name of names.filter((each) => each !== null)) {
    sessions[name] ??= await InferenceSession.create(file(name));
  }
  return sessions;
}

/**
 * Run a bundle once.
 *
 * @param bundle - of `openBundle`.
 * @param sessions - of `loadGraphs`.
 * @param prompt - inputs of the conditioner, of `promptInputs`.
 * @param known - Float32Array: what is known before the loop, one after the other, each of `latent_shape`:
 *   the given latents, if the bundle takes any, and the noises in the order drawn.
 * @returns final latents and pictures `[B, 3, height, width]` in 0..1, as tensors.
 */
export async function runBundle({ manifest, variant }, sessions, prompt, known) {
  const shared = { guidance_scale: new Tensor("float32", Float32Array.of(manifest.guidance), []) };
  Object.assign(shared, await call(sessions[variant.conditioner], prompt));
  if (variant.prologue) Object.assign(shared, await call(sessions[variant.prologue], shared));

  const terms = split(known, variant);
  const slots = [];
  const timesteps = [...new Set(variant.calls.map(({ timestep }) => timestep))];
  for (const [number, each] of variant.calls.entries()) {
    const inputs = { ...shared, sample: sum(variant.sampler.inputs[number], terms, variant.latent_shape) };
    const row = timesteps.indexOf(each.timestep);
    for (const name of variant.rows) inputs[name] = rowOf(shared[name], row);
    for (const [name, slot] of Object.entries(each.reads)) inputs[name] = slots[slot];
    for (const [name, values] of Object.entries(each.coefficients ?? {})) {
      inputs[name] = new Tensor("float32", Float32Array.from(values), [values.length]);
    }
    const made = await call(sessions[variant.graphs[each.graph]], inputs);
    for (const [name, slot] of Object.entries(each.writes)) slots[slot] = made[name];
    if (each.prediction !== null) terms.predictions[each.prediction] = made.noise_prediction.data;
  }
  const latents = sum(variant.sampler.final, terms, variant.latent_shape);
  if (!latents.data.every(Number.isFinite)) {
    throw new Error("the final latents are not all finite; run stepcarve verify on this bundle");
  }
  const { image } = await call(sessions[variant.decoder], { latents });
  return { latents, image };
}

/** Run a graph on those of `values` that it takes. */
function call(session, values) {
  return session.run(Object.fromEntries(session.inputNames.map((name) => [name, values[name]])));
}

/** What is known before the loop, each apart, and the predictions that are not yet there. */
function split(known, { sampler, latent_shape: shape }) {
  const size = shape.reduce((a, b) => a * b, 1);
  const count = sampler.noises + (sampler.given ? 1 : 0);
  if (known.length !== count * size) {
    throw new Error(
      `${known.length} numbers are given, but the bundle begins from ${count} x [${shape.join(", ")}]; give these`,
    );
  }
  const parts = Array.from({ length: count }, (_, k) => known.subarray(k * size, (k + 1) * size));
  return { known: parts, predictions: [] };
}

/** The sum of the known and of the predictions that a row of the sampler's table gives. */
function sum(row, { known, predictions }, shape) {
  const total = new Float64Array(shape.reduce((a, b) => a * b, 1));
  for (const [place, coefficient] of row.entries()) {
    if (coefficient === 0) continue;
    const term = place < known.length ? known[place] : predictions[place - known.length];
    for (let k = 0; k < total.length; k += 1) total[k] += coefficient * term[k];
  }
  return new Tensor("float32", Float32Array.from(total), shape);
}

/** Row `row` of a tensor with one row per timestep, without a copy. */
function rowOf(tensor, row) {
  const dims = tensor.dims.slice(1);
  const size = dims.reduce((a, b) => a * b, 1);
  return new Tensor(tensor.type, tensor.data.subarray(row * size, (row + 1) * size), dims);
}
