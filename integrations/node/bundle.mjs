// A bundle on disk: its manifest, one of its variants, and files that are checked before they are read.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const READABLE = [4, 5];

/** Open the variant of the bundle in `folder` that `size` asks for; the first one if it asks nothing. */
export function openBundle(folder, size = {}) {
  const manifest = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8"));
  if (manifest.kind !== "stepcarve-bundle" || !READABLE.includes(manifest.schema)) {
    throw new Error(
      `${folder} has kind ${manifest.kind} and schema ${manifest.schema}; stepcarve-bundle with schema ` +
        `${READABLE.join(" or ")} is read; export again`,
    );
  }
  const asked = Object.entries(size).filter(([, value]) => value !== undefined);
  const variant = manifest.variants.find((each) => asked.every(([key, value]) => each[key] === value));
  if (variant === undefined) {
    const there = manifest.variants.map((v) => `${v.width}x${v.height} with ${v.images} images`);
    throw new Error(`no variant has ${JSON.stringify(size)}; choose one of ${there.join(", ")}`);
  }
  const checked = new Set();
  /** The path of a file, whose content is what was exported. */
  const file = (name) => {
    const path = join(folder, name);
    if (!checked.has(name)) requireUnchanged(path, name, manifest.files[name]);
    checked.add(name);
    return path;
  };
  file("weights.bin"); // the graphs read it by themselves
  return { manifest, variant, file };
}

function requireUnchanged(path, name, expected) {
  if (expected === undefined || name.includes("/") || name.includes("\\")) {
    throw new Error(`the manifest does not list the file '${name}'; export again`);
  }
  const found = createHash("sha256").update(readFileSync(path)).digest("hex");
  if (found !== expected) {
    throw new Error(`${path} has SHA-256 ${found}, but the manifest says ${expected}; export again`);
  }
}
