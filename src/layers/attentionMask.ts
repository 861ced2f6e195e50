import { cast, getBackend, reshape, sum, tidy } from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D } from '@tensorflow/tfjs-core';
import { fail, shapeText } from '../core/errors.js';

/** Lengths given as a layer's second input, [b] or [b, 1], as the ops take them: int32 [b]. */
export function lengthsFromInput(fn: string, lengths: Tensor, b: number): Tensor1D {
  if (lengths.size !== b || lengths.rank > 2) {
    fail(fn, `lengths must be [b=${b}] or [b=${b}, 1], got ${shapeText(lengths.shape)}`);
  }
  // tf.model hands every input over as float32 unless told otherwise
  return tidy(() => cast(reshape(lengths, [b]), 'int32'));
}

/** A right-padded mask [b, s], true = keep, as lengths int32 [b]. */
export function lengthsFromMask(fn: string, mask: Tensor, b: number, s: number, validate: boolean): Tensor1D {
  if (mask.rank !== 2 || mask.shape[0] !== b || mask.shape[1] !== s) {
    fail(
      fn,
      `mask must be [b=${b}, s=${s}], got ${shapeText(mask.shape)} (tfjs-layers hands a mask on to later layers of other branches: there, give the lengths as a second input)`,
    );
  }
  if (validate) checkRightPadded(fn, mask, s);
  return tidy(() => sum(cast(mask, 'int32'), 1));
}

function checkRightPadded(fn: string, mask: Tensor, s: number): void {
  const kept = readNow(fn, mask);
  for (let i = 1; i < kept.length; i++) {
    const isRowStart = i % s === 0;
    if (!isRowStart && kept[i] && !kept[i - 1]) {
      const row = Math.floor(i / s);
      fail(fn, `mask must be right-padded: row ${row} keeps position ${i % s} after a masked one`);
    }
  }
}

function readNow(fn: string, mask: Tensor): ArrayLike<number> {
  try {
    return mask.dataSync();
  } catch (error) {
    fail(
      fn,
      `validateMask reads the mask back at once, which backend '${getBackend()}' cannot do here (${String(error)}); give the lengths as a second input instead`,
    );
  }
}
