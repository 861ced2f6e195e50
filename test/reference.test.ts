/** The reference against two oracles that share nothing with it: tfjs's own ops with autodiff, and differences. */
import * as tf from '@tensorflow/tfjs-core';
import { sizeOf } from '../src/core/layout.js';
import { attentionCases, decodeCases } from './cases.js';
import type { Case } from './cases.js';
import { answersOf } from './support/answers.js';
import { expectClose, forwardBounds, gradientBounds } from './support/compare.js';
import './support/devices.js';
import { expectTrue } from './support/expect.js';
import { differenceQuotients } from './support/finiteDifferences.js';
import { naiveAnswers } from './support/naive.js';
import { isPage } from './support/onDevice.js';

const cases: Case[] = [...attentionCases, ...decodeCases];

function isEmpty({ b, hq, sq, skv }: Case): boolean {
  return sizeOf([b, hq, sq, skv]) === 0;
}

describe('reference', () => {
  before(() => tf.setBackend('cpu'));

  describe('against composed ops and autodiff', () => {
    for (const c of cases.filter((other) => !isEmpty(other))) {
      if (isPage && c.cost !== 'small') {
        it.skip(`${c.op}: ${c.name}: ${c.cost}, runs in Node`);
        continue;
      }
      it(`${c.op}: ${c.name}`, () => {
        const { tensors } = answersOf(c);
        for (const [name, expected] of Object.entries(naiveAnswers(c))) {
          const bounds = name === 'out' || name === 'lse' ? forwardBounds : gradientBounds;
          expectClose(name, tensors[name], expected, bounds);
        }
      });
    }
  });

  describe('against differences in float64', () => {
    const small = ['one of everything', 'odd columns', 'odd columns, sbhd', 'the whole key is shared'];
    const ofDecode = ['odd columns'];
    const chosen = [
      ...attentionCases.filter(({ name }) => small.includes(name)),
      ...decodeCases.filter(({ name }) => ofDecode.includes(name)),
    ];
    expectTrue(chosen.length === small.length + ofDecode.length, 'a case was renamed');
    for (const c of chosen) {
      const inputs = c.op === 'mlaDecode' ? ['qLatent', 'qRope', 'cKv', 'kRope'] : ['q', 'k', 'v', 'kRope'];
      const outputs =
        c.op === 'mlaDecode' ? ['dQLatent', 'dQRope', 'dCkv', 'dKRope'] : ['dQ', 'dK', 'dV', 'dKRope'];
      it(`${c.op}: ${c.name}`, () => {
        inputs.forEach((input, index) => {
          const expected = differenceQuotients(c, input);
          expectClose(outputs[index], answersOf(c).tensors[outputs[index]], expected, gradientBounds);
        });
      });
    }
  });

  describe('of cases of size zero', () => {
    for (const c of cases.filter(isEmpty)) {
      it(`${c.op}: ${c.name}`, () => {
        const { tensors } = answersOf(c);
        expectTrue(
          tensors.lse.values.every((value) => value === -Infinity),
          'lse must be -Infinity throughout',
        );
        const zeros = Object.keys(tensors).filter((name) => name === 'out' || /^d(Q|K|V|C)/.test(name));
        for (const name of zeros) {
          expectTrue(
            tensors[name].values.every((value) => value === 0),
            `${name} must be 0 throughout`,
          );
        }
      });
    }
  });
});
