/** The table of cases keeps what it promises: every value of every axis, at a cost that a software GPU can bear. */
import { appendCases, attentionCases, decodeCases, flopsOf } from './cases.js';
import type { AttentionCase, Case, Cost } from './cases.js';
import { expectEqual, expectTrue } from './support/expect.js';

const cases: Case[] = [...attentionCases, ...decodeCases];

function expectAll<T>(axis: string, values: T[], expected: T[]): void {
  const texts = new Set(values.map((value) => JSON.stringify(value)));
  const missing = expected.filter((value) => !texts.has(JSON.stringify(value)));
  expectEqual(missing, [], `${axis} without a case`);
}

const kindsOf: Record<string, (c: Case) => unknown> = {
  layout: (c) => c.layout,
  causal: (c) => c.causal,
  'rows against keys': (c) => Math.sign(c.sq - c.skv),
  'rows against keys, by alignment': (c) => [c.causal, Math.sign(c.sq - c.skv)],
  'window sides': (c) => c.window.map((keys) => (keys < 0 ? 'open' : keys === 0 ? 'diagonal' : 'keys')),
  'ragged keys': (c) => c.kvLengths !== undefined,
  'gradient of lse': (c) => c.hasDLse,
};

const valuesOf: Record<string, unknown[]> = {
  layout: ['bshd', 'bhsd', 'sbhd'],
  causal: [false, 'bottom-right', 'top-left'],
  'rows against keys': [-1, 0, 1],
  'rows against keys, by alignment': [
    ...[-1, 0, 1].map((sign) => [false, sign]),
    ...[-1, 0, 1].map((sign) => ['bottom-right', sign]),
    ...[-1, 0, 1].map((sign) => ['top-left', sign]),
  ],
  'window sides': [
    ['open', 'open'],
    ['keys', 'open'],
    ['keys', 'keys'],
    ['open', 'keys'],
    ['keys', 'diagonal'],
    ['diagonal', 'diagonal'],
  ],
  'ragged keys': [true, false],
  'gradient of lse': [true, false],
};

describe('cases', () => {
  it('have names of their own', () => {
    for (const table of [attentionCases, decodeCases, appendCases]) {
      expectEqual(new Set<string>(table.map(({ name }) => name)).size, table.length, 'different names');
    }
  });

  for (const [axis, expected] of Object.entries(valuesOf)) {
    it(`cover ${axis}`, () => expectAll(axis, attentionCases.map(kindsOf[axis]), expected));
  }

  it('cover layouts, alignments and masks of decode', () => {
    expectAll('layout', decodeCases.map(kindsOf.layout), valuesOf.layout);
    expectAll('causal', decodeCases.map(kindsOf.causal), valuesOf.causal);
    expectAll('rows against keys', decodeCases.map(kindsOf['rows against keys']), [-1, 0, 1]);
  });

  it('cover sizes, head sizes and heads', () => {
    const sizes = cases.flatMap(({ b, sq, skv }) => [b, sq, skv]);
    expectAll('size', sizes, [0, 1, 113, 129]);
    const headSizes = attentionCases.map(({ dqk, dv }) => [dqk, dv]);
    expectAll('dqk, dv', headSizes, [
      [192, 128],
      [96, 64],
      [64, 64],
      [40, 24],
      [256, 256],
      [7, 5],
      [1, 1],
    ]);
    const heads = attentionCases.map(({ hq, hkv }: AttentionCase) => [hq, hkv]);
    expectAll('hq, hkv', heads, [
      [1, 1],
      [3, 3],
      [16, 16],
      [8, 2],
      [16, 1],
    ]);
    expectAll(
      'decode heads',
      decodeCases.map(({ hq }) => hq),
      [1, 3, 16, 128],
    );
    const ranks = decodeCases.map(({ r, rr }) => [r, rr]);
    expectAll('r, rr', ranks, [
      [512, 64],
      [576, 128],
      [64, 16],
      [40, 0],
      [7, 5],
    ]);
  });

  it('have the shared rope part in every layout, with lengths and with groups', () => {
    const split = attentionCases.filter(({ dr }) => dr > 0);
    expectAll(
      'layout',
      split.map(({ layout }) => layout),
      ['bshd', 'bhsd', 'sbhd'],
    );
    expectTrue(
      split.some(({ kvLengths }) => kvLengths !== undefined),
      'no ragged case with kRope',
    );
    expectTrue(
      split.some(({ hq, hkv }) => hkv > 1 && hq > hkv),
      'no grouped case with kRope',
    );
  });

  const mostGigaflops: Record<Cost, number> = { small: 0.1, medium: 2, large: 2 };
  for (const cost of ['small', 'medium', 'large'] as const) {
    it(`that are ${cost} take at most ${mostGigaflops[cost]} GFLOP in all`, () => {
      const total = cases.filter((c) => c.cost === cost).reduce((sum, c) => sum + flopsOf(c), 0);
      expectTrue(total <= mostGigaflops[cost] * 1e9, `got ${(total / 1e9).toFixed(2)} GFLOP`);
    });
  }
});
