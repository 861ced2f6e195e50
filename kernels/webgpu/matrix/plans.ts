/** Lane T3: which tile on subgroup matrices a kernel takes, and the shaders that go with it. */
import type { KernelName } from '../../../src/core/names.js';
import type { MlaProblem } from '../../../src/core/problem.js';
import type { Capabilities } from '../capabilities.js';
import { forwardConstants } from '../mlaAttention.js';
import { operandConstants } from '../operands.js';
import { LEFT, RIGHT, whyNoBackward } from './backwardTile.js';
import type { BackwardTile } from './backwardTile.js';
import { gradientMaximaWgsl, maximaBindings, maximaGroups, maximaSize } from './gradientScales.js';
import { matrixDkvBindings, matrixDkvTile, matrixDkvWgsl } from './mlaAttentionDkv.js';
import { matrixDqBindings, matrixDqTile, matrixDqWgsl } from './mlaAttentionDq.js';
import { named } from '../namedShader.js';
import type { NamedShader } from '../namedShader.js';
import { tilesOf } from '../tiles.js';
import type { Grid, KernelPlan } from '../plans.js';
import { halvesBindings, halvesGrid, packHalvesWgsl, regionsOf } from './halves.js';
import type { HalvesConstants } from './halves.js';
import { chooseForwardTile, splitsOfForward } from './forwardTile.js';
import { matrixAttentionWgsl, matrixForwardBindings, matrixForwardWork } from './mlaAttention.js';

/** Heads whose workgroups run together: enough to share the long tiles out, few enough for a cache to hold what they read. */
const headsTogether = 16;

/** Heads fastest, then tiles, then the next heads and splits: headOfGroup reads it. */
function headsFirst({ b, hkv }: MlaProblem, tiles: number, splits = 1): Grid {
  const together = Math.min(b * hkv, headsTogether);
  return [together, tiles, Math.ceil((b * hkv) / together) * splits];
}

/** Why lane T3 cannot run a problem; undefined if it can. */
export function whyNoMatrices(problem: MlaProblem): string | undefined {
  const { softmaxScale, b, hq, sq, skv, dn, dr, dv } = problem;
  const scale = Math.abs(softmaxScale);
  if (b * hq * sq * skv === 0) return 'there is nothing to multiply';
  if (scale < 1e-9 || scale > 1e8) return `softmaxScale ${softmaxScale} is outside what its masks can hide`;
  if (Math.max(dn + dr, dv) > 256) return 'heads of more than 256 columns have shaders of their own';
  return undefined;
}

export function planMatrixForward(
  kernel: KernelName,
  problem: MlaProblem,
  device: Capabilities,
  prefer?: string,
): KernelPlan | string {
  const record = forwardConstants(problem);
  const work = matrixForwardWork(problem);
  const chosen = chooseForwardTile(work, device.limits, prefer);
  if (typeof chosen === 'string') return chosen;
  const { tile, passedOver } = chosen;
  const { KEYS, ROW_TILES, COLUMN_GROUPS, PHASES, EARLY } = tile;
  const main = named(
    kernel,
    { LANE: 'T3', ...record, KEYS, ROW_TILES, COLUMN_GROUPS, PHASES, EARLY },
    matrixForwardBindings(record),
    () => matrixAttentionWgsl(record, tile),
  );
  const { ROWS, bytes, registers } = tile;
  const tiles = tilesOf(problem, ROWS);
  const splits = splitsOfForward(tile, work);
  const { regions, units } = regionsOf(problem, false);
  return {
    lane: 'T3',
    tile: { ROWS, KEYS, ROW_TILES, COLUMN_GROUPS, PHASES, EARLY, bytes, registers },
    cut: { tiles, splits, regions },
    grid: headsFirst(problem, tiles, splits),
    passedOver,
    main,
    before: [{ shader: halvesShader(problem, false), grid: halvesGrid(problem, false) }],
    scratch: { halves: 4 * units },
  };
}

export function planMatrixDq(
  kernel: KernelName,
  problem: MlaProblem,
  device: Capabilities,
): KernelPlan | string {
  const record = operandConstants(problem);
  const tile = matrixDqTile(record);
  const reason = whyNoBackward(tile, device.limits);
  if (reason) return reason;
  const main = named(kernel, { LANE: 'T3', ...record }, matrixDqBindings, () => matrixDqWgsl(record));
  const tiles = tilesOf(problem, LEFT);
  return { ...backwardPlan(problem, tile, tiles), grid: headsFirst(problem, tiles), main };
}

export function planMatrixDkv(
  kernel: KernelName,
  problem: MlaProblem,
  device: Capabilities,
): KernelPlan | string {
  const record = operandConstants(problem);
  const tile = matrixDkvTile(record);
  const reason = whyNoBackward(tile, device.limits);
  if (reason) return reason;
  const main = named(kernel, { LANE: 'T3', ...record }, matrixDkvBindings(record), () =>
    matrixDkvWgsl(record),
  );
  const tiles = Math.ceil(problem.skv / LEFT);
  return { ...backwardPlan(problem, tile, tiles), grid: headsFirst(problem, tiles), main };
}

/** What …Dq and …Dkv have in common: equal inputs give equal scratch. */
function backwardPlan(
  problem: MlaProblem,
  { bytes, registers }: BackwardTile,
  tiles: number,
): Omit<KernelPlan, 'grid' | 'main'> {
  const record = operandConstants(problem);
  const { regions, units } = regionsOf(problem, true);
  const maxima = named('gradientMaxima', record, maximaBindings(record), () => gradientMaximaWgsl(record));
  return {
    lane: 'T3',
    tile: { LEFT, RIGHT, bytes, registers },
    cut: { tiles, splits: 1, regions },
    passedOver: [],
    before: [
      { shader: maxima, grid: [maximaGroups(problem), 1, 1] },
      { shader: halvesShader(problem, true), grid: halvesGrid(problem, true) },
    ],
    scratch: { maxima: maximaSize, halves: 4 * units },
  };
}

export function halvesShader(problem: MlaProblem, isBackward: boolean): NamedShader {
  const record: HalvesConstants = { ...forwardConstants(problem), IS_BACKWARD: isBackward ? 1 : 0 };
  return named('packHalves', record, halvesBindings(record), () => packHalvesWgsl(record));
}
