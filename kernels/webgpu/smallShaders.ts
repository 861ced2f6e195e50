/** The shaders that have no choice of tiles: Delta, the cache's rows, and what runs before and behind the main ones. */
import type { CacheFormat } from '../../src/core/cacheFormat.js';
import * as names from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import type { Cut } from './problemUniforms.js';
import { mergeBindings, mergeConstants, mergeSplitsWgsl } from './mergeSplits.js';
import { forwardConstants } from './mlaAttention.js';
import { copyBindings, mlaCacheAppendWgsl } from './mlaCacheAppend.js';
import { deltaBindings, mlaDeltaWgsl } from './mlaDelta.js';
import type { DeltaConstants } from './mlaDelta.js';
import { named } from './namedShader.js';
import type { NamedShader } from './namedShader.js';
import { packBindings, packStatsWgsl } from './packStats.js';
import { sumBindings, sumPartsWgsl } from './sumParts.js';

/** Adds the splits of a forward. */
export function mergeShader({ dv }: MlaProblem, cut: Cut): NamedShader {
  const record = mergeConstants(dv, cut);
  return named('mergeSplits', record, mergeBindings, () => mergeSplitsWgsl(record));
}

/** What goes before the backward. */
export function packShader(problem: MlaProblem, hasScales: boolean): NamedShader {
  const { GROUP, HAS_Q_LENGTHS, HAS_KV_LENGTHS } = forwardConstants(problem);
  const scales = hasScales ? { DV: problem.dv, IS_VEC4: problem.dv % 4 === 0 ? 1 : 0 } : undefined;
  const record = { GROUP, HAS_Q_LENGTHS, HAS_KV_LENGTHS, scales };
  return named('packStats', record, packBindings(record), () => packStatsWgsl(record));
}

export const sumShader: NamedShader = named('sumParts', {}, sumBindings, sumPartsWgsl);

export function copyShader(format: CacheFormat): NamedShader {
  const record = { IS_PACKED: format === 'float16' ? 1 : 0 };
  return named(names.MLACacheAppend, record, copyBindings, () => mlaCacheAppendWgsl(record));
}

export function deltaShader({ dv, returnLse }: MlaProblem): NamedShader {
  const record: DeltaConstants = { DV: dv, IS_VEC4: dv % 4 === 0 ? 1 : 0, HAS_D_LSE: returnLse ? 1 : 0 };
  return named(names.MLADelta, record, deltaBindings(record), () => mlaDeltaWgsl(record));
}
