import {
  add,
  dispose,
  getBackend,
  keep,
  mul,
  reshape,
  sub,
  tensor2d,
  tensor4d,
  tidy,
} from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D, Tensor4D } from '@tensorflow/tfjs-core';
import { fail, shapeText } from '../core/errors.js';
import { MLARotary, MLARotaryBackward, hasRowKernel, runRowKernel } from '../core/rowKernels.js';
import { absent, withGradient } from '../core/tensors.js';
import { product } from './linear.js';
import { asMatrix, inShape, joinColumns } from './rowwise.js';

/** YaRN, in the words of a config.json. Source: Peng et al., arXiv:2309.00071, section 3. */
export interface RopeScaling {
  type: 'yarn';
  /** How many times longer than the original window the model may read. */
  factor: number;
  originalMaxPositionEmbeddings: number;
  /** Rotations in the original window above which a pair keeps its frequency. Default 32. */
  betaFast?: number;
  /** Rotations in the original window below which a pair is slowed down by the whole factor. Default 1. */
  betaSlow?: number;
  mscale?: number;
  mscaleAllDim?: number;
}

export interface RotaryEmbeddingConfig {
  /** Columns that rotate; even. */
  dim: number;
  /** Default 10000. */
  ropeTheta?: number;
  ropeScaling?: RopeScaling | null;
  /** true (default): pairs are columns (0,1), (2,3) …; false: column j pairs with j + dim/2. */
  ropeInterleave?: boolean;
}

/** cos and sin of some positions: [1, s, 1, dim] when all batch entries stand alike, else [b, s, 1, dim]. */
export interface RopeTables {
  cos: Tensor4D;
  sin: Tensor4D;
}

/**
 * Rotary position embedding, with YaRN.
 *
 * YaRN has two separate corrections, and a model needs both: `rotaryScale` multiplies cos and sin (it is in the
 * tables already), `softmaxCorrection` multiplies the softmax scale, which is the caller's business.
 *
 * Source: Su et al., arXiv:2104.09864, eq. 34; YaRN, arXiv:2309.00071, eq. 17-22; corrections as in DeepSeek's
 * modeling_deepseek.py and Hugging Face's DeepseekV3Attention.
 */
export class RotaryEmbedding {
  readonly dim: number;
  readonly ropeInterleave: boolean;
  readonly rotaryScale: number;
  readonly softmaxCorrection: number;
  private readonly frequencies: Float64Array;
  private tables?: { key: string } & RopeTables;
  private quarterTurn?: { backend: string; matrix: Tensor2D };

  constructor({ dim, ropeTheta = 10000, ropeScaling = null, ropeInterleave = true }: RotaryEmbeddingConfig) {
    if (!Number.isInteger(dim) || dim < 2 || dim % 2 !== 0) {
      fail('RotaryEmbedding', `dim must be a positive even integer, got ${String(dim)}`);
    }
    if (ropeScaling) checkScaling(ropeScaling);
    this.dim = dim;
    this.ropeInterleave = ropeInterleave;
    this.frequencies = ropeScaling
      ? yarnFrequencies(dim, ropeTheta, ropeScaling)
      : plainFrequencies(dim, ropeTheta);
    this.rotaryScale = ropeScaling ? yarnRotaryScale(ropeScaling) : 1;
    this.softmaxCorrection = ropeScaling ? yarnSoftmaxCorrection(ropeScaling) : 1;
  }

  /**
   * Tables of `count` positions from each batch entry's start. They are kept until other positions are asked for:
   * training asks for the same ones every step.
   */
  at(starts: readonly number[], count: number): RopeTables {
    const own = starts.every((start) => start === starts[0]) ? starts.slice(0, 1) : starts;
    const key = [getBackend(), count, ...own].join(' ');
    if (this.tables?.key !== key) {
      dispose(this.tables ? [this.tables.cos, this.tables.sin] : []);
      this.tables = { key, ...this.makeTables(own, count) };
    }
    return this.tables;
  }

  /** x [b, s, h, dim] turned by its positions. The gradient turns back by the same angles. */
  rotate(x: Tensor4D, { cos, sin }: RopeTables): Tensor4D {
    if (x.rank !== 4 || x.shape[3] !== this.dim || x.shape[1] !== cos.shape[1]) {
      fail(
        'RotaryEmbedding',
        `x must be [b, s=${cos.shape[1]}, h, dim=${this.dim}], got ${shapeText(x.shape)}`,
      );
    }
    const turn = this.quarterTurnMatrix();
    return tidy(
      () =>
        withGradient(
          [x],
          (value) => ({
            value: add(mul(value, cos), mul(quarterTurned(value, turn), sin)),
            saved: [cos, sin, turn],
          }),
          (dy, [c, s, t]) => [sub(mul(dy, c), mul(quarterTurned(dy, t as Tensor2D), s))],
        ) as Tensor4D,
    );
  }

  /**
   * Rows [b·s, heads·dim] as a projection gives them, turned by their positions, in each head behind its columns of `nope`
   * [b·s, heads·dn] if there are any: [b, s, heads, dn + dim], or [b, s, dim] where all heads share one (`heads` = 0).
   */
  turnRows(rope: Tensor2D, tables: RopeTables, heads: number, nope?: Tensor2D): Tensor {
    if (hasRowKernel(MLARotary)) return this.fusedTurn(rope, tables, heads, nope ?? absent());
    const [s, h] = [tables.cos.shape[1], Math.max(1, heads)];
    const b = rope.shape[0] / s;
    const turned = this.rotate(reshape(rope, [b, s, h, this.dim]), tables);
    if (heads === 0) return reshape(turned, [b, s, this.dim]);
    return nope ? joinColumns(reshape(nope, [b, s, h, nope.shape[1] / h]), turned) : turned;
  }

  /** Frees the tables; they come back when they are needed. */
  dispose(): void {
    dispose(this.tables ? [this.tables.cos, this.tables.sin] : []);
    this.quarterTurn?.matrix.dispose();
    this.tables = undefined;
    this.quarterTurn = undefined;
  }

  private fusedTurn(rope: Tensor2D, { cos, sin }: RopeTables, heads: number, nope: Tensor): Tensor {
    const pairs = this.ropeInterleave ? 'neighbours' : 'halves';
    const hasNope = nope.size > 0;
    return withGradient(
      hasNope ? [rope, nope] : [rope],
      (turning, still = nope) => {
        const inputs = { nope: still, rope: turning, cos, sin };
        return { value: runRowKernel(MLARotary, inputs, { pairs, heads })[0], saved: [cos, sin] };
      },
      (dJoined, [c, s]) => {
        const [dNope, dRope] = runRowKernel(MLARotaryBackward, { dJoined, cos: c, sin: s }, { pairs });
        return hasNope ? [dRope, dNope] : [dRope];
      },
    );
  }

  private makeTables(starts: readonly number[], count: number): RopeTables {
    const { dim, rotaryScale } = this;
    const shape: [number, number, number, number] = [starts.length, count, 1, dim];
    const cos = new Float32Array(starts.length * count * dim);
    const sin = new Float32Array(cos.length);
    for (let row = 0; row < starts.length * count; row++) {
      const position = starts[Math.floor(row / count)] + (row % count);
      for (let j = 0; j < dim; j++) {
        const angle = position * this.frequencies[this.pairOf(j)];
        cos[row * dim + j] = Math.cos(angle) * rotaryScale;
        sin[row * dim + j] = Math.sin(angle) * rotaryScale;
      }
    }
    return { cos: keep(tensor4d(cos, shape)), sin: keep(tensor4d(sin, shape)) };
  }

  /** x · matrix turns every pair (x0, x1) into (−x1, x0). */
  private quarterTurnMatrix(): Tensor2D {
    const backend = getBackend();
    if (this.quarterTurn?.backend !== backend) {
      this.quarterTurn?.matrix.dispose();
      const { dim } = this;
      const matrix = new Float32Array(dim * dim);
      for (let j = 0; j < dim; j++) {
        const partner = this.partnerOf(j);
        matrix[partner * dim + j] = partner > j ? -1 : 1;
      }
      this.quarterTurn = { backend, matrix: keep(tensor2d(matrix, [dim, dim])) };
    }
    return this.quarterTurn.matrix;
  }

  private pairOf(column: number): number {
    return this.ropeInterleave ? column >> 1 : column % (this.dim / 2);
  }

  private partnerOf(column: number): number {
    return this.ropeInterleave ? column ^ 1 : (column + this.dim / 2) % this.dim;
  }
}

function quarterTurned(x: Tensor, turn: Tensor2D): Tensor {
  return inShape(product(asMatrix(x), turn), x.shape);
}

function plainFrequencies(dim: number, theta: number): Float64Array {
  return Float64Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim));
}

/** Pairs that turn often in the original window keep their frequency, slow ones are divided by the factor. */
function yarnFrequencies(dim: number, theta: number, scaling: RopeScaling): Float64Array {
  const { factor, originalMaxPositionEmbeddings: window, betaFast = 32, betaSlow = 1 } = scaling;
  const pairWithRotations = (rotations: number): number =>
    (dim * Math.log(window / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  const low = Math.max(Math.floor(pairWithRotations(betaFast)), 0);
  const high = Math.min(Math.ceil(pairWithRotations(betaSlow)), dim - 1);
  const width = high === low ? 0.001 : high - low;
  return plainFrequencies(dim, theta).map((frequency, i) => {
    const slowed = Math.min(1, Math.max(0, (i - low) / width));
    return frequency * (1 - slowed) + (frequency / factor) * slowed;
  });
}

/** The multiplier of cos and sin. */
function yarnRotaryScale({ factor, mscale, mscaleAllDim }: RopeScaling): number {
  if (!mscale || !mscaleAllDim) return yarnMscale(factor, 1);
  return yarnMscale(factor, mscale) / yarnMscale(factor, mscaleAllDim);
}

/** The multiplier of the softmax scale: the square of m, since it stands for both q and k. */
function yarnSoftmaxCorrection({ factor, mscaleAllDim }: RopeScaling): number {
  return mscaleAllDim ? yarnMscale(factor, mscaleAllDim) ** 2 : 1;
}

function yarnMscale(factor: number, mscale: number): number {
  return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
}

function checkScaling(scaling: RopeScaling): void {
  const { type, factor, originalMaxPositionEmbeddings } = scaling;
  if ((type as string) !== 'yarn')
    fail('RotaryEmbedding', `ropeScaling.type must be 'yarn', got ${String(type)}`);
  for (const [name, value] of Object.entries({ factor, originalMaxPositionEmbeddings })) {
    if (!(value > 0))
      fail('RotaryEmbedding', `ropeScaling.${name} must be a positive number, got ${String(value)}`);
  }
}
