import type { MlaProblem } from './problem.js';
import { reach } from './visibility.js';

/**
 * Problems for which one candidate is taken to be the fastest: all that is compiled in, as it is, and what only grows
 * with the data (lengths, counts, the width of the mask) to the nearest power of two.
 */
export function bucketOf(problem: MlaProblem): string {
  const { op, precision, cacheFormat, b, hq, hkv, sq, skv, dn, dr, dv, causal, hasQLengths, hasKvLengths } =
    problem;
  const { left, right } = reach(problem);
  const width = (keys: number): number | string => (keys >= sq + skv ? 'all' : nearestPower(keys));
  const fields = {
    group: hkv === 0 ? 1 : hq / hkv,
    dn,
    dr,
    dv,
    heads: nearestPower(b * hq),
    sq: nearestPower(sq),
    skv: nearestPower(skv),
    left: width(left),
    right: width(right),
  };
  const isPacked = cacheFormat === 'float16';
  const flags = [
    isPacked && 'packed',
    causal === 'top-left' && causal,
    hasQLengths && 'qLengths',
    hasKvLengths && 'kvLengths',
  ];
  const numbers = Object.entries(fields).map(([name, value]) => `${name}=${value}`);
  return [op, precision, ...numbers, ...flags.filter(Boolean)].join(' ');
}

/** The power of two that is nearest by ratio; 0 stays 0. */
function nearestPower(n: number): number {
  return n === 0 ? 0 : 2 ** Math.round(Math.log2(n));
}
