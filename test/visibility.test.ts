/** Which keys a row sees: the kernels' intervals against the rules word for word, and against the golden files. */
import { seeingRows, visibleKeys } from '../src/core/visibility.js';
import { attentionCases, decodeCases } from './cases.js';
import type { Case } from './cases.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { goldenFolders, isLater, maskOf, readManifest, readTensors } from './support/golden.js';
import { problemOf } from './support/inputs.js';
import { sees } from './support/naive.js';

function lengthsOf(c: Case, b: number): [rows: number, keys: number] {
  const qLengths = c.op === 'mlaAttention' ? c.qLengths : undefined;
  return [qLengths?.[b] ?? c.sq, c.kvLengths?.[b] ?? c.skv];
}

/** Every (row, key) pair of a case by a rule that gives the pairs of one row or one key at a time. */
function pairs(c: Case, b: number, by: 'definition' | 'visibleKeys' | 'seeingRows'): Uint8Array {
  const problem = problemOf(c);
  const [rows, keys] = lengthsOf(c, b);
  const seen = new Uint8Array(c.sq * c.skv);
  if (by === 'seeingRows') {
    for (let j = 0; j < c.skv; j++) {
      const [lo, hi] = seeingRows(problem, j, rows, keys);
      for (let i = lo; i < hi; i++) seen[i * c.skv + j] = 1;
    }
    return seen;
  }
  for (let i = 0; i < c.sq; i++) {
    const [lo, hi] = by === 'visibleKeys' ? visibleKeys(problem, i, rows, keys) : [0, c.skv];
    for (let j = lo; j < hi; j++) seen[i * c.skv + j] = by === 'visibleKeys' || sees(c, b, i, j) ? 1 : 0;
  }
  return seen;
}

const golden = await Promise.all(
  Object.entries(goldenFolders).flatMap(([title, folder]) =>
    (['attention', 'decode'] as const).map(async (kind) => {
      const entries = ((await readManifest(folder, kind)) ?? []).filter((entry) => !isLater(entry));
      const tensors = await Promise.all(entries.map((entry) => readTensors(folder, kind, entry)));
      return { title: `${title} of the golden files: ${kind}`, entries, tensors };
    }),
  ),
);

describe('visibility', () => {
  for (const c of [...attentionCases, ...decodeCases]) {
    it(`${c.op}: ${c.name}`, () => {
      for (let b = 0; b < c.b; b++) {
        const expected = pairs(c, b, 'definition').join('');
        expectTrue(
          pairs(c, b, 'visibleKeys').join('') === expected,
          `visibleKeys differs in batch entry ${b}`,
        );
        expectTrue(pairs(c, b, 'seeingRows').join('') === expected, `seeingRows differs in batch entry ${b}`);
      }
    });
  }

  for (const { title, entries, tensors } of golden) {
    if (entries.length === 0) it.skip(`${title}: not beside this clone`);
    entries.forEach((entry, index) => {
      it(`${title}: ${entry.name}`, () => {
        const mask = maskOf(entry);
        const { visible_lo: los, visible_hi: his } = tensors[index];
        for (let b = 0; b < mask.b; b++) {
          for (let i = 0; i < mask.sq; i++) {
            const seen = [...Array(mask.skv).keys()].filter((j) => sees(mask, b, i, j));
            const [lo, hi] = [los.values[b * mask.sq + i], his.values[b * mask.sq + i]];
            const expected = hi > lo ? [lo, hi - 1, hi - lo] : [undefined, undefined, 0];
            expectEqual(
              [seen[0], seen.at(-1), seen.length],
              expected,
              `keys of row ${i} of batch entry ${b}`,
            );
          }
        }
      });
    });
  }
});
