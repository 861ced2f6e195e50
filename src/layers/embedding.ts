import { cast, gather, oneHot, serialization, tidy } from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import { layers } from '@tensorflow/tfjs-layers';
import type { LayerVariable, Shape } from '@tensorflow/tfjs-layers';
import { MLAEmbeddingBackward, hasRowKernel, runRowKernel } from '../core/rowKernels.js';
import { withGradient } from '../core/tensors.js';
import { checkPositive, first, firstShape, normal } from './layerTypes.js';
import type { LayerArgs } from './layerTypes.js';
import { product } from './linear.js';
import { asMatrix, inShape } from './rowwise.js';

/**
 * Rows of a table [vocabulary, d] by ids [...]: [..., d].
 *
 * The gradient is a product with the one-hot ids: bit-equal from run to run on every backend. (tfjs's own gradient,
 * UnsortedSegmentSum, adds by atomics on webgpu, loops over the vocabulary on cpu and does not exist on wasm.) It
 * needs a matrix [ids, vocabulary] for the time of the backward pass, where there is no kernel that adds rows in order.
 * An id outside the table has no defined row.
 */
export function embed(table: Tensor2D, ids: Tensor): Tensor {
  return tidy(() => {
    const flat = inShape(ids, [ids.size]) as Tensor1D;
    const rows = lookUp(table, flat.dtype === 'int32' ? flat : cast(flat, 'int32'));
    return inShape(rows, [...ids.shape, table.shape[1]]);
  });
}

function lookUp(table: Tensor2D, ids: Tensor1D): Tensor {
  return withGradient(
    [table],
    (rows) => ({ value: gather(rows, ids), saved: [ids] }),
    (dRows, [flat]) => {
      if (hasRowKernel(MLAEmbeddingBackward)) {
        const inputs = { dRows: asMatrix(dRows), ids: flat };
        return runRowKernel(MLAEmbeddingBackward, inputs, { tableRows: table.shape[0] });
      }
      const chosen = cast(oneHot(flat, table.shape[0]), 'float32');
      return [product(chosen, asMatrix(dRows), 'a')];
    },
  );
}

export interface TokenEmbeddingArgs extends LayerArgs {
  vocabSize: number;
  hiddenSize: number;
  /** Deviation of the initial weights. Default 0.02. */
  initializerRange?: number;
  /** Makes the initial weights repeatable. */
  seed?: number;
}

/** ids [b, s] (int32, or whole numbers as float32) → [b, s, hiddenSize]. See embed for the gradient. */
export class TokenEmbedding extends layers.Layer {
  static get className(): string {
    return 'TokenEmbedding';
  }

  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly initializerRange: number;
  readonly seed?: number;
  table!: LayerVariable;

  constructor(args: TokenEmbeddingArgs) {
    super(args);
    const { vocabSize, hiddenSize } = args;
    checkPositive('TokenEmbedding', { vocabSize, hiddenSize });
    this.vocabSize = vocabSize;
    this.hiddenSize = hiddenSize;
    this.initializerRange = args.initializerRange ?? 0.02;
    this.seed = args.seed;
    this.supportsMasking = true;
  }

  override build(inputShape: Shape | Shape[]): void {
    const initializer = normal(this.initializerRange, this.seed, 0);
    this.table = this.addWeight('embeddings', [this.vocabSize, this.hiddenSize], 'float32', initializer);
    super.build(inputShape);
  }

  override computeOutputShape(inputShape: Shape | Shape[]): Shape {
    return [...firstShape(inputShape), this.hiddenSize];
  }

  override call(inputs: Tensor | Tensor[]): Tensor {
    return embed(this.table.read() as Tensor2D, first(inputs));
  }

  override getConfig(): serialization.ConfigDict {
    const { vocabSize, hiddenSize, initializerRange, seed } = this;
    const config = { ...super.getConfig(), vocabSize, hiddenSize, initializerRange };
    return seed === undefined ? config : { ...config, seed };
  }
}
serialization.registerClass(TokenEmbedding);
