// Images as unit vectors: the file that `pir export-rows FILE.parquet` writes, and the search among them.

import { decompress } from "fzstd";
import { parquetReadObjects } from "hyparquet";

const compressors = { ZSTD: (bytes, length) => decompress(bytes, new Uint8Array(length)) };

/**
 * Read an exported index.
 * @param {ArrayBuffer} file
 * @returns {Promise<{rows: object[], vectors: Float32Array, dim: number}>} rows without their vectors, which are in one
 */
export async function readCollection(file) {
  const rows = await parquetReadObjects({ file, compressors });
  if (!rows.length || !rows[0].embedding) throw new Error("The file has no column 'embedding': export it by pir index.");
  const dim = rows[0].embedding.length;
  const vectors = new Float32Array(rows.length * dim);
  rows.forEach((row, index) => {
    vectors.set(row.embedding, index * dim);
    delete row.embedding;
  });
  return { rows, vectors, dim };
}

/**
 * The nearest images of a vector.
 * @returns {{row: object, similarity: number}[]} the `count` nearest, by cosine; equal ones in the order of the file
 */
export function nearest({ rows, vectors, dim }, query, count) {
  if (query.length !== dim) throw new Error(`The images were embedded by another model: ${dim} numbers, not ${query.length}.`);
  const similarities = new Float32Array(rows.length);
  for (let index = 0; index < rows.length; index++) {
    let sum = 0;
    for (let place = 0; place < dim; place++) sum += vectors[index * dim + place] * query[place];
    similarities[index] = sum;
  }
  const order = Array.from(similarities.keys()).sort((a, b) => similarities[b] - similarities[a] || a - b);
  return order.slice(0, count).map((index) => ({ row: rows[index], similarity: similarities[index] }));
}
