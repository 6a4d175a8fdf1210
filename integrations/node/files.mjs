// Files of numbers and pictures: .npy and .png.

import { readFileSync, writeFileSync } from "node:fs";
import { crc32, deflateSync } from "node:zlib";

/** The numbers of a float32 .npy file in C order, or of a raw file of little-endian float32. */
export function readFloats(path) {
  const bytes = readFileSync(path);
  if (bytes.toString("latin1", 0, 6) !== "\x93NUMPY") return floats(bytes);
  const wide = bytes[6] > 1; // version 2 has a longer length
  const start = wide ? 12 : 10;
  const end = start + (wide ? bytes.readUInt32LE(8) : bytes.readUInt16LE(8));
  const header = bytes.toString("latin1", start, end);
  if (!header.includes("'<f4'") || header.includes("'fortran_order': True")) {
    throw new Error(`${path} has ${header.trim()}; only float32 in C order is supported`);
  }
  return floats(bytes.subarray(end));
}

function floats(bytes) {
  return new Float32Array(new Uint8Array(bytes).buffer);
}

/** Write float32 numbers as .npy. */
export function writeNpy(path, data, shape) {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.map((n) => `${n},`).join(" ")}), }`;
  const padded = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11) + "\n";
  const head = Buffer.from(`\x93NUMPY\x01\x00\0\0${padded}`, "latin1");
  head.writeUInt16LE(padded.length, 8);
  writeFileSync(path, Buffer.concat([head, Buffer.from(data.buffer, data.byteOffset, data.byteLength)]));
}

/** Write picture `number` of `[B, 3, height, width]` in 0..1 as .png. */
export function writePng(path, { data, dims: [, , height, width] }, number) {
  const area = height * width;
  const rows = Buffer.alloc(height * (1 + 3 * width)); // each begins with 0: no filter
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      for (let c = 0; c < 3; c += 1) {
        const value = data[(number * 3 + c) * area + y * width + x];
        rows[y * (1 + 3 * width) + 1 + 3 * x + c] = Math.round(value * 255);
      }
    }
  }
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2], 8); // 8 bits, RGB
  const chunks = [chunk("IHDR", head), chunk("IDAT", deflateSync(rows)), chunk("IEND", Buffer.alloc(0))];
  writeFileSync(path, Buffer.concat([Buffer.from("\x89PNG\r\n\x1a\n", "latin1"), ...chunks]));
}

function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const frame = Buffer.alloc(8);
  frame.writeUInt32BE(data.length, 0);
  frame.writeUInt32BE(crc32(body), 4);
  return Buffer.concat([frame.subarray(0, 4), body, frame.subarray(4)]);
}
