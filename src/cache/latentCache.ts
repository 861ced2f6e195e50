import { engine, fill, keep, tensor2d, tidy } from '@tensorflow/tfjs-core';
import type { Rank, Tensor3D } from '@tensorflow/tfjs-core';
import { cacheColumns, cacheDtype } from '../core/cacheFormat.js';
import type { CacheFormat } from '../core/cacheFormat.js';
import { fail, shapeText } from '../core/errors.js';
import { sizeOf } from '../core/layout.js';
import { MLACacheAppend } from '../core/names.js';
import { requireCacheFormat } from '../core/register.js';

export interface LatentCacheConfig {
  batch: number;
  /** Rows that fit, per batch entry. */
  capacity: number;
  /** Columns of the compressed latent (kv_lora_rank). */
  latentRank: number;
  /** Columns of the shared rope part (qk_rope_head_dim); may be 0. */
  ropeDim: number;
  /**
   * How the rows are kept. Default 'float32'. 'float16' takes half the memory: numbers are rounded to the nearest
   * float16 while they are written, those beyond ±65504 to ±65504. latentRank and ropeDim must be even then.
   */
  storage?: CacheFormat;
}

/**
 * The compressed KV cache of one layer, appended to in place: the cost of an append depends on the rows added, never
 * on the capacity. One row holds latentRank + ropeDim numbers for all heads.
 *
 * Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.2 (what is cached) and table 1 (its size).
 */
export class LatentCache {
  readonly batch: number;
  readonly capacity: number;
  readonly latentRank: number;
  readonly ropeDim: number;
  readonly storage: CacheFormat;

  private readonly latents: Tensor3D;
  private readonly ropes: Tensor3D;
  private rows: number[];

  /**
   * Allocates the buffers on the current backend. Throws on sizes that are no positive integers, or odd ones for
   * 'float16', and if the backend's kernels do not know the storage.
   */
  constructor({ batch, capacity, latentRank, ropeDim, storage = 'float32' }: LatentCacheConfig) {
    for (const [name, value] of Object.entries({ batch, capacity, latentRank })) {
      if (!Number.isInteger(value) || value < 1) {
        fail('LatentCache', `${name} must be a positive integer, got ${String(value)}`);
      }
    }
    if (!Number.isInteger(ropeDim) || ropeDim < 0) {
      fail('LatentCache', `ropeDim must be an integer from 0, got ${String(ropeDim)}`);
    }
    requireCacheFormat('LatentCache', storage);
    const columns = cacheColumns('LatentCache', 'latentRank', latentRank, storage);
    const ropeColumns = cacheColumns('LatentCache', 'ropeDim', ropeDim, storage);
    this.batch = batch;
    this.capacity = capacity;
    this.latentRank = latentRank;
    this.ropeDim = ropeDim;
    this.storage = storage;
    this.rows = new Array<number>(batch).fill(0);
    // fill and not zeros: it runs on the backend, and no copy of the whole cache is uploaded
    const allocate = (width: number): Tensor3D =>
      keep(tidy(() => fill<Rank.R3>([batch, capacity, width], 0, cacheDtype(storage))));
    this.latents = allocate(columns);
    this.ropes = allocate(ropeColumns);
  }

  /** Rows held, per batch entry: what mlaDecode wants as kvLengths. */
  get lengths(): number[] {
    return [...this.rows];
  }

  /**
   * What mlaDecode reads: [batch, capacity, latentRank], in 'float16' packed words of two numbers that no other op can
   * read, int32 [batch, capacity, latentRank / 2]. Rows past the lengths are undefined. Owned by the cache: do not
   * dispose.
   */
  get cKv(): Tensor3D {
    this.checkAlive();
    return this.latents;
  }

  /** [batch, capacity, ropeDim], or half as many columns, likewise. */
  get kRope(): Tensor3D {
    this.checkAlive();
    return this.ropes;
  }

  /** Size of the buffers. */
  get bytes(): number {
    return 4 * (sizeOf(this.latents.shape) + sizeOf(this.ropes.shape));
  }

  /**
   * Writes n new rows per batch entry behind those it holds: cKv [batch, n, latentRank], kRope [batch, n, ropeDim].
   * `counts` says how many of the n rows are real, per batch entry; default all.
   *
   * Throws on bad shapes or counts and when the rows do not fit; nothing is written then.
   */
  append(cKv: Tensor3D, kRope: Tensor3D, counts?: readonly number[]): void {
    this.checkAlive();
    const n = cKv.shape[1];
    this.checkRows('cKv', cKv, n, this.latentRank);
    this.checkRows('kRope', kRope, n, this.ropeDim);
    const added = this.checkCounts(counts ?? this.rows.map(() => n), n);
    this.rows.forEach((length, b) => {
      if (length + added[b] > this.capacity) {
        fail(
          'LatentCache.append',
          `batch entry ${b} holds ${length} of capacity=${this.capacity} rows, ${added[b]} more do not fit`,
        );
      }
    });
    tidy(() => {
      const lengths = tensor2d([this.rows, added], [2, this.batch], 'int32');
      const inputs = { cKv: this.latents, kRope: this.ropes, newCkv: cKv, newKRope: kRope, lengths };
      engine().runKernel(MLACacheAppend, inputs);
    });
    this.rows = this.rows.map((length, b) => length + added[b]);
  }

  /** Forgets the rows from the given lengths on, as after rejected speculative tokens. Never grows. */
  truncate(lengths: readonly number[]): void {
    this.checkAlive();
    const fits = (length: number, b: number): boolean =>
      Number.isInteger(length) && length >= 0 && length <= this.rows[b];
    if (lengths.length !== this.batch || !lengths.every(fits)) {
      fail(
        'LatentCache.truncate',
        `lengths must be ${this.batch} integers from 0 to those held ${shapeText(this.rows)}, got ${shapeText(lengths)}`,
      );
    }
    this.rows = [...lengths];
  }

  /** Frees the buffers. Any later use throws; a second dispose does nothing. */
  dispose(): void {
    this.latents.dispose();
    this.ropes.dispose();
  }

  private checkAlive(): void {
    if (this.latents.isDisposed) fail('LatentCache', 'the cache is disposed');
  }

  private checkRows(name: string, tensor: Tensor3D, n: number, columns: number): void {
    const fn = 'LatentCache.append';
    if (tensor.isDisposed) fail(fn, `${name} is disposed`);
    if (tensor.dtype !== 'float32') fail(fn, `${name} must be float32, got ${tensor.dtype}`);
    if (shapeText(tensor.shape) !== shapeText([this.batch, n, columns])) {
      const columnsName = name === 'cKv' ? 'latentRank' : 'ropeDim';
      fail(
        fn,
        `${name} must be [batch=${this.batch}, n=${n}, ${columnsName}=${columns}], got ${shapeText(tensor.shape)}`,
      );
    }
  }

  private checkCounts(counts: readonly number[], n: number): number[] {
    const isCount = (count: number): boolean => Number.isInteger(count) && count >= 0 && count <= n;
    if (counts.length !== this.batch || !counts.every(isCount)) {
      fail(
        'LatentCache.append',
        `counts must be ${this.batch} integers from 0 to n=${n}, got ${shapeText(counts)}`,
      );
    }
    return [...counts];
  }
}
