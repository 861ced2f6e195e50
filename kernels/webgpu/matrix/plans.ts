/** Lanes T3 and T3x: which tile on subgroup matrices a kernel takes, and the shaders that go with it. */
import { MLAAttentionBackward, MLAAttentionDq, MLADecodeDkv } from '../../../src/core/names.js';
import type { KernelName } from '../../../src/core/names.js';
import type { MlaProblem } from '../../../src/core/problem.js';
import { lanesFor } from '../capabilities.js';
import type { Capabilities, MatrixLane } from '../capabilities.js';
import { forwardConstants } from '../mlaAttention.js';
import { operandConstants } from '../operands.js';
import { LEFT, RIGHT } from './backwardTile.js';
import { whyIllegal } from './choose.js';
import type { Needs } from './choose.js';
import { decodeBackwardBindings, decodeBackwardConstants, decodeBackwardTile } from './decodeBackward.js';
import { LEFT as DECODE_LEFT, RIGHT as DECODE_RIGHT } from './decodeBackwardTile.js';
import { KEYS as DECODE_KEYS, chooseDecodeTile, nameOfDecode, splitsOfDecode } from './decodeTile.js';
import { matrixDecodeDkvWgsl } from './mlaDecodeDkv.js';
import { matrixDecodeDqWgsl } from './mlaDecodeDq.js';
import { matrixDecodeBindings, matrixDecodeWgsl, matrixDecodeWork } from './mlaDecode.js';
import type { DecodeConstants } from './mlaDecode.js';
import { gradientMaximaWgsl, maximaBindings } from './gradientScales.js';
import { maximaGroups, maximaSize } from './maxima.js';
import { operandMaximaBindings, operandMaximaWgsl } from './operandScales.js';
import { formOf, nameOfForm, sixteen } from './form.js';
import type { MatrixForm } from './form.js';
import { ROWS, dqOfDsBindings, dqOfDsWgsl, layOutDqOfDs } from './dqOfDs.js';
import { dsRowUnits, matrixDkvBindings, matrixDkvTile, matrixDkvWgsl } from './mlaAttentionDkv.js';
import { matrixDqBindings, matrixDqTile, matrixDqWgsl } from './mlaAttentionDq.js';
import { named } from '../namedShader.js';
import type { NamedShader } from '../namedShader.js';
import { remembered } from '../planMemo.js';
import { tilesOf } from '../tiles.js';
import type { Grid, KernelPlan } from '../plans.js';
import type { Cut } from '../problemUniforms.js';
import { halvesBindings, halvesGrid, packHalvesWgsl, regionsOf } from './halves.js';
import type { HalvesConstants } from './halves.js';
import { chooseForwardTile, nameOfForward, splitsOfForward } from './forwardTile.js';
import { matrixAttentionWgsl, matrixForwardBindings, matrixForwardWork } from './mlaAttention.js';

/** Heads whose workgroups run together: enough to share the long tiles out, few enough for a cache to hold what they read. */
const headsTogether = 16;

/** Heads fastest, then tiles, then the next heads and splits: headOfGroup reads it. */
function headsFirst(heads: number, tiles: number, splits = 1): Grid {
  const together = Math.min(heads, headsTogether);
  return [together, tiles, Math.ceil(heads / together) * splits];
}

/** Why lane T3 cannot run a problem; undefined if it can. */
export function whyNoMatrices(problem: MlaProblem): string | undefined {
  const { op, cacheFormat, softmaxScale, b, hq, sq, skv, dn, dr } = problem;
  const scale = Math.abs(softmaxScale);
  if (b * hq * sq * skv === 0) return 'there is nothing to multiply';
  if (scale < 1e-9 || scale > 1e8) return `softmaxScale ${softmaxScale} is outside what its masks can hide`;
  if (op === 'mlaDecode' && cacheFormat === 'float16' && (dn % 8 !== 0 || dr % 8 !== 0)) {
    return 'rows of packed halves that do not start and end on sixteen bytes';
  }
  return undefined;
}

/** Decode and the backward are written for one form of matrices; why they do not run in a lane that has another. */
function whyOtherForm(lane: MatrixLane, device: Capabilities): string | undefined {
  const form = formOf(lane, device);
  if (typeof form === 'string') return form;
  const [written, given] = [sixteen, form].map(nameOfForm);
  return given === written ? undefined : `written for ${written}, not for ${given}`;
}

export function planMatrixForward(
  lane: MatrixLane,
  kernel: KernelName,
  problem: MlaProblem,
  device: Capabilities,
  prefer?: string,
): KernelPlan | string {
  const form = formOf(lane, device);
  if (typeof form === 'string') return form;
  const record = forwardConstants(problem);
  const work = matrixForwardWork(problem, form);
  const chosen = chooseForwardTile(work, form, device.limits, prefer);
  if (typeof chosen === 'string') return chosen;
  const { tile, passedOver, candidates } = chosen;
  const { ROWS, KEYS, COLUMN_GROUPS, bytes, registers } = tile;
  const main = named(
    kernel,
    { FORM: nameOfForm(form), ...record, KEYS, COLUMN_GROUPS },
    matrixForwardBindings(record, form),
    () => matrixAttentionWgsl(record, tile),
  );
  const tiles = tilesOf(problem, ROWS);
  const splits = splitsOfForward(tile, work);
  const { regions, ...filled } = operandsBefore(problem, form);
  return {
    lane,
    tile: { ROWS, KEYS, COLUMN_GROUPS, bytes, registers },
    cut: { tiles, splits, regions },
    grid: headsFirst(problem.b * problem.hkv, tiles, splits),
    passedOver,
    candidate: nameOfForward(tile),
    candidates,
    main,
    ...filled,
  };
}

/** What makes operands for the forward: halves, or nothing where it reads the tensors. */
function operandsBefore(
  problem: MlaProblem,
  { operand, parts }: MatrixForm,
): Pick<KernelPlan, 'before' | 'scratch'> & { regions?: Cut['regions'] } {
  if (operand === 'f32') return { before: [], scratch: {} };
  const record = forwardConstants(problem);
  const { regions, units } = regionsOf(problem, false, parts);
  const pack = { shader: halvesShader(problem, false, parts), grid: halvesGrid(problem, false) };
  if (parts === 1) return { regions, before: [pack], scratch: { halves: 4 * units } };
  const maxima = {
    shader: named('operandMaxima', record, operandMaximaBindings(record), () => operandMaximaWgsl(record)),
    grid: [maximaGroups(problem), 1, 1] as Grid,
  };
  return { regions, before: [maxima, pack], scratch: { maxima: maximaSize, halves: 4 * units } };
}

export function planMatrixDecode(
  lane: MatrixLane,
  kernel: KernelName,
  problem: MlaProblem,
  device: Capabilities,
  prefer?: string,
): KernelPlan | string {
  const otherForm = whyOtherForm(lane, device);
  if (otherForm) return otherForm;
  const work = matrixDecodeWork(problem);
  const chosen = chooseDecodeTile(work, device.limits, prefer);
  if (typeof chosen === 'string') return chosen;
  const { tile, passedOver, candidates } = chosen;
  const { ROW_GROUPS, ROWS, bytes, registers } = tile;
  const tiles = tilesOf(problem, ROWS);
  const splits = splitsOfDecode(tile, work);
  // what splits write and the merge reads takes longer than a short walk
  const hasHalfParts = splits > 1 && problem.dv % 4 === 0;
  const record: DecodeConstants = { ...forwardConstants(problem), HALF_PARTS: hasHalfParts ? 1 : 0 };
  const main = named(kernel, { LANE: 'T3', ...record, ROW_GROUPS }, matrixDecodeBindings(record), () =>
    matrixDecodeWgsl(record, tile),
  );
  return {
    lane: 'T3',
    tile: { ROWS, KEYS: DECODE_KEYS, bytes, registers },
    cut: { tiles, splits, hasHalfParts },
    grid: [problem.b, tiles, splits],
    passedOver,
    candidate: nameOfDecode(tile),
    candidates,
    main,
    before: [],
    scratch: {},
  };
}

/** Rows that the backward owns, and rows that it stages at a time. */
const sides = { LEFT, RIGHT };

/** …Dq and …Dkv of both ops. */
export function planMatrixGradient(
  lane: MatrixLane,
  kernel: KernelName,
  problem: MlaProblem,
  device: Capabilities,
): KernelPlan | string {
  const otherForm = whyOtherForm(lane, device);
  if (otherForm) return otherForm;
  const plan =
    problem.op === 'mlaDecode'
      ? planMatrixDecodeBackward
      : kernel === MLAAttentionDq
        ? planMatrixDq
        : planMatrixDkv;
  return plan(kernel, problem, device);
}

function planMatrixDq(kernel: KernelName, problem: MlaProblem, device: Capabilities): KernelPlan | string {
  const record = operandConstants(problem);
  const tile = matrixDqTile(record);
  const reason = whyIllegal(tile, device.limits);
  if (reason) return reason;
  const main = named(kernel, { LANE: 'T3', ...record }, matrixDqBindings, () => matrixDqWgsl(record));
  const tiles = tilesOf(problem, LEFT);
  return {
    ...backwardPlan(problem, sides, tile, tiles),
    grid: headsFirst(problem.b * problem.hkv, tiles),
    main,
  };
}

function planMatrixDkv(kernel: KernelName, problem: MlaProblem, device: Capabilities): KernelPlan | string {
  const record = { ...operandConstants(problem), KEEPS_DS: 0 };
  const tile = matrixDkvTile(record);
  const reason = whyIllegal(tile, device.limits);
  if (reason) return reason;
  const main = named(kernel, { LANE: 'T3', ...record }, matrixDkvBindings(record), () =>
    matrixDkvWgsl(record),
  );
  const tiles = Math.ceil(problem.skv / LEFT);
  return {
    ...backwardPlan(problem, sides, tile, tiles),
    grid: headsFirst(problem.b * problem.hkv, tiles),
    main,
  };
}

/** MLADecodeDq and MLADecodeDkv. */
function planMatrixDecodeBackward(
  kernel: KernelName,
  problem: MlaProblem,
  device: Capabilities,
): KernelPlan | string {
  const { b, skv, softmaxScale } = problem;
  const isDkv = kernel === MLADecodeDkv;
  const record = decodeBackwardConstants(problem, isDkv);
  const tile = decodeBackwardTile(record);
  const reason = whyIllegal(tile, device.limits);
  if (reason) return reason;
  if (Math.abs(softmaxScale) < 1e-5) return `softmaxScale ${softmaxScale} makes dS too small for halves`;
  const wgsl = isDkv ? matrixDecodeDkvWgsl : matrixDecodeDqWgsl;
  const main = named(kernel, { LANE: 'T3', ...record }, decodeBackwardBindings(record), () => wgsl(record));
  const tiles = isDkv ? Math.ceil(skv / DECODE_LEFT) : tilesOf(problem, DECODE_LEFT);
  const work = matrixDecodeWork(problem);
  // …Dkv owns keys and walks over the rows
  const ofSplits = isDkv ? { ...work, rows: work.keys, keys: work.rows } : work;
  const splits = splitsOfDecode({ ROWS: DECODE_LEFT }, ofSplits);
  const decodeSides = { LEFT: DECODE_LEFT, RIGHT: DECODE_RIGHT };
  return { ...backwardPlan(problem, decodeSides, tile, tiles, splits), grid: [b, tiles, splits], main };
}

/** The whole backward at once: …Dkv keeps dS, and dQ is a product of it. */
export interface MatrixBackwardPlan {
  /** …Dkv, and what runs before it */
  plan: KernelPlan;
  dq: NamedShader;
  /** heads of a dispatch, and numbers that their dS takes */
  heads: number;
  dsSize: number;
  keyTiles: number;
  rowTiles: number;
}

/** dS is as large as the scores: so much of it is kept at a time, that memory grows with the lengths and not their square. */
const mostDsBytes = 2 ** 28;

/** Undefined where another form is to be taken: too long, too wide, or not on matrices. */
export function planMatrixBackward(
  problem: MlaProblem,
  device: Capabilities,
): MatrixBackwardPlan | undefined {
  return remembered(MLAAttentionBackward, problem, device, () => planBackwardAnew(problem, device));
}

function planBackwardAnew(problem: MlaProblem, device: Capabilities): MatrixBackwardPlan | undefined {
  const { lanes } = lanesFor(problem.precision, device);
  if (lanes[0] !== 'T3' || (whyOtherForm('T3', device) ?? whyNoMatrices(problem))) return undefined;
  const operands = operandConstants(problem);
  const record = { ...operands, KEEPS_DS: 1 };
  const tile = matrixDkvTile(record);
  if (whyIllegal(tile, device.limits) ?? whyIllegal(layOutDqOfDs(operands), device.limits)) return undefined;
  const { b, hkv, skv } = problem;
  const headBytes = 16 * skv * dsRowUnits(problem);
  const heads = Math.min(b * hkv, Math.floor(mostDsBytes / headBytes));
  if (heads === 0) return undefined;
  const keyTiles = Math.ceil(skv / LEFT);
  const main = named(MLAAttentionBackward, { LANE: 'T3', ...record }, matrixDkvBindings(record), () =>
    matrixDkvWgsl(record),
  );
  return {
    plan: { ...backwardPlan(problem, sides, tile, keyTiles), grid: headsFirst(heads, keyTiles), main },
    dq: named('dqOfDs', operands, dqOfDsBindings, () => dqOfDsWgsl(operands)),
    heads,
    dsSize: (heads * headBytes) / 4,
    keyTiles,
    rowTiles: tilesOf(problem, ROWS),
  };
}

/** Dispatches of some heads each, `heads` at most. */
export function dispatchesOf(
  { b, hkv }: MlaProblem,
  heads: number,
): { first: number; count: number; grid: (tiles: number) => Grid }[] {
  return Array.from({ length: Math.ceil((b * hkv) / heads) }, (_, index) => {
    const first = index * heads;
    const count = Math.min(heads, b * hkv - first);
    return { first, count, grid: (tiles) => headsFirst(count, tiles) };
  });
}

/** What …Dq and …Dkv have in common: equal inputs give equal scratch. */
function backwardPlan(
  problem: MlaProblem,
  rows: { LEFT: number; RIGHT: number },
  { bytes, registers }: Needs,
  tiles: number,
  splits = 1,
): Omit<KernelPlan, 'grid' | 'main'> {
  const record = operandConstants(problem);
  const { regions, units } = regionsOf(problem, true);
  const name = `LEFT=${rows.LEFT} RIGHT=${rows.RIGHT}`;
  const maxima = named('gradientMaxima', record, maximaBindings(record), () => gradientMaximaWgsl(record));
  return {
    lane: 'T3',
    tile: { ...rows, bytes, registers },
    cut: { tiles, splits, regions },
    passedOver: [],
    candidate: name,
    candidates: [name],
    before: [
      { shader: maxima, grid: [maximaGroups(problem), 1, 1] },
      { shader: halvesShader(problem, true), grid: halvesGrid(problem, true) },
    ],
    scratch: { maxima: maximaSize, halves: 4 * units },
  };
}

export function halvesShader(problem: MlaProblem, isBackward: boolean, parts = 1): NamedShader {
  const record: HalvesConstants = {
    ...forwardConstants(problem),
    IS_BACKWARD: isBackward ? 1 : 0,
    PARTS: parts,
  };
  return named('packHalves', record, halvesBindings(record), () => packHalvesWgsl(record));
}
